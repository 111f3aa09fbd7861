// SPDX-License-Identifier: Apache-2.0
//! How far what the meter told is from what was logged: of times, of histograms, of numbers of chunks.

use std::{fmt, time::Duration};

use nodemesh_abi::traffic::GAP_BOUNDS_NS;
use nodemesh_agent::api::Histogram;

use crate::noise::Noise;

/// Writes closer than this are one emission of the meter.
const EMISSION: Duration = Duration::from_millis(1);
/// An error of half of the requests at most.
const MEDIAN: Duration = Duration::from_millis(1);
/// An error of 99 of 100 requests at most.
const TAIL: Duration = Duration::from_millis(5);

/// Errors of one time of many requests.
#[derive(Clone, Copy, Debug)]
pub struct Errors {
    pub p50: Duration,
    pub p99: Duration,
}

impl Errors {
    /// Of pairs of what was told and what was so.
    pub fn of(pairs: impl IntoIterator<Item = (Duration, Duration)>) -> Self {
        let mut errors: Vec<Duration> = pairs.into_iter().map(|(told, known)| told.abs_diff(known)).collect();
        Self {
            p50: quantile(&mut errors, 0.5),
            p99: quantile(&mut errors, 0.99),
        }
    }

    /// Panics unless they are small beside what the machine adds.
    #[track_caller]
    pub fn assert_small(self, what: &str, noise: Noise) {
        assert!(
            self.p50 <= MEDIAN + noise.p50 && self.p99 <= TAIL + noise.p99,
            "{what}: errors of {self}; allowed are {MEDIAN:?} and {TAIL:?} above this machine's timer noise of {:?} and {:?}",
            noise.p50,
            noise.p99
        );
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(out, "{:.2} / {:.2}", ms(self.p50), ms(self.p99))
    }
}

/// The value that a share of the others is not above; zero without any.
pub fn quantile(values: &mut [Duration], share: f64) -> Duration {
    values.sort_unstable();
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
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

fn emissions(moments: &[u64], apart: Duration) -> u64 {
    let far = |pair: &&[u64]| Duration::from_nanos(pair[1] - pair[0]) >= apart;
    u64::from(!moments.is_empty()) + moments.windows(2).filter(far).count() as u64
}

/// Panics unless every observation is in the bucket of one of `gaps` or beside it.
#[track_caller]
pub fn assert_gaps(what: &str, told: &Histogram, gaps: &[Duration]) {
    let mut known = vec![0_u64; told.counts.len()];
    for gap in gaps {
        known[GAP_BOUNDS_NS.partition_point(|bound| u128::from(*bound) < gap.as_nanos())] += 1;
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
    assert!(beside, "{what}: gaps {:?}, not {known:?} within a bucket", told.counts);
}
