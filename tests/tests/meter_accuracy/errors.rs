// SPDX-License-Identifier: Apache-2.0
//! How far what the meter told is from what was logged: of times, of histograms, of numbers of chunks.

use std::{fmt, time::Duration};

use nodemesh_agent::api::Histogram;

use crate::noise::Noise;

/// Writes closer than this are one emission of the meter.
const EMISSION: Duration = Duration::from_millis(1);
/// An error of half of the requests at most.
const MEDIAN: Duration = Duration::from_millis(1);
/// An error of 99 of 100 requests at most.
const TAIL: Duration = Duration::from_millis(5);

/// A time by the clock of an application, and the range in which the kernel may have seen it.
#[derive(Clone, Copy, Debug)]
pub struct Time {
    is: Duration,
    least: Duration,
    most: Duration,
}

impl Time {
    /// The kernel may have seen anything between this and the `others`.
    pub fn new(is: Duration, others: impl Iterator<Item = Duration>) -> Self {
        let exact = Self {
            is,
            least: is,
            most: is,
        };
        others.fold(exact, |time, other| Self {
            least: time.least.min(other),
            most: time.most.max(other),
            ..time
        })
    }

    /// How far `told` is from anything that the kernel may have seen.
    fn beyond(self, told: Duration) -> Duration {
        told.saturating_sub(self.most)
            .max(self.least.saturating_sub(told))
    }
}

/// Errors of one time of many requests.
#[derive(Clone, Copy, Debug)]
pub struct Errors {
    p50: Duration,
    p99: Duration,
    /// The same, of what is beyond the range.
    p99_beyond: Duration,
    count: usize,
}

impl Errors {
    /// Of pairs of what was told and what was so.
    pub fn of(pairs: impl IntoIterator<Item = (Duration, Time)>) -> Self {
        let pair = |(told, time): (Duration, Time)| (told.abs_diff(time.is), time.beyond(told));
        let (mut errors, mut beyond): (Vec<_>, Vec<_>) = pairs.into_iter().map(pair).unzip();
        Self {
            p50: quantile(&mut errors, 0.5),
            p99: quantile(&mut errors, 0.99),
            p99_beyond: quantile(&mut beyond, 0.99),
            count: errors.len(),
        }
    }

    /// Panics unless they are small beside what the machine adds.
    #[track_caller]
    pub fn assert_small(self, what: &str, noise: Noise) {
        assert!(
            self.p50 <= MEDIAN + noise.p50 && self.p99_beyond <= TAIL + noise.p99,
            "{what}: errors of {self}; allowed are {MEDIAN:?} and {TAIL:?} above what this machine adds: {noise:?}"
        );
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        if self.count == 0 {
            return out.write_str("not told");
        }
        write!(out, "{:.2} / {:.2}", ms(self.p50), ms(self.p99))?;
        if self.p99_beyond == self.p99 {
            return Ok(());
        }
        write!(out, " ({:.2})", ms(self.p99_beyond))
    }
}

/// The value that a share of the others is not above; zero without any.
pub fn quantile(values: &mut [Duration], share: f64) -> Duration {
    values.sort_unstable();
    let below = |at: usize| at as f64 / (values.len() as f64) < share;
    let rank = (1..=values.len()).find(|at| !below(*at));
    rank.map(|at| values[at - 1]).unwrap_or_default()
}

/// How many emissions these moments are: exactly as many as are told, unless some are about as far from each other as two of them
/// must be, give or take what the machine adds between a log's clock and the kernel's.
#[track_caller]
pub fn assert_chunks(what: &str, told: u64, moments: &[u64], noise: Noise) {
    let slack = (EMISSION / 2).max(noise.p99);
    let most = emissions(moments, EMISSION.saturating_sub(slack));
    let least = emissions(moments, EMISSION + slack);
    assert!(
        (least..=most).contains(&told),
        "{what}: {told} chunks, not {least} to {most} (stamps are taken as right within {slack:?}): {moments:?}"
    );
}

/// Times between emissions.
pub fn gaps(moments: &[u64]) -> Vec<Duration> {
    let mut begun: Vec<u64> = Vec::new();
    let mut latest = None;
    for &moment in moments {
        if latest.is_none_or(|latest| Duration::from_nanos(moment - latest) >= EMISSION) {
            begun.push(moment);
        }
        latest = Some(moment);
    }
    begun
        .windows(2)
        .map(|pair| Duration::from_nanos(pair[1] - pair[0]))
        .collect()
}

fn emissions(moments: &[u64], apart: Duration) -> u64 {
    let far = |pair: &&[u64]| Duration::from_nanos(pair[1] - pair[0]) >= apart;
    u64::from(!moments.is_empty()) + moments.windows(2).filter(far).count() as u64
}

/// Panics unless every observation is in the bucket of one of `times` or beside it. `bounds` are those of the buckets, in seconds.
#[track_caller]
pub fn assert_histogram(what: &str, told: &Histogram, bounds: &[f64], times: &[Duration]) {
    let mut known = vec![0_u64; told.counts.len()];
    for time in times {
        known[bounds.partition_point(|bound| *bound < time.as_secs_f64())] += 1;
    }
    let cumulated = |counts: &[u64]| -> Vec<u64> {
        let sums = counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        sums.collect()
    };
    let (is, should) = (cumulated(&told.counts), cumulated(&known));
    let beside = (1..is.len()).all(|at| is[at - 1] <= should[at] && should[at - 1] <= is[at]);
    assert!(beside, "{what}: {:?}, not {known:?} within a bucket", told.counts);
}
