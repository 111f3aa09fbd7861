// SPDX-License-Identifier: Apache-2.0
//! Carries a plan out, and frees what waits for its last socket. Called by the reconciler's thread.
//!
//! Invariant: one frontend's failure leaves every other one programmed; the failed one is marked for another attempt and what
//! refers to its unwritten rows is not written.

use std::collections::{BTreeMap, HashSet};

use nodemesh_abi::{Backend, Slot};
use nodemesh_model::FrontendName;

use super::{ledger::Ledger, plan::Plan, rows::KernelRows};
use crate::datapath::maps::MapOpError;

/// What could not be written, by frontend.
pub type Failures = BTreeMap<FrontendName, MapOpError>;

/// Writes `plan` and books what failed.
pub fn apply(plan: Plan, ledger: &mut Ledger, rows: &mut impl KernelRows) -> Failures {
    let mut run = Run {
        rows,
        failures: Failures::new(),
    };
    run.backends(&plan);
    run.tables(&plan);
    run.services(&plan);
    run.removals(&plan);
    for name in run.failures.keys() {
        ledger.mark_dirty(name);
    }
    run.failures
}

struct Run<'a, R> {
    rows: &'a mut R,
    failures: Failures,
}

impl<R: KernelRows> Run<'_, R> {
    /// Runs one write of a frontend, unless a former one failed.
    fn write(&mut self, name: &FrontendName, write: impl FnOnce(&mut R) -> Result<(), MapOpError>) {
        if self.failures.contains_key(name) {
            return;
        }
        if let Err(error) = write(self.rows) {
            self.failures.insert(name.clone(), error);
        }
    }

    fn backends(&mut self, plan: &Plan) {
        for put in &plan.backends {
            self.write(&put.frontend, |rows| {
                if put.fresh {
                    rows.reset_backend(put.id)?;
                }
                rows.put_backend(put.id, &put.row)
            });
        }
    }

    fn tables(&mut self, plan: &Plan) {
        for swap in plan.tables.iter().filter(|swap| swap.fresh) {
            self.write(&swap.frontend, |rows| rows.reset_service(swap.service_id));
        }
        let sound = |swap: &&super::plan::SwapTable| !self.failures.contains_key(&swap.frontend);
        let tables: Vec<(u32, Vec<Slot>)> = plan
            .tables
            .iter()
            .filter(sound)
            .map(|swap| (swap.service_id, swap.slots.clone()))
            .collect();
        if self.rows.swap_tables(&tables).is_ok() {
            return;
        }
        // Some table of the batch was refused: one at a time, to find out whose it was.
        for swap in &plan.tables {
            self.write(&swap.frontend, |rows| {
                rows.swap_tables(&[(swap.service_id, swap.slots.clone())])
            });
        }
    }

    fn services(&mut self, plan: &Plan) {
        for put in &plan.services {
            self.write(&put.frontend, |rows| rows.put_service(&put.key, &put.row));
        }
    }

    /// Removals belong to no frontend any more: one that fails leaves a row that leads nowhere, which is logged.
    fn removals(&mut self, plan: &Plan) {
        let report = |result: Result<(), MapOpError>| {
            if let Err(error) = result {
                tracing::warn!(%error, "could not remove a row");
            }
        };
        for key in &plan.deleted {
            report(self.rows.delete_service(key));
        }
        let emptied: Vec<(u32, Vec<Slot>)> = plan.emptied.iter().map(|id| (*id, vec![Slot::EMPTY])).collect();
        report(self.rows.swap_tables(&emptied));
        for (id, row) in &plan.retired {
            report(self.rows.put_backend(*id, row));
        }
    }
}

/// Frees the ids of retired backends on which no socket is counted any more; returns how many.
///
/// Called after the tables that named them were swapped, so no program can be about to count one.
pub fn sweep(ledger: &mut Ledger, rows: &mut impl KernelRows) -> usize {
    let idle: HashSet<u32> = ledger
        .retired()
        .iter()
        .map(|(id, _)| id)
        .filter(|id| rows.active(*id).is_ok_and(|active| active == 0))
        .collect();
    for id in &idle {
        if rows.put_backend(*id, &Backend::UNUSED).is_ok() {
            ledger.release(*id);
        }
    }
    idle.len()
}
