// SPDX-License-Identifier: Apache-2.0
//! The rows of `endpoints`: as the configuration wants them and as the kernel has them. Part of the ledger; claims are changed by
//! `plan`, rows by `apply` after each write.
//!
//! Invariant: an address that several frontends name belongs to the first of them in the order of their names, but its policy is that
//! of all of them (`demand`); and every address whose row is not what is wanted is among the changed ones.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use nodemesh_abi::{Backend, Endpoint, EndpointKey, Protocol};
use nodemesh_model::{Frontend, FrontendName};

use super::{admission::Assigned, ledger::Programmed};

/// The rows.
#[derive(Debug, Default)]
pub struct Endpoints {
    /// Frontends that name an address, with the position of the backend.
    claims: HashMap<EndpointKey, Vec<(Arc<Programmed>, u32)>>,
    /// Rows as they are in the kernel.
    rows: HashMap<EndpointKey, Endpoint>,
    /// Addresses whose row may not be what is wanted.
    changed: BTreeSet<EndpointKey>,
}

/// What must change.
#[derive(Debug, Default, PartialEq)]
pub struct Differences {
    /// Rows to write.
    pub put: Vec<(EndpointKey, Endpoint)>,
    /// Rows to remove.
    pub deleted: Vec<EndpointKey>,
}

impl Endpoints {
    /// The rows that a former agent left; nobody claims them yet.
    pub fn adopt(rows: impl IntoIterator<Item = (EndpointKey, Endpoint)>) -> Self {
        let rows: HashMap<_, _> = rows.into_iter().collect();
        Self {
            changed: rows.keys().copied().collect(),
            rows,
            ..Self::default()
        }
    }

    /// A frontend names the addresses of its backends.
    pub fn claim(&mut self, programmed: &Arc<Programmed>) {
        for (key, index) in addresses(programmed) {
            self.changed.insert(key);
            self.claims
                .entry(key)
                .or_default()
                .push((programmed.clone(), index));
        }
    }

    /// A frontend does so no longer.
    pub fn disclaim(&mut self, programmed: &Programmed) {
        for (key, _) in addresses(programmed) {
            self.changed.insert(key);
            if let Some(claims) = self.claims.get_mut(&key) {
                claims.retain(|(other, _)| other.service_id != programmed.service_id);
                if claims.is_empty() {
                    self.claims.remove(&key);
                }
            }
        }
    }

    /// What must change so that the kernel's rows are what is wanted.
    pub fn differences(&mut self, assigned: &Assigned) -> Differences {
        let mut changed = std::mem::take(&mut self.changed);
        let mut differences = Differences::default();
        changed.retain(|key| match (self.wanted(key, assigned), self.rows.get(key)) {
            (Some(wanted), former) if former != Some(&wanted) => {
                differences.put.push((*key, wanted));
                true
            }
            (None, Some(_)) => {
                differences.deleted.push(*key);
                true
            }
            _ => false,
        });
        self.changed = changed;
        differences
    }

    fn wanted(&self, key: &EndpointKey, assigned: &Assigned) -> Option<Endpoint> {
        let claims = self.claims.get(key)?;
        let (programmed, index) = claims.iter().min_by_key(|(programmed, _)| &programmed.name)?;
        let place = programmed.backends.get(*index as usize)?;
        Some(Endpoint {
            service: programmed.service_id,
            backend: place.id,
            traffic: place.traffic,
            policy: assigned.shared(key).unwrap_or(programmed.policy),
        })
    }

    /// A row was written.
    pub fn insert(&mut self, key: EndpointKey, row: Endpoint) {
        self.rows.insert(key, row);
    }

    /// A row was removed.
    pub fn remove(&mut self, key: &EndpointKey) {
        self.rows.remove(key);
    }

    /// Whether the kernel's row for the address of the backend `id` names it.
    pub fn names(&self, id: u32, row: &Backend) -> bool {
        let key = EndpointKey::new(row.addr, row.port);
        self.rows.get(&key).is_some_and(|endpoint| endpoint.backend == id)
    }

    /// Number of rows in the kernel.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

fn addresses(programmed: &Programmed) -> impl Iterator<Item = (EndpointKey, u32)> {
    endpoints_of(&programmed.name, &programmed.frontend).zip(0..)
}

/// Where the backends of a TCP frontend listen, in their order; nowhere for those of another one.
pub fn endpoints_of(name: &FrontendName, frontend: &Frontend) -> impl Iterator<Item = EndpointKey> {
    let backends = if name.protocol == Protocol::Tcp {
        &frontend.backends[..]
    } else {
        &[]
    };
    backends
        .iter()
        .map(|backend| EndpointKey::new(backend.addr, backend.port))
}
