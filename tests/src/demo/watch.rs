// SPDX-License-Identifier: Apache-2.0
//! What was seen since the last row of the table, and since the beginning, by clients.
//!
//! Owned by the story, read by the screen and the verdict.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::client::{Heard, Part};

/// What clients said about one replica.
#[derive(Clone, Debug, Default)]
pub(super) struct Served {
    /// Chunks with text.
    pub(super) tokens: u64,
    /// Medians of the time to first token, in seconds, each with the number of requests behind it.
    ttft: Vec<(f64, u64)>,
}

/// Failures that a client reported, and the span in which they happened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failed {
    pub(super) count: u64,
    pub(super) span: (Instant, Instant),
}

/// Sums over reports of intervals.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch {
    /// By name of the replica.
    served: BTreeMap<String, Served>,
    pub(super) failed: Vec<Failed>,
    pub(super) ok: u64,
}

impl Watch {
    /// Adds a report.
    pub(super) fn add(&mut self, heard: &Heard) {
        self.ok += heard.report.requests.ok;
        let count = heard.report.failures();
        if count > 0 {
            let span = heard.span;
            self.failed.push(Failed { count, span });
        }
        for (name, part) in &heard.report.replicas {
            self.served.entry(name.clone()).or_default().add(part);
        }
    }

    /// What a replica did for clients.
    pub(super) fn served(&self, replica: &str) -> Served {
        self.served.get(replica).cloned().unwrap_or_default()
    }

    /// Requests that failed.
    pub(super) fn failures(&self) -> u64 {
        self.failed.iter().map(|failed| failed.count).sum()
    }
}

impl Served {
    fn add(&mut self, part: &Part) {
        self.tokens += part.tokens;
        self.ttft.extend(part.ttft.map(|ttft| (ttft.p50, ttft.count)));
    }

    /// Median time to first token: the median of the reports' medians, weighted by their requests.
    pub(super) fn ttft(&self) -> Option<Duration> {
        let mut medians = self.ttft.clone();
        medians.sort_by(|one, other| one.0.total_cmp(&other.0));
        let half = medians.iter().map(|(_, count)| count).sum::<u64>().div_ceil(2);
        let mut seen = 0;
        let median = medians.into_iter().find(|(_, count)| {
            seen += count;
            seen >= half
        });
        median.map(|(seconds, _)| Duration::from_secs_f64(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_weighted_by_their_requests() {
        let served = Served {
            tokens: 0,
            ttft: vec![(0.3, 1), (0.1, 5), (0.2, 1)],
        };
        assert_eq!(served.ttft(), Some(Duration::from_millis(100)));
        assert_eq!(Served::default().ttft(), None);
    }
}
