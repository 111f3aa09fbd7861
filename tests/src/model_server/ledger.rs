// SPDX-License-Identifier: Apache-2.0
//! The exchanges of a replica: counts for `/control`, and a line for `--truth` when one ends.
//!
//! Written by [`super::recorder`]. Invariant: `started = open +` the sum of all other counts.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use crate::journal::Journal;
use crate::truth::{Exchange, Outcome, Phase};

/// Counts exchanges and writes them down.
pub(super) struct Ledger {
    counts: Mutex<Counts>,
    journal: Option<Journal<Exchange>>,
}

/// Requests to `/v1/` since the start, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    pub(super) started: u64,
    pub(super) open: u64,
    pub(super) complete: u64,
    pub(super) half_closed: u64,
    pub(super) cancelled: Cancelled,
    pub(super) truncated: ByWay,
}

/// Given up by the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Cancelled {
    pub(super) prefill: ByWay,
    pub(super) decode: ByWay,
}

/// By how the connection ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct ByWay {
    pub(super) fin: u64,
    pub(super) rst: u64,
}

impl Ledger {
    /// `truth` is the file for the lines.
    pub(super) fn new(truth: Option<&Path>) -> anyhow::Result<Self> {
        Ok(Self {
            counts: Mutex::default(),
            journal: truth.map(Journal::create).transpose()?,
        })
    }

    pub(super) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn started(&self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.started += 1;
        counts.open += 1;
    }

    pub(super) fn ended(&self, exchange: Exchange) {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ended(exchange.outcome, exchange.phase());
        if let Some(journal) = &self.journal {
            journal.write(exchange);
        }
    }
}

impl Counts {
    fn ended(&mut self, outcome: Outcome, phase: Phase) {
        self.open -= 1;
        let cancelled = match phase {
            Phase::Prefill => &mut self.cancelled.prefill,
            Phase::Decode => &mut self.cancelled.decode,
        };
        *match outcome {
            Outcome::Complete => &mut self.complete,
            Outcome::HalfClose => &mut self.half_closed,
            Outcome::ClientFin => &mut cancelled.fin,
            Outcome::ClientRst => &mut cancelled.rst,
            Outcome::ServerFin => &mut self.truncated.fin,
            Outcome::ServerRst => &mut self.truncated.rst,
        } += 1;
    }
}
