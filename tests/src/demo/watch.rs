// SPDX-License-Identifier: Apache-2.0
//! What was seen since the last row of the table, and since the beginning, by clients.
//!
//! Owned by the story, read by the screen and the verdict.

use std::{collections::BTreeMap, time::Instant};

use super::{client::Heard, latency::Seen};

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
    tokens: BTreeMap<String, u64>,
    /// By name of the replica.
    seen: BTreeMap<String, Seen>,
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
            *self.tokens.entry(name.clone()).or_default() += part.tokens;
        }
    }

    /// Adds what a client's log says about a replica.
    pub(super) fn add_seen(&mut self, replica: &str, seen: &Seen) {
        self.seen.entry(replica.to_owned()).or_default().merge(seen);
    }

    /// Chunks with text that clients had from a replica.
    pub(super) fn tokens(&self, replica: &str) -> u64 {
        self.tokens.get(replica).copied().unwrap_or_default()
    }

    /// What clients saw of a replica.
    pub(super) fn seen(&self, replica: &str) -> Seen {
        self.seen.get(replica).cloned().unwrap_or_default()
    }

    /// Requests that failed.
    pub(super) fn failures(&self) -> u64 {
        self.failed.iter().map(|failed| failed.count).sum()
    }
}
