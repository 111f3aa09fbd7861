// SPDX-License-Identifier: Apache-2.0
//! The rows of `services` as the kernel has them. Part of the ledger; changed by `apply` after each write.
//!
//! Invariant: holds what was written, not what is wanted, so that an id is known to be unreachable before it is used anew.

use std::collections::HashMap;

use nodemesh_abi::{Service, ServiceKey};

/// The rows.
#[derive(Debug, Default)]
pub struct ServiceRows {
    by_key: HashMap<ServiceKey, Service>,
    per_id: HashMap<u32, usize>,
}

impl ServiceRows {
    /// The row of `key` was written.
    pub fn insert(&mut self, key: ServiceKey, row: Service) {
        self.remove(&key);
        *self.per_id.entry(row.id).or_default() += 1;
        self.by_key.insert(key, row);
    }

    /// The row of `key` was deleted.
    pub fn remove(&mut self, key: &ServiceKey) {
        let Some(row) = self.by_key.remove(key) else {
            return;
        };
        if let Some(count) = self.per_id.get_mut(&row.id) {
            *count -= 1;
            if *count == 0 {
                self.per_id.remove(&row.id);
            }
        }
    }

    /// The row of `key`.
    pub fn get(&self, key: &ServiceKey) -> Option<&Service> {
        self.by_key.get(key)
    }

    /// Whether a row names the service id `id`.
    pub fn names(&self, id: u32) -> bool {
        self.per_id.contains_key(&id)
    }
}
