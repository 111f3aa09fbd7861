// SPDX-License-Identifier: Apache-2.0
//! Carries a plan out, and frees what waits for its last socket. Called by `round`, on the reconciler's thread.
//!
//! Invariant: one frontend's failure leaves every other one programmed; the failed one is marked for another attempt and what
//! refers to its unwritten rows is not written.

use std::collections::{BTreeMap, HashSet};

use nodemesh_abi::{Backend, Endpoint, EndpointKey, Slot};
use nodemesh_model::FrontendName;

use super::{
    ledger::Ledger,
    plan::{Emptied, Plan, PutBackend, SwapTable},
    rows::{KernelRows, Tables},
};
use crate::datapath::maps::MapOpError;

/// What could not be written, by frontend.
pub type Failures = BTreeMap<FrontendName, MapOpError>;

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Applied {
    /// What could not be written.
    pub failures: Failures,
    /// What could not be removed, and endpoints that could not be written.
    pub left_over: Vec<MapOpError>,
    /// Number of service ids that became free.
    pub released: usize,
}

/// Writes `plan` and books what was done and what failed.
pub fn apply(plan: &Plan, ledger: &mut Ledger, rows: &mut impl KernelRows) -> Applied {
    let mut run = Run {
        rows,
        ledger,
        applied: Applied::default(),
        held: HashSet::new(),
    };
    run.retire(plan);
    run.deleted_endpoints(plan);
    run.backends(plan);
    run.endpoints(plan);
    run.tables(plan);
    run.services(plan);
    run.flows(plan);
    run.deletions(plan);
    run.emptied(plan);
    let Run { mut applied, .. } = run;
    ledger.dirty.extend(applied.failures.keys().cloned());
    applied.released = ledger.release_services();
    applied
}

struct Run<'a, R> {
    rows: &'a mut R,
    ledger: &'a mut Ledger,
    applied: Applied,
    /// Services that are gone and whose tables must stay for now.
    held: HashSet<u32>,
}

impl<R: KernelRows> Run<'_, R> {
    /// Runs one write of a frontend, unless a former one failed; whether it was done.
    fn write(&mut self, name: &FrontendName, write: impl FnOnce(&mut R) -> Result<(), MapOpError>) -> bool {
        if self.applied.failures.contains_key(name) {
            return false;
        }
        write(self.rows)
            .map_err(|error| self.applied.failures.insert(name.clone(), error))
            .is_ok()
    }

    /// Runs one write whose failure is no frontend's; whether it was done.
    fn remove(&mut self, write: impl FnOnce(&mut R) -> Result<(), MapOpError>) -> bool {
        write(self.rows)
            .map_err(|error| self.applied.left_over.push(error))
            .is_ok()
    }

    fn retire(&mut self, plan: &Plan) {
        for retire in &plan.retired {
            let put = |rows: &mut R| rows.put_backend(retire.id, &retire.row);
            let done = match &retire.frontend {
                Some(name) => self.write(name, put),
                None => self.remove(put),
            };
            if done {
                self.ledger.retired.mark_written(retire.id);
            } else {
                self.held.insert(retire.row.service);
            }
        }
    }

    fn backends(&mut self, plan: &Plan) {
        let new: Vec<&PutBackend> = plan.backends.iter().filter(|put| put.fresh).collect();
        // One at a time only where it has to be found out whose write was refused.
        let is_written = new.len() > 1 && self.rows.put_new_backends(&new).is_ok_and(|done| done);
        for put in &plan.backends {
            let done = is_written && put.fresh
                || self.write(&put.frontend, |rows| {
                    if put.fresh {
                        rows.reset_backend(put.id)?;
                    }
                    if put.fresh_traffic {
                        rows.reset_traffic(put.row.traffic)?;
                    }
                    rows.put_backend(put.id, &put.row)
                });
            if done {
                self.ledger.unwritten_backends.remove(&put.id);
                self.ledger.pairs.mark_written(put.row.traffic);
            }
        }
    }

    fn deleted_endpoints(&mut self, plan: &Plan) {
        for key in &plan.endpoints.deleted {
            if self.remove(|rows| rows.delete_endpoint(key)) {
                self.ledger.endpoints.remove(key);
            }
        }
    }

    /// Writes endpoints. One that cannot be written keeps nobody from being served: its connections are not metered.
    fn endpoints(&mut self, plan: &Plan) {
        let Ledger {
            unwritten_backends,
            pairs,
            ..
        } = &*self.ledger;
        // Those of a frontend that failed are tried again with it.
        let is_ready =
            |row: &Endpoint| !unwritten_backends.contains(&row.backend) && !pairs.is_unwritten(row.traffic);
        let ready = plan.endpoints.put.iter().filter(|(_, row)| is_ready(row));
        let ready: Vec<(EndpointKey, Endpoint)> = ready.map(|(key, row)| (*key, *row)).collect();
        let is_written = ready.len() > 1 && self.rows.put_endpoints(&ready).is_ok_and(|done| done);
        for (key, row) in &ready {
            if is_written || self.remove(|rows| rows.put_endpoint(key, row)) {
                self.ledger.endpoints.insert(*key, *row);
            }
        }
    }

    fn tables(&mut self, plan: &Plan) {
        for swap in plan.tables.iter().filter(|swap| swap.fresh) {
            if self.write(&swap.frontend, |rows| rows.reset_service(swap.service_id)) {
                self.ledger.unwritten_services.remove(&swap.service_id);
            }
        }
        let sound = plan
            .tables
            .iter()
            .filter(|swap| !self.applied.failures.contains_key(&swap.frontend));
        let tables: Vec<Tables<'_>> = sound.map(tables_of).collect();
        if self.rows.swap_tables(&tables).is_ok() {
            self.swapped(tables.iter().map(|swap| swap.service_id));
            return;
        }
        // Some table of the batch was refused: one at a time, to find out whose it was.
        for swap in &plan.tables {
            if self.write(&swap.frontend, |rows| rows.swap_tables(&[tables_of(swap)])) {
                self.swapped([swap.service_id]);
            }
        }
    }

    fn services(&mut self, plan: &Plan) {
        for put in &plan.services {
            if self.write(&put.frontend, |rows| rows.put_service(&put.key, &put.row)) {
                self.ledger.rows.insert(put.key, put.row);
            }
        }
    }

    fn flows(&mut self, plan: &Plan) {
        for put in &plan.flows {
            if self.write(&put.frontend, |rows| rows.put_flow_service(&put.key, &put.row)) {
                self.ledger.flows.rows.insert(put.key, put.row);
            }
        }
        for key in &plan.deleted_flows {
            if self.remove(|rows| rows.delete_flow_service(key)) {
                self.ledger.flows.rows.remove(key);
            }
        }
    }

    fn deletions(&mut self, plan: &Plan) {
        for key in &plan.deleted {
            if self.remove(|rows| rows.delete_service(key)) {
                self.ledger.rows.remove(key);
            }
        }
    }

    /// Empties the tables of services that are gone. One that a row still names keeps its backends for the clients of that
    /// address until the row is written by its new owner, or deleted.
    fn emptied(&mut self, plan: &Plan) {
        let Ledger {
            rows, flows, tiered, ..
        } = &*self.ledger;
        let ready = |emptied: &&Emptied| {
            let id = emptied.service_id;
            !self.held.contains(&id) && !rows.names(id) && !flows.rows.names(id)
        };
        let empty: Vec<(&Emptied, Vec<Vec<Slot>>)> = plan
            .emptied
            .iter()
            .filter(ready)
            .map(|emptied| {
                let count = tiered.get(&emptied.service_id).map_or(1, |count| *count);
                (emptied, vec![vec![Slot::EMPTY]; count])
            })
            .collect();
        let tables: Vec<Tables<'_>> = empty
            .iter()
            .map(|(emptied, tiers)| Tables {
                service_id: emptied.service_id,
                tiers,
                flow: emptied.has_flow_table.then_some(&[Slot::EMPTY]),
            })
            .collect();
        if self.rows.swap_tables(&tables).is_ok() {
            self.emptied_tables(&tables);
            return;
        }
        for tables in tables {
            if self.remove(|rows| rows.swap_tables(&[tables])) {
                self.emptied_tables(&[tables]);
            }
        }
    }

    fn emptied_tables(&mut self, tables: &[Tables<'_>]) {
        for swap in tables {
            self.ledger.flows.emptied(swap.service_id);
        }
        self.swapped(tables.iter().map(|swap| swap.service_id));
    }

    /// Tables were swapped: no program uses the former ones any more.
    fn swapped(&mut self, ids: impl IntoIterator<Item = u32>) {
        for id in ids {
            self.ledger.outdated_tables.remove(&id);
        }
    }
}

fn tables_of(swap: &SwapTable) -> Tables<'_> {
    Tables {
        service_id: swap.service_id,
        tiers: &swap.tiers,
        flow: swap.flow.as_deref(),
    }
}

/// Frees the ids of retired backends on which no socket is counted any more, and of services whose last backend that was;
/// returns how many.
///
/// A backend that a table or an endpoint may still name is left alone, since a program could be about to count a socket on it.
pub fn sweep(ledger: &mut Ledger, rows: &mut impl KernelRows) -> usize {
    let idle: Vec<u32> = ledger
        .unreachable()
        .filter(|(id, row)| rows.is_used(*id, row.traffic).is_ok_and(|used| !used))
        .map(|(id, _)| id)
        .collect();
    let mut freed = 0;
    for id in idle {
        // A row that cannot be cleared is tried again by the next sweep.
        if rows.put_backend(id, &Backend::UNUSED).is_ok() {
            ledger.release(id);
            freed += 1;
        }
    }
    freed + ledger.release_services()
}
