// SPDX-License-Identifier: Apache-2.0
//! Backends that are no longer configured but may still have sockets. Part of the ledger.
//!
//! Invariant: the three views name the same backends.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use nodemesh_abi::{Backend, Ip16, Port};
use nodemesh_model::ResourceName;

/// One of them.
#[derive(Clone, Debug)]
pub struct Retired {
    /// The service it belonged to, if this agent knew it.
    pub service: Option<ResourceName>,
    /// Its row, as long as it lasts.
    pub row: Backend,
    /// Whether the row is in the kernel, so that affinity and flows no longer lead here.
    pub written: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub struct RetiredBackends {
    backends: BTreeMap<u32, Retired>,
    endpoints: HashMap<(u32, Ip16, Port), u32>,
    services: HashMap<u32, BTreeSet<u32>>,
}

impl RetiredBackends {
    /// Adds a backend.
    pub fn insert(&mut self, id: u32, retired: Retired) {
        let Backend {
            service, addr, port, ..
        } = retired.row;
        self.services.entry(service).or_default().insert(id);
        self.endpoints.insert((service, addr, port), id);
        self.backends.insert(id, retired);
    }

    /// Takes a backend out, for good or because it is configured again.
    pub fn remove(&mut self, id: u32) -> Option<Retired> {
        let retired = self.backends.remove(&id)?;
        let Backend {
            service, addr, port, ..
        } = retired.row;
        if let Some(ids) = self.services.get_mut(&service) {
            ids.remove(&id);
            if ids.is_empty() {
                self.services.remove(&service);
            }
        }
        if self.endpoints.get(&(service, addr, port)) == Some(&id) {
            self.endpoints.remove(&(service, addr, port));
        }
        Some(retired)
    }

    /// The row of a backend was written.
    pub fn mark_written(&mut self, id: u32) {
        if let Some(retired) = self.backends.get_mut(&id) {
            retired.written = true;
        }
    }

    /// The id of the backend of `service` at `addr`:`port`.
    pub fn find(&self, service: u32, addr: Ip16, port: Port) -> Option<u32> {
        self.endpoints.get(&(service, addr, port)).copied()
    }

    /// Those of `service`, by id.
    pub fn of_service(&self, service: u32) -> impl Iterator<Item = (u32, &Retired)> {
        let ids = self.services.get(&service).into_iter().flatten();
        ids.filter_map(|id| Some((*id, self.backends.get(id)?)))
    }

    /// Whether any backend of `service` is left.
    pub fn has_service(&self, service: u32) -> bool {
        self.services.contains_key(&service)
    }

    /// All, by id.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Retired)> {
        self.backends.iter().map(|(id, retired)| (*id, retired))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.backends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.backends.is_empty()
    }
}
