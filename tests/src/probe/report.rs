// SPDX-License-Identifier: Apache-2.0
//! Parts that the reports of several commands share.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

/// How often each name occurred.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Counts(BTreeMap<String, u64>);

impl Counts {
    pub(super) fn count(&mut self, name: &(impl ToString + ?Sized)) {
        *self.0.entry(name.to_string()).or_default() += 1;
    }

    pub(super) fn merge(&mut self, other: Self) {
        for (name, count) in other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }

    #[cfg(test)]
    pub(super) fn get(&self, name: &(impl ToString + ?Sized)) -> u64 {
        self.0.get(&name.to_string()).copied().unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// A distribution of time spans, reported in nanoseconds with three significant digits.
pub(super) struct Nanoseconds(Histogram<u64>);

impl Default for Nanoseconds {
    fn default() -> Self {
        Self(Histogram::new(3).expect("three significant digits are valid"))
    }
}

impl Nanoseconds {
    pub(super) fn record(&mut self, span: Duration) {
        let nanoseconds = span.as_nanos().try_into().unwrap_or(u64::MAX);
        self.0
            .record(nanoseconds)
            .expect("an auto-resizing histogram takes every value");
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.0
            .add(&other.0)
            .expect("an auto-resizing histogram takes every value");
    }

    pub(super) fn median(&self) -> u64 {
        self.0.value_at_quantile(0.5)
    }
}

#[derive(Debug, Serialize)]
struct Shown {
    count: u64,
    mean: f64,
    p10: u64,
    p50: u64,
    p90: u64,
    p99: u64,
    max: u64,
}

impl From<&Nanoseconds> for Shown {
    fn from(Nanoseconds(spans): &Nanoseconds) -> Self {
        Self {
            count: spans.len(),
            mean: spans.mean(),
            p10: spans.value_at_quantile(0.1),
            p50: spans.value_at_quantile(0.5),
            p90: spans.value_at_quantile(0.9),
            p99: spans.value_at_quantile(0.99),
            max: spans.max(),
        }
    }
}

impl Serialize for Nanoseconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Shown::from(self).serialize(serializer)
    }
}

/// The summary; the counts of a histogram would fill pages.
impl fmt::Debug for Nanoseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shown::from(self).fmt(f)
    }
}
