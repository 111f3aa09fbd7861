// SPDX-License-Identifier: Apache-2.0
//! Backends that are no longer configured but may still have sockets. Part of the ledger.
//!
//! Invariant: the three views name the same backends.

use std::collections::{BTreeMap, HashMap};

use nodemesh_abi::{Backend, Ip16, Port};
use nodemesh_model::ResourceName;

/// One of them.
#[derive(Clone, Debug)]
pub struct Retired {
    /// The service it belonged to, if this agent knew it.
    pub service: Option<ResourceName>,
    /// Its row, as long as it lasts.
    pub row: Backend,
}

/// All of them.
#[derive(Debug, Default)]
pub struct RetiredBackends {
    by_id: BTreeMap<u32, Retired>,
    by_endpoint: HashMap<(u32, Ip16, Port), u32>,
    per_service: HashMap<u32, usize>,
}

impl RetiredBackends {
    /// Adds a backend.
    pub fn insert(&mut self, id: u32, retired: Retired) {
        let Backend {
            service, addr, port, ..
        } = retired.row;
        *self.per_service.entry(service).or_default() += 1;
        self.by_endpoint.insert((service, addr, port), id);
        self.by_id.insert(id, retired);
    }

    /// Takes a backend out, for good or because it is configured again.
    pub fn remove(&mut self, id: u32) -> Option<Retired> {
        let retired = self.by_id.remove(&id)?;
        let Backend {
            service, addr, port, ..
        } = retired.row;
        if let Some(count) = self.per_service.get_mut(&service) {
            *count -= 1;
            if *count == 0 {
                self.per_service.remove(&service);
            }
        }
        if self.by_endpoint.get(&(service, addr, port)) == Some(&id) {
            self.by_endpoint.remove(&(service, addr, port));
        }
        Some(retired)
    }

    /// The id of the backend of `service` at `addr`:`port`.
    pub fn find(&self, service: u32, addr: Ip16, port: Port) -> Option<u32> {
        self.by_endpoint.get(&(service, addr, port)).copied()
    }

    /// Whether any backend of `service` is left.
    pub fn has_service(&self, service: u32) -> bool {
        self.per_service.contains_key(&service)
    }

    /// All, by id.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Retired)> {
        self.by_id.iter().map(|(id, retired)| (*id, retired))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}
