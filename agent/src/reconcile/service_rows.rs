// SPDX-License-Identifier: Apache-2.0
//! The rows of `services`, or of `flow_services`, as the kernel has them. Part of the ledger; changed by `apply` after each write.
//!
//! Invariant: holds what was written, not what is wanted, so that an id is known to be unreachable before it is used anew.

use std::collections::HashMap;

use nodemesh_abi::{Service, ServiceKey};

/// A row that leads to a service.
pub trait Row {
    /// The service's id.
    fn service_id(&self) -> u32;
}

impl Row for Service {
    fn service_id(&self) -> u32 {
        self.id
    }
}

/// The rows.
#[derive(Debug)]
pub struct ServiceRows<R = Service> {
    by_key: HashMap<ServiceKey, R>,
    per_id: HashMap<u32, usize>,
}

impl<R> Default for ServiceRows<R> {
    fn default() -> Self {
        Self {
            by_key: HashMap::new(),
            per_id: HashMap::new(),
        }
    }
}

impl<R: Row> ServiceRows<R> {
    /// The row of `key` was written.
    pub fn insert(&mut self, key: ServiceKey, row: R) {
        self.remove(&key);
        *self.per_id.entry(row.service_id()).or_default() += 1;
        self.by_key.insert(key, row);
    }

    /// The row of `key` was deleted.
    pub fn remove(&mut self, key: &ServiceKey) {
        let Some(row) = self.by_key.remove(key) else {
            return;
        };
        if let Some(count) = self.per_id.get_mut(&row.service_id()) {
            *count -= 1;
            if *count == 0 {
                self.per_id.remove(&row.service_id());
            }
        }
    }

    /// The row of `key`.
    pub fn get(&self, key: &ServiceKey) -> Option<&R> {
        self.by_key.get(key)
    }

    /// The ids that rows name.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.per_id.keys().copied()
    }

    /// Whether a row names the service id `id`.
    pub fn names(&self, id: u32) -> bool {
        self.per_id.contains_key(&id)
    }
}
