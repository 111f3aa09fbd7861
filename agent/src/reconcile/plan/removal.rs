// SPDX-License-Identifier: Apache-2.0
//! What goes: frontends that are no longer desired, and what a former agent left that nobody wants. Part of `plan`.
//!
//! Invariant: what could not be removed is planned again, until it is.

use std::{collections::HashSet, mem};

use nodemesh_abi::ServiceKey;
use nodemesh_model::{Desired, FrontendName};

use super::{Emptied, Plan, rows_of};
use crate::reconcile::ledger::{BackendRows, Ledger, Programmed};

impl Ledger {
    /// Books out the frontends that are no longer desired; their ids stay out until their sockets are gone.
    pub(super) fn retire_undesired(&mut self, desired: &Desired) {
        // Both are in order of their names, so one walk over both is enough: most frontends are there and stay.
        let mut wanted = desired.frontends.keys().peekable();
        let mut undesired = |name: &&FrontendName| {
            while wanted.next_if(|next| next < name).is_some() {}
            wanted.peek() != Some(name)
        };
        let gone: Vec<FrontendName> = self.programmed.keys().filter(&mut undesired).cloned().collect();
        for name in gone {
            let Some(programmed) = self.programmed.remove(&name) else {
                continue;
            };
            self.dirty.remove(&name);
            self.stale.insert(programmed.frontend.key);
            self.endpoints.disclaim(&programmed);
            self.flows.disclaim(&programmed.frontend);
            self.retire_service(programmed.service_id, rows_of(&programmed), Some(&programmed));
        }
    }

    /// Books out what a former agent left and nobody wants.
    pub(super) fn retire_unclaimed(&mut self) {
        for (id, backends) in mem::take(&mut self.adopted) {
            self.retire_service(id, backends, None);
        }
    }

    fn retire_service(&mut self, service_id: u32, backends: BackendRows, programmed: Option<&Programmed>) {
        self.defunct.insert(service_id);
        self.outdated_tables.insert(service_id);
        for (backend, row) in backends.into_values() {
            self.retire(backend.id, row, programmed);
        }
    }

    /// Adds the service rows that lead to nobody who wants them.
    pub(super) fn plan_deletions(&mut self, plan: &mut Plan) {
        let rewritten = plan.flows.iter().map(|put| put.key).collect();
        let programmed = self.programmed.values().map(|programmed| &**programmed);
        plan.deleted_flows = self.flows.unwanted(programmed, &rewritten);
        if self.stale.is_empty() {
            return;
        }
        // An address may have moved from one frontend to another: then its row is rewritten instead.
        let rewritten: HashSet<&ServiceKey> = plan.services.iter().map(|put| &put.key).collect();
        let programmed = self.programmed.values();
        let claimed: HashSet<(ServiceKey, u32)> = programmed
            .map(|programmed| (programmed.frontend.key, programmed.service_id))
            .collect();
        let rows = &self.rows;
        self.stale.retain(|key| match rows.get(key) {
            Some(row) => !rewritten.contains(key) && !claimed.contains(&(*key, row.id)),
            None => false,
        });
        plan.deleted.extend(&self.stale);
    }

    /// Adds the tables of services that are gone, with their backends.
    pub(super) fn plan_emptied(&self, plan: &mut Plan) {
        for id in self.defunct.intersection(&self.outdated_tables) {
            self.emit_retired(*id, None, plan);
            plan.emptied.push(Emptied {
                service_id: *id,
                has_flow_table: self.flows.has_table(*id),
            });
        }
    }
}
