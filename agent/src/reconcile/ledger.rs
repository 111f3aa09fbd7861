// SPDX-License-Identifier: Apache-2.0
//! The agent's book of what is in the kernel: which frontend has which service id, which backend which id. Written by
//! `plan` and `apply`, rebuilt from the pinned maps at start by [`Ledger::adopt`].
//!
//! Invariant: a backend id is given back, with its pair of rows in `traffic`, only when neither a table nor an endpoint names it
//! and the kernel counts no socket on it; a service id only when no service row names it and no backend id of it is left.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use nodemesh_abi::{
    Backend, BackendFlags, Endpoint, EndpointKey, FlowService, Ip16, Port, Service, ServiceKey,
    traffic::SHARED_PAIR,
};
use nodemesh_model::{Frontend, FrontendName};

use super::{
    endpoints::Endpoints,
    flows::Flows,
    ids::IdPool,
    pairs::TrafficPairs,
    retired::{Retired, RetiredBackends},
    service_rows::ServiceRows,
};

/// A backend's place in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendId {
    /// Index into `backends`.
    pub id: u32,
    /// Incarnation of that id.
    pub generation: u32,
    /// Pair of rows in `traffic`; [`SHARED_PAIR`] if it has none of its own.
    pub traffic: u32,
    /// Since when it takes connections, nanoseconds of `CLOCK_MONOTONIC`.
    pub since_ns: u64,
}

/// How many ids there are of each kind.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Service ids.
    pub services: u32,
    /// Backend ids.
    pub backends: u32,
    /// Pairs of rows in `traffic`, the shared one included.
    pub traffic_pairs: u32,
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
    /// Index into `rules`.
    pub rules: u32,
    /// Index into `policies`.
    pub policy: u32,
}

/// The backends of one service, by endpoint, each with the row that it has or is about to have.
pub(super) type BackendRows = BTreeMap<(Ip16, Port), (BackendId, Backend)>;

/// The book.
#[derive(Debug)]
pub struct Ledger {
    pub(super) programmed: BTreeMap<FrontendName, Arc<Programmed>>,
    pub(super) retired: RetiredBackends,
    /// Service ids that a former agent left, with their backends, not yet matched with a frontend.
    pub(super) adopted: BTreeMap<u32, BackendRows>,
    /// Frontends whose last write failed: written again by the next plan whatever has changed.
    pub(super) dirty: BTreeSet<FrontendName>,
    /// Service ids without a frontend, waiting for their last row and backend.
    pub(super) defunct: BTreeSet<u32>,
    /// How many tables a service id has at most, if that is more than one.
    pub(super) tiered: HashMap<u32, usize>,
    /// Service ids whose slot table may still name retired backends.
    pub(super) outdated_tables: BTreeSet<u32>,
    /// Service rows as they are in the kernel.
    pub(super) rows: ServiceRows,
    /// Keys of service rows that perhaps nobody wants.
    pub(super) stale: BTreeSet<ServiceKey>,
    /// Backend ids that were handed out but not written: their counters are those of the id's former owner.
    pub(super) unwritten_backends: HashSet<u32>,
    /// The same for service ids.
    pub(super) unwritten_services: HashSet<u32>,
    pub(super) service_ids: IdPool,
    pub(super) backend_ids: IdPool,
    pub(super) pairs: TrafficPairs,
    pub(super) endpoints: Endpoints,
    pub(super) flows: Flows,
    next_generation: u32,
}

impl Ledger {
    /// The book of an empty kernel.
    pub fn new(room: Room) -> Self {
        Self {
            programmed: BTreeMap::new(),
            retired: RetiredBackends::default(),
            adopted: BTreeMap::new(),
            dirty: BTreeSet::new(),
            defunct: BTreeSet::new(),
            tiered: HashMap::new(),
            outdated_tables: BTreeSet::new(),
            rows: ServiceRows::default(),
            stale: BTreeSet::new(),
            unwritten_backends: HashSet::new(),
            unwritten_services: HashSet::new(),
            service_ids: IdPool::new(room.services),
            backend_ids: IdPool::new(room.backends),
            pairs: TrafficPairs::new(room.traffic_pairs),
            endpoints: Endpoints::default(),
            flows: Flows::default(),
            next_generation: 1,
        }
    }

    /// The book of a kernel that a former agent left: `services` are all service rows, `backends` all rows in use, `endpoints`
    /// all endpoints.
    ///
    /// Backends of no service (their agent died between two writes, or they were draining) are retired.
    pub fn adopt(
        room: Room,
        services: impl IntoIterator<Item = (ServiceKey, Service)>,
        backends: impl IntoIterator<Item = (u32, Backend)>,
        endpoints: impl IntoIterator<Item = (EndpointKey, Endpoint)>,
    ) -> Self {
        let mut ledger = Self::new(room);
        ledger.endpoints = Endpoints::adopt(endpoints);
        for (key, row) in services {
            if ledger.service_ids.claim(row.id) {
                // Two rows may name one id: the former agent died while it moved a service to another address.
                ledger.adopted.entry(row.id).or_default();
            }
            if row.tiers > 0 {
                ledger.tiered.insert(row.id, usize::from(row.tiers) + 1);
            }
            ledger.rows.insert(key, row);
            ledger.stale.insert(key);
        }
        for (id, row) in backends {
            if ledger.backend_ids.claim(id) {
                ledger.adopt_backend(id, row);
            }
        }
        ledger
    }

    /// Adds what a former agent left of the packet path: all rows of `flow_services`, and the services with a table in `flow_tables`.
    pub fn adopt_flows(
        &mut self,
        rows: impl IntoIterator<Item = (ServiceKey, FlowService)>,
        tabled: impl IntoIterator<Item = u32>,
    ) {
        self.flows = Flows::adopt(rows, tabled);
        for id in self.flows.rows.ids() {
            // The former agent died after it had taken the service's own row away, or before it had written it.
            if !self.adopted.contains_key(&id) && self.service_ids.claim(id) {
                self.defunct.insert(id);
                self.outdated_tables.insert(id);
            }
        }
    }

    fn adopt_backend(&mut self, id: u32, row: Backend) {
        self.next_generation = self.next_generation.max(following(row.generation));
        let traffic = if self.pairs.adopt(row.traffic) {
            row.traffic
        } else {
            SHARED_PAIR
        };
        let place = BackendId {
            id,
            generation: row.generation,
            traffic,
            since_ns: row.since_ns,
        };
        let endpoint = (row.addr, row.port);
        let own = Backend { traffic, ..row };
        match self.adopted.get_mut(&row.service) {
            Some(backends) if !backends.contains_key(&endpoint) => {
                backends.insert(endpoint, (place, row));
            }
            Some(_) => self.retire(id, own, None),
            None => {
                if self.service_ids.claim(row.service) {
                    self.defunct.insert(row.service);
                }
                self.retire(id, own, None);
            }
        }
    }

    /// Moves a backend to those that wait for their last socket.
    pub(super) fn retire(&mut self, id: u32, row: Backend, programmed: Option<&Programmed>) {
        let row = Backend {
            flags: row.flags & !BackendFlags::AVAILABLE,
            ..row
        };
        let service = programmed.map(|programmed| programmed.frontend.service.clone());
        if row.service < self.service_ids.capacity() {
            self.outdated_tables.insert(row.service);
        }
        self.retired.insert(
            id,
            Retired {
                service,
                row,
                written: false,
            },
        );
    }

    /// A new incarnation number.
    pub(super) fn generation(&mut self) -> u32 {
        let generation = self.next_generation;
        self.next_generation = following(generation);
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

    /// Rows of `traffic` and of `endpoints`: (in use, capacity) of each.
    pub fn meter_usage(&self) -> [(u32, u32); 2] {
        let (pairs, most) = self.pairs.usage();
        let endpoints = self.endpoints.len() as u32;
        [(pairs * 2, most * 2), (endpoints, self.backend_ids.capacity())]
    }

    /// Retired backends that neither a table nor an endpoint names any more, with their rows: only sockets that were placed or
    /// accepted before keep them.
    pub(super) fn unreachable(&self) -> impl Iterator<Item = (u32, &Backend)> {
        let is_named = |(id, retired): &(u32, &Retired)| {
            self.outdated_tables.contains(&retired.row.service) || self.endpoints.names(*id, &retired.row)
        };
        let unreachable = self.retired.iter().filter(move |retired| !is_named(retired));
        unreachable.map(|(id, retired)| (id, &retired.row))
    }

    /// A retired backend's last socket is gone and its row is cleared: its id and its pair are free again.
    pub(super) fn release(&mut self, backend_id: u32) {
        if let Some(retired) = self.retired.remove(backend_id) {
            self.pairs.give_back(retired.row.traffic);
            self.unwritten_backends.remove(&backend_id);
            self.backend_ids.give_back(backend_id);
        }
    }

    /// Gives back the ids of services of which nothing is left; returns how many.
    ///
    /// A table is emptied, and so no longer outdated, only once no service row names it.
    pub(super) fn release_services(&mut self) -> usize {
        let busy = |id: &u32| self.outdated_tables.contains(id) || self.retired.has_service(*id);
        let free: Vec<u32> = self.defunct.iter().filter(|id| !busy(id)).copied().collect();
        for id in &free {
            self.defunct.remove(id);
            self.unwritten_services.remove(id);
            self.service_ids.give_back(*id);
        }
        free.len()
    }
}

/// The incarnation number after `generation`; 0 is for unused rows.
fn following(generation: u32) -> u32 {
    generation.checked_add(1).unwrap_or(1)
}
