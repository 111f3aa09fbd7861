// SPDX-License-Identifier: Apache-2.0
//! What two resources cannot both have, and the limits of a mesh: checked against a [`State`] when a resource enters it.
//!
//! Called by `writer` before a resource is stored, and by `follower` for what is in the store. The rules are those of
//! `Resources::merge` in the model, kept incrementally.

use std::{net::IpAddr, sync::Arc};

use nodemesh_abi::{
    Protocol,
    limits::{MAX_BACKENDS, MAX_SERVICES},
};
use nodemesh_model::{Keyword as _, Kind, Resource, ResourceName, Service, Target};

use super::{
    key::Key,
    state::{Entry, State},
};

/// Why a resource does not go together with the others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the message of each variant says what its fields are")]
pub enum Taken {
    #[error(
        "Service {service}: {} port {port}/{} is already that of Service {owner}; {}",
        dialled(*.address),
        .protocol.word(),
        if .address.is_unspecified() { "change one of the two" } else { "change one of the two, or leave spec.addresses out" }
    )]
    Address {
        service: ResourceName,
        address: IpAddr,
        port: u16,
        protocol: Protocol,
        owner: ResourceName,
    },
    #[error("TrafficPolicy {policy}: {} is already the target of TrafficPolicy {owner}; merge the two", described(.target))]
    Target {
        policy: ResourceName,
        target: Target,
        owner: ResourceName,
    },
    #[error(
        "Workload {workload}: {cgroup:?} is already the cgroup of Workload {owner}; a process has one identity"
    )]
    Cgroup {
        workload: ResourceName,
        cgroup: Arc<str>,
        owner: ResourceName,
    },
    #[error("Service {service}: with it there are more than {limit} {what}; remove some, or split the mesh")]
    TooMany {
        service: ResourceName,
        what: &'static str,
        limit: usize,
    },
}

/// An address that clients dial; that of a node port is unspecified.
fn dialled(address: IpAddr) -> String {
    if address.is_unspecified() {
        "of every node,".to_owned()
    } else {
        address.to_string()
    }
}

fn described(target: &Target) -> String {
    match target {
        Target::Namespace(namespace) => format!("every service of namespace {namespace}"),
        Target::Service(service) => format!("Service {service}"),
    }
}

/// Whether writers of `resource` exclude each other.
pub(super) fn claims_something(resource: &Resource) -> bool {
    match resource {
        Resource::Service(_) | Resource::TrafficPolicy(_) => true,
        Resource::Workload(workload) => workload.cgroup.is_some(),
        // Several may have one target: their rules are one set.
        Resource::AccessPolicy(_) => false,
    }
}

impl State {
    /// Takes `entry` in, in place of the one with its key. If it does not go together with the others nothing is changed.
    pub(super) fn insert(&mut self, entry: Arc<Entry>) -> Result<(), Taken> {
        let name = &entry.key.name;
        match &entry.resource {
            Resource::Service(service) => self.check_service(name, service)?,
            Resource::TrafficPolicy(policy) => {
                if let Some(owner) = self.targets.get(&policy.target).filter(|owner| *owner != name) {
                    return Err(Taken::Target {
                        policy: name.clone(),
                        target: policy.target.clone(),
                        owner: owner.clone(),
                    });
                }
            }
            Resource::Workload(workload) => {
                if let Some(cgroup) = &workload.cgroup
                    && let Some(owner) = self.cgroups.get(&**cgroup).filter(|owner| *owner != name)
                {
                    return Err(Taken::Cgroup {
                        workload: name.clone(),
                        cgroup: Arc::from(&**cgroup),
                        owner: owner.clone(),
                    });
                }
            }
            Resource::AccessPolicy(_) => {}
        }
        self.remove(&entry.key);
        self.claim(&entry);
        let (kind, name) = (entry.key.kind, entry.key.name.clone());
        self.names.of_mut(kind).insert(name, entry);
        Ok(())
    }

    /// Takes the entry of `key` out.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<Entry>> {
        let entry = self.names.of_mut(key.kind).remove(&key.name)?;
        match &entry.resource {
            Resource::Service(service) => {
                for claim in service.claims() {
                    self.claims.remove(&claim);
                }
                self.backends -= backends(service);
            }
            Resource::TrafficPolicy(policy) => {
                self.targets.remove(&policy.target);
            }
            Resource::Workload(workload) => {
                if let Some(cgroup) = &workload.cgroup {
                    self.cgroups.remove(&**cgroup);
                }
            }
            Resource::AccessPolicy(_) => {}
        }
        Some(entry)
    }

    fn claim(&mut self, entry: &Entry) {
        let name = &entry.key.name;
        match &entry.resource {
            Resource::Service(service) => {
                for claim in service.claims() {
                    self.claims.insert(claim, name.clone());
                }
                self.backends += backends(service);
            }
            Resource::TrafficPolicy(policy) => {
                self.targets.insert(policy.target.clone(), name.clone());
            }
            Resource::Workload(workload) => {
                if let Some(cgroup) = &workload.cgroup {
                    self.cgroups.insert(Arc::from(&**cgroup), name.clone());
                }
            }
            Resource::AccessPolicy(_) => {}
        }
    }

    fn check_service(&self, name: &ResourceName, service: &Service) -> Result<(), Taken> {
        for claim in service.claims() {
            if let Some(owner) = self.claims.get(&claim).filter(|owner| *owner != name) {
                let (address, port, protocol) = claim;
                return Err(Taken::Address {
                    service: name.clone(),
                    address,
                    port,
                    protocol,
                    owner: owner.clone(),
                });
            }
        }
        let key = Key::new(Kind::Service, name.clone());
        let old = self.get(&key).and_then(|entry| entry.service());
        let (old_claims, old_backends) =
            old.map_or((0, 0), |service| (service.claims().count(), backends(service)));
        let too_many = |what, limit| Taken::TooMany {
            service: name.clone(),
            what,
            limit,
        };
        if self.claims.len() - old_claims + service.claims().count() > MAX_SERVICES {
            return Err(too_many("service addresses with their ports", MAX_SERVICES));
        }
        if self.backends - old_backends + backends(service) > MAX_BACKENDS {
            return Err(too_many("backends", MAX_BACKENDS));
        }
        Ok(())
    }
}

fn backends(service: &Service) -> usize {
    service.backends.len() * service.ports.len()
}
