// SPDX-License-Identifier: Apache-2.0
//! One round of reconciliation: plan and apply, and once more where the first freed what others found no room for.
//!
//! Called by the reconciler's thread. Invariant: a round that is given the same again, after nothing failed, writes nothing.

use nodemesh_model::Desired;

use super::{
    admission::Assigned,
    apply::{Failures, apply, sweep},
    ledger::Ledger,
    plan::Rejected,
    rows::KernelRows,
};
use crate::datapath::maps::MapOpError;

/// What a round did.
#[derive(Debug, Default)]
pub struct Round {
    /// Rows and tables for what is configured, whether or not they could be written.
    pub writes: usize,
    /// Rows and tables of what is no longer configured, likewise.
    pub removals: usize,
    /// Frontends that found no room.
    pub rejected: Vec<Rejected>,
    /// Frontends that could not be written.
    pub failures: Failures,
    /// What could not be removed.
    pub left_over: Vec<MapOpError>,
}

impl Round {
    /// Whether another round may do what this one could not.
    pub fn is_unfinished(&self) -> bool {
        !self.failures.is_empty() || !self.left_over.is_empty()
    }
}

/// Makes the kernel's rows what `desired` says, as far as they can be written and there is room.
pub fn run(ledger: &mut Ledger, desired: &Desired, assigned: &Assigned, rows: &mut impl KernelRows) -> Round {
    let mut round = Round::default();
    let released = round.pass(ledger, desired, assigned, rows);
    if !round.rejected.is_empty() && released + sweep(ledger, rows) > 0 {
        round.pass(ledger, desired, assigned, rows);
    }
    round
}

impl Round {
    fn pass(
        &mut self,
        ledger: &mut Ledger,
        desired: &Desired,
        assigned: &Assigned,
        rows: &mut impl KernelRows,
    ) -> usize {
        let plan = ledger.plan(desired, assigned);
        let applied = apply(&plan, ledger, rows);
        self.writes += plan.writes();
        self.removals += plan.removals();
        self.rejected = plan.rejected;
        self.failures = applied.failures;
        self.left_over = applied.left_over;
        applied.released
    }
}
