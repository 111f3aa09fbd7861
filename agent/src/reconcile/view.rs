// SPDX-License-Identifier: Apache-2.0
//! What is programmed, as an immutable snapshot for metrics and the admin API. Published by the reconciler's thread.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use nodemesh_model::{Desired, FrontendName, PrincipalName, ResourceName};

use crate::drain::Targets;

use super::{
    ledger::{Ledger, Programmed},
    plan::Rejected,
    retired::Retired,
};

/// The snapshot.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Generation of the configuration that this is the result of; 0 before the first.
    pub generation: u64,
    /// Frontends in the kernel, by name.
    pub frontends: Vec<Arc<Programmed>>,
    /// Backends without configuration that still have sockets.
    pub retired: Vec<(u32, Retired)>,
    /// Frontends that found no room.
    pub rejected: Vec<Rejected>,
    /// Frontends that could not be written, with the reason.
    pub failed: BTreeMap<FrontendName, String>,
    /// Service ids and backend ids: (in use, capacity) of each.
    pub usage: [(u32, u32); 2],
    /// Rows of `traffic` and of `endpoints`: (in use, capacity) of each.
    pub meter_usage: [(u32, u32); 2],
    /// Workloads by the hash that stands for them in the kernel.
    pub workloads: HashMap<u64, ResourceName>,
    /// Names of clients' identities by number: the SPIFFE ID of a workload, else what policies know it as.
    pub identities: HashMap<u32, Arc<str>>,
    /// What policies know them as.
    pub principals: HashMap<u32, PrincipalName>,
    /// What was desired: drains of this node included, frontends without room too.
    pub desired: Arc<Desired>,
    /// The drains of this node that `desired` includes.
    pub drained: Targets,
    /// Configured cgroup paths that do not exist (yet).
    pub cgroups_missing: Vec<String>,
}

impl View {
    /// The state of `ledger`.
    pub fn of(ledger: &Ledger) -> Self {
        Self {
            frontends: ledger.programmed().cloned().collect(),
            retired: ledger
                .retired()
                .iter()
                .map(|(id, retired)| (id, retired.clone()))
                .collect(),
            usage: ledger.usage(),
            meter_usage: ledger.meter_usage(),
            ..Self::default()
        }
    }
}
