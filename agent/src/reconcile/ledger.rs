// SPDX-License-Identifier: Apache-2.0
//! The agent's book of what is in the kernel: which frontend has which service id, which backend which id. Written by
//! `plan` and `apply`, rebuilt from the pinned maps at start by [`Ledger::adopt`].
//!
//! Invariant: a backend id is given back only when the kernel counts no socket on it, and a service id only when no
//! backend id of it is left.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use nodemesh_abi::{Backend, Ip16, Port, Service, ServiceKey};
use nodemesh_model::{Frontend, FrontendName};

use super::{
    ids::IdPool,
    retired::{Retired, RetiredBackends},
};

/// A backend's place in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendId {
    /// Index into `backends`.
    pub id: u32,
    /// Incarnation of that id.
    pub generation: u32,
}

/// A frontend as it is programmed.
#[derive(Debug)]
pub struct Programmed {
    /// Its name.
    pub name: FrontendName,
    /// What was compiled.
    pub frontend: Arc<Frontend>,
    /// Index into `slot_tables` and `service_states`.
    pub service_id: u32,
    /// Ids of `frontend.backends`, in the same order.
    pub backends: Vec<BackendId>,
}

/// A service row that a former agent left, not yet matched with a frontend.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// The row.
    pub row: Service,
    /// Its backends.
    pub backends: HashMap<(Ip16, Port), (BackendId, Backend)>,
}

/// The book.
#[derive(Debug)]
pub struct Ledger {
    pub(super) programmed: BTreeMap<FrontendName, Arc<Programmed>>,
    pub(super) retired: RetiredBackends,
    pub(super) adopted: HashMap<ServiceKey, Adopted>,
    /// Frontends whose last write failed: written again by the next plan whatever has changed.
    pub(super) dirty: BTreeSet<FrontendName>,
    /// Service ids without a frontend, waiting for their last backend.
    pub(super) defunct: BTreeSet<u32>,
    pub(super) service_ids: IdPool,
    pub(super) backend_ids: IdPool,
    next_generation: u32,
}

impl Ledger {
    /// The book of an empty kernel.
    pub fn new(service_capacity: u32, backend_capacity: u32) -> Self {
        Self {
            programmed: BTreeMap::new(),
            retired: RetiredBackends::default(),
            adopted: HashMap::new(),
            dirty: BTreeSet::new(),
            defunct: BTreeSet::new(),
            service_ids: IdPool::new(service_capacity),
            backend_ids: IdPool::new(backend_capacity),
            next_generation: 1,
        }
    }

    /// The book of a kernel that a former agent left: `services` are all service rows, `backends` all rows in use.
    ///
    /// Backends of no service (their agent died between two writes, or they were draining) are retired.
    pub fn adopt(
        service_capacity: u32,
        backend_capacity: u32,
        services: impl IntoIterator<Item = (ServiceKey, Service)>,
        backends: impl IntoIterator<Item = (u32, Backend)>,
    ) -> Self {
        let mut ledger = Self::new(service_capacity, backend_capacity);
        let mut keys = HashMap::new();
        for (key, row) in services {
            ledger.service_ids.claim(row.id);
            keys.insert(row.id, key);
            ledger.adopted.insert(
                key,
                Adopted {
                    row,
                    backends: HashMap::new(),
                },
            );
        }
        for (id, row) in backends {
            ledger.backend_ids.claim(id);
            ledger.next_generation = ledger.next_generation.max(row.generation.wrapping_add(1)).max(1);
            let place = BackendId {
                id,
                generation: row.generation,
            };
            let adopted = keys.get(&row.service).and_then(|key| ledger.adopted.get_mut(key));
            match adopted {
                Some(adopted) if !adopted.backends.contains_key(&(row.addr, row.port)) => {
                    adopted.backends.insert((row.addr, row.port), (place, row));
                }
                _ => {
                    ledger.retired.insert(id, Retired { service: None, row });
                    if !keys.contains_key(&row.service) && ledger.defunct.insert(row.service) {
                        ledger.service_ids.claim(row.service);
                    }
                }
            }
        }
        ledger
    }

    /// A new incarnation number.
    pub(super) fn generation(&mut self) -> u32 {
        let generation = self.next_generation;
        self.next_generation = generation.checked_add(1).unwrap_or(1);
        generation
    }

    /// Frontends that are programmed.
    pub fn programmed(&self) -> impl Iterator<Item = &Arc<Programmed>> {
        self.programmed.values()
    }

    /// Backends that wait for their last socket.
    pub fn retired(&self) -> &RetiredBackends {
        &self.retired
    }

    /// Service ids and backend ids: (in use, capacity) of each.
    pub fn usage(&self) -> [(u32, u32); 2] {
        [&self.service_ids, &self.backend_ids].map(|pool| (pool.in_use(), pool.capacity()))
    }

    /// Marks a frontend for another attempt.
    pub(super) fn mark_dirty(&mut self, name: &FrontendName) {
        self.dirty.insert(name.clone());
    }

    /// A retired backend's last socket is gone: its id, and perhaps its service's id, are free again.
    pub(super) fn release(&mut self, backend_id: u32) {
        let Some(retired) = self.retired.remove(backend_id) else {
            return;
        };
        self.backend_ids.give_back(backend_id);
        let service_id = retired.row.service;
        if !self.retired.has_service(service_id) && self.defunct.remove(&service_id) {
            self.service_ids.give_back(service_id);
        }
    }
}
