// SPDX-License-Identifier: Apache-2.0
//! Distributions of time spans, recorded in nanoseconds and reported in seconds.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// A histogram that keeps `DIGITS` significant decimal digits; it allocates at the first record.
#[derive(Default)]
pub(super) struct Latency<const DIGITS: u8>(Option<Histogram<u64>>);

/// Percentiles in seconds; absent if nothing was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    /// Recorded spans.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Longest.
    pub max: f64,
}

impl<const DIGITS: u8> Latency<DIGITS> {
    pub(super) fn record(&mut self, span: Duration) {
        let nanoseconds = span.as_nanos().try_into().unwrap_or(u64::MAX);
        self.histogram()
            .record(nanoseconds)
            .expect("an auto-resizing histogram takes every value");
    }

    pub(super) fn merge(&mut self, other: &Self) {
        if let Some(other) = &other.0 {
            self.histogram()
                .add(other)
                .expect("an auto-resizing histogram takes every value");
        }
    }

    pub(super) fn percentiles(&self) -> Option<Percentiles> {
        let histogram = self.0.as_ref()?;
        let quantile = |q| seconds(histogram.value_at_quantile(q));
        Some(Percentiles {
            count: histogram.len(),
            mean: histogram.mean() / 1e9,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            max: seconds(histogram.max()),
        })
    }

    fn histogram(&mut self) -> &mut Histogram<u64> {
        self.0
            .get_or_insert_with(|| Histogram::new(DIGITS).expect("1 to 5 significant digits are valid"))
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}
