// SPDX-License-Identifier: Apache-2.0
//! All services and workloads together: what is between them. Called by `Received::assemble`.
//!
//! Invariant: no two services that come out share an address, port and protocol, no two workloads a cgroup, and the limits of the ABI
//! hold, so that a merge cannot fail; a service that was there before goes before a new one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use nodemesh_abi::{
    Protocol,
    limits::{MAX_BACKENDS, MAX_SERVICES},
};
use nodemesh_model::{Keyword, Manifest, Resource, ResourceName, Service, Workload};

use super::{Rejected, Unsupported, Waiting};
use crate::type_url;

/// A service and what is known of it.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Names of its listeners.
    pub(super) listeners: BTreeSet<Box<str>>,
    /// The clusters that these refer to.
    pub(super) clusters: BTreeSet<Box<str>>,
    /// The service and its policy as of the last time that they were complete.
    pub(super) built: Option<Arc<Manifest>>,
    /// The same as of the last time that nothing was in conflict with them.
    pub(super) taken: Option<Arc<Manifest>>,
    pub(super) waiting: Vec<Waiting>,
    pub(super) rejected: Vec<Rejected>,
    pub(super) unsupported: Vec<Unsupported>,
}

/// Who has what, while services are taken one after the other.
struct Claims {
    addresses: HashMap<(IpAddr, u16, Protocol), ResourceName>,
    backends: usize,
}

/// Decides what of each group is taken; returns the services that are not taken as they are.
pub(super) fn settle(groups: &mut BTreeMap<ResourceName, Group>) -> Vec<Rejected> {
    let mut claims = Claims {
        addresses: HashMap::with_capacity(groups.len()),
        backends: 0,
    };
    let mut rejected = Vec::new();
    let mut turns: Vec<&mut Group> = groups.values_mut().collect();
    turns.sort_by_key(|group| group.taken.is_none());
    for group in turns {
        group.taken = claims.settle(group, &mut rejected);
    }
    rejected
}

impl Claims {
    /// The manifest of `group` that is free: the new one, else the former one.
    fn settle(&mut self, group: &Group, rejected: &mut Vec<Rejected>) -> Option<Arc<Manifest>> {
        let new = group.built.as_ref()?;
        let conflict = match self.claim(new) {
            Ok(()) => return Some(Arc::clone(new)),
            Err(reason) => reason,
        };
        rejected.push(Rejected {
            type_url: type_url::LISTENER.to_owned(),
            resource: group.listeners.first().map_or("", |name| name).to_owned(),
            field: "address".to_owned(),
            reason: conflict,
        });
        let former = group.taken.as_ref()?;
        self.claim(former).is_ok().then(|| Arc::clone(former))
    }

    /// Claims what the service of `manifest` needs, or nothing.
    fn claim(&mut self, manifest: &Manifest) -> Result<(), String> {
        let Some(service) = service(manifest) else {
            return Ok(());
        };
        let name = &service.metadata.name;
        let rows: Vec<_> = service.claims().collect();
        for row @ (address, port, protocol) in &rows {
            if let Some(owner) = self.addresses.get(row) {
                let protocol = protocol.word();
                return Err(format!(
                    "{address}, port {port}/{protocol}, of Service {name} is that of Service {owner}; use another address or port"
                ));
            }
        }
        if self.addresses.len() + rows.len() > MAX_SERVICES {
            return Err(format!(
                "Service {name} is one too many: a node holds {MAX_SERVICES} addresses and ports; remove services"
            ));
        }
        if self.backends + service.backend_count() > MAX_BACKENDS {
            return Err(format!(
                "Service {name} has more endpoints than are left: a node holds {MAX_BACKENDS}; remove endpoints"
            ));
        }
        self.backends += service.backend_count();
        self.addresses
            .extend(rows.into_iter().map(|row| (row, name.clone())));
        Ok(())
    }
}

fn service(manifest: &Manifest) -> Option<&Service> {
    manifest.resources().find_map(|resource| match resource {
        Resource::Service(service) => Some(&**service),
        _ => None,
    })
}

/// The workloads of all `tables`, and the rows that contradict earlier ones.
pub(super) fn workloads<'a>(
    tables: impl Iterator<Item = (&'a str, &'a [Arc<Workload>])>,
) -> (Vec<Resource>, Vec<Rejected>) {
    let mut names: HashMap<&ResourceName, &str> = HashMap::new();
    let mut cgroups: HashMap<&str, &ResourceName> = HashMap::new();
    let mut taken = Vec::new();
    let mut rejected = Vec::new();
    for (table, rows) in tables {
        let mut reject = |field: String, reason| {
            rejected.push(Rejected {
                type_url: type_url::WORKLOAD_TABLE.to_owned(),
                resource: table.to_owned(),
                field,
                reason,
            });
        };
        for workload in rows {
            let name = &workload.metadata.name;
            if let Some(first) = names.get(name) {
                reject(
                    "workloads".to_owned(),
                    format!("{name} is in the table {first:?} too; remove one of the two"),
                );
                continue;
            }
            let Some(cgroup) = workload.cgroup.as_deref() else {
                names.insert(name, table);
                taken.push(Resource::Workload(Arc::clone(workload)));
                continue;
            };
            match cgroups.entry(cgroup) {
                Entry::Occupied(owner) => {
                    let owner = owner.get();
                    let reason = format!("{cgroup:?} of {name} is that of {owner}; give each its own");
                    reject("workloads.cgroup".to_owned(), reason);
                }
                Entry::Vacant(entry) => {
                    entry.insert(name);
                    names.insert(name, table);
                    taken.push(Resource::Workload(Arc::clone(workload)));
                }
            }
        }
    }
    (taken, rejected)
}
