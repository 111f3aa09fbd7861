// SPDX-License-Identifier: Apache-2.0
//! Times to first token and between tokens of one replica, as the kernels measured them and as the clients saw them.
//!
//! Used by the stage, which reads them, and by the screen and the verdict. Invariant: both are reduced to the same three numbers; those
//! of the kernel are exact in the mean, and within a bucket of its histograms in the quantiles.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use nodemesh_agent::{
    api::{Histogram, Traffic},
    quantile::quantile,
};

use crate::load::observation::Observation;

/// Relative difference up to which two times agree.
const SHARE: f64 = 0.1;
/// Difference up to which two means agree, seconds: one tick of a timer.
const TICK: f64 = 0.001;

/// What the kernels counted of one replica from one vantage.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    pub(super) in_flight: u64,
    first: Histogram,
    gap: Histogram,
}

/// What the clients saw of one replica, seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    first: Vec<f64>,
    gaps: Vec<f64>,
}

/// A distribution in short, seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    mean: f64,
    p50: f64,
    p99: f64,
}

/// Bounds of the kernels' histograms, seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Bounds {
    pub(super) first: Vec<f64>,
    pub(super) gap: Vec<f64>,
}

impl Counted {
    /// What was counted for one address of the replica.
    pub(super) fn of(row: &Traffic) -> Self {
        Self {
            in_flight: row.requests_in_flight,
            first: row.time_to_first_token.clone(),
            gap: row.inter_token_latency.clone(),
        }
    }

    /// Adds what was counted for another address of the replica.
    pub(super) fn add(&mut self, more: &Self) {
        self.in_flight += more.in_flight;
        add(&mut self.first, &more.first);
        add(&mut self.gap, &more.gap);
    }

    /// What was counted since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        for (now, before) in [(&mut since.first, &before.first), (&mut since.gap, &before.gap)] {
            now.sum -= before.sum;
            let earlier = before.counts.iter();
            now.counts
                .iter_mut()
                .zip(earlier)
                .for_each(|(now, before)| *now = now.saturating_sub(*before));
        }
        since
    }

    /// Time to first token.
    pub(super) fn first(&self, bounds: &Bounds) -> Option<Figures> {
        figures(&bounds.first, &self.first)
    }

    /// Time between two tokens.
    pub(super) fn gap(&self, bounds: &Bounds) -> Option<Figures> {
        figures(&bounds.gap, &self.gap)
    }
}

fn add(sum: &mut Histogram, more: &Histogram) {
    sum.sum += more.sum;
    sum.counts.resize(sum.counts.len().max(more.counts.len()), 0);
    let counts = sum.counts.iter_mut().zip(&more.counts);
    counts.for_each(|(sum, more)| *sum += more);
}

fn figures(bounds: &[f64], histogram: &Histogram) -> Option<Figures> {
    let count: u64 = histogram.counts.iter().sum();
    Some(Figures {
        p50: quantile(bounds, &histogram.counts, 0.5)?,
        p99: quantile(bounds, &histogram.counts, 0.99)?,
        mean: histogram.sum / count as f64,
    })
}

impl Seen {
    /// Adds an exchange.
    fn add(&mut self, exchange: &Observation) {
        self.first.extend(exchange.ttft().map(|time| time.as_secs_f64()));
        self.gaps
            .extend(exchange.gaps().iter().map(std::time::Duration::as_secs_f64));
    }

    /// Adds what another client saw.
    pub(super) fn merge(&mut self, other: &Self) {
        self.first.extend(&other.first);
        self.gaps.extend(&other.gaps);
    }

    /// Time to first token.
    pub(super) fn first(&self) -> Option<Figures> {
        Figures::of(&self.first)
    }

    /// Time between two tokens.
    pub(super) fn gap(&self) -> Option<Figures> {
        Figures::of(&self.gaps)
    }
}

impl Figures {
    fn of(times: &[f64]) -> Option<Self> {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at =
            |percent: usize| sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)));
        Some(Self {
            p50: *at(50)?,
            p99: *at(99)?,
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
        })
    }

    /// Whether what a kernel measured at the clients' ends is what they saw: means within 10 % or a millisecond, quantiles within 10 %
    /// or in the same or neighbouring buckets of `bounds`.
    pub(super) fn agrees(&self, client: &Self, bounds: &[f64]) -> bool {
        self.is_usual(client, bounds)
            && self.is_no_longer(client, bounds)
            && client.mean <= self.mean * (1.0 + SHARE) + TICK
            && bucket(bounds, client.p99) <= bucket(bounds, self.p99) + 1
    }

    /// Whether what a kernel measured at the server's end is what clients saw, but for the way between and their own delays: the
    /// median agrees, mean and 99th percentile are no longer.
    pub(super) fn agrees_but_for_the_way(&self, client: &Self, bounds: &[f64]) -> bool {
        self.is_usual(client, bounds) && self.is_no_longer(client, bounds)
    }

    fn is_usual(&self, client: &Self, bounds: &[f64]) -> bool {
        (self.p50 - client.p50).abs() <= SHARE * client.p50
            || bucket(bounds, self.p50).abs_diff(bucket(bounds, client.p50)) <= 1
    }

    fn is_no_longer(&self, client: &Self, bounds: &[f64]) -> bool {
        self.mean <= client.mean * (1.0 + SHARE) + TICK
            && (self.p99 <= client.p99 * (1.0 + SHARE)
                || bucket(bounds, self.p99) <= bucket(bounds, client.p99) + 1)
    }
}

/// Index of the bucket that counts `value`.
fn bucket(bounds: &[f64], value: f64) -> usize {
    bounds.partition_point(|bound| *bound < value)
}

impl fmt::Display for Figures {
    /// Mean, median and 99th percentile in milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [mean, p50, p99] = [self.mean, self.p50, self.p99].map(|seconds| seconds * 1e3);
        if mean < 100.0 {
            write!(f, "{mean:.1} {p50:.1} {p99:.1}")
        } else {
            write!(f, "{mean:.0} {p50:.0} {p99:.0}")
        }
    }
}

/// The log of a client, read as it grows.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    /// Bytes that were read.
    read: u64,
}

impl Log {
    /// A log that may not be there yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, read: 0 }
    }

    /// What came since the last call, by replica.
    pub(super) fn news(&mut self) -> Result<BTreeMap<String, Seen>> {
        let mut news: BTreeMap<String, Seen> = BTreeMap::new();
        let Ok(mut file) = File::open(&self.path) else {
            return Ok(news);
        };
        let mut text = String::new();
        file.seek(SeekFrom::Start(self.read))
            .and_then(|_| file.read_to_string(&mut text))
            .with_context(|| format!("read {}", self.path.display()))?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        for line in text[..whole].lines() {
            let exchange: Observation =
                serde_json::from_str(line).with_context(|| format!("read {}", self.path.display()))?;
            if let Some(replica) = &exchange.replica {
                news.entry(replica.clone()).or_default().add(&exchange);
            }
        }
        self.read += whole as u64;
        Ok(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: [f64; 4] = [0.01, 0.025, 0.05, 0.075];

    fn figures(times: [f64; 3]) -> Figures {
        let [mean, p50, p99] = times;
        Figures { mean, p50, p99 }
    }

    #[test]
    fn a_bucket_apart_agrees_and_two_do_not() {
        let client = figures([0.020, 0.020, 0.024]);
        assert!(figures([0.021, 0.0175, 0.030]).agrees(&client, &BOUNDS));
        assert!(!figures([0.021, 0.0175, 0.060]).agrees(&client, &BOUNDS));
        assert!(!figures([0.024, 0.0175, 0.024]).agrees(&client, &BOUNDS));
        let early = figures([0.015, 0.0175, 0.009]);
        assert!(early.agrees_but_for_the_way(&client, &BOUNDS) && !early.agrees(&client, &BOUNDS));
        assert!(!figures([0.021, 0.0175, 0.060]).agrees_but_for_the_way(&client, &BOUNDS));
    }

    #[test]
    fn quantiles_of_what_clients_saw_are_exact() {
        let times: Vec<f64> = (1..=100).map(f64::from).collect();
        let seen = Figures::of(&times).unwrap();
        assert!(
            (seen.p50 - 51.0).abs() < 1e-9
                && (seen.p99 - 100.0).abs() < 1e-9
                && (seen.mean - 50.5).abs() < 1e-9
        );
        assert!(Figures::of(&[]).is_none());
    }

    #[test]
    fn a_span_holds_what_its_end_has_more_than_its_beginning() {
        let histogram = |counts: &[u64], sum| Histogram {
            counts: counts.to_vec(),
            sum,
        };
        let counted = |counts, sum| Counted {
            gap: histogram(counts, sum),
            ..Counted::default()
        };
        let since = counted(&[0, 30, 0, 0, 0], 0.6).since(&counted(&[0, 10, 0, 0, 0], 0.2));
        let bounds = Bounds {
            first: Vec::new(),
            gap: BOUNDS.to_vec(),
        };
        let gap = since.gap(&bounds).unwrap();
        assert!((gap.mean - 0.02).abs() < 1e-9 && (gap.p50 - 0.0175).abs() < 1e-9);
    }
}
