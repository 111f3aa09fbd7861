// SPDX-License-Identifier: Apache-2.0
//! The checks between resources.
//!
//! Invariant: of two resources that exclude each other the first in the order of the sources stays, the error belongs to the
//! second and names both.

use std::{
    collections::{BTreeMap, HashMap, btree_map, hash_map},
    net::IpAddr,
    sync::Arc,
};

use nodemesh_abi::{
    Protocol,
    limits::{MAX_BACKENDS, MAX_SERVICES},
};

use super::Resources;
use crate::{
    invalid::{InvalidResource, InvalidResources, MAX_ERRORS, Origin, Problem},
    keyword::{Keyword, Kind},
    manifest::{Document, Manifest},
    name::ResourceName,
    resource::{AccessPolicy, Resource, Service, ServicePort, Target, TrafficPolicy, Workload},
};

/// Puts `manifests` together, or tells everything that is wrong with them.
pub(super) fn merge<'a>(
    manifests: impl IntoIterator<Item = (&'a str, &'a Manifest)>,
) -> Result<Resources, InvalidResources> {
    let sources: Vec<_> = manifests.into_iter().collect();
    let documents = sources
        .iter()
        .map(|(_, manifest)| manifest.documents().len())
        .sum();
    let mut merge = Merge {
        sources: &sources,
        addresses: HashMap::with_capacity(documents),
        ..Merge::default()
    };
    for (label, manifest) in &sources {
        merge.take_errors(label, manifest.errors());
        for document in manifest.documents() {
            merge.add(label, document);
        }
    }
    if merge.errors.is_empty() {
        Ok(merge.merged)
    } else {
        Err(merge.errors)
    }
}

#[derive(Default)]
struct Merge<'a> {
    sources: &'a [(&'a str, &'a Manifest)],
    errors: InvalidResources,
    merged: Resources,
    addresses: HashMap<(IpAddr, u16, Protocol), &'a ResourceName>,
    cgroups: HashMap<&'a str, &'a ResourceName>,
    backends: usize,
}

impl<'a> Merge<'a> {
    fn take_errors(&mut self, label: &str, errors: &InvalidResources) {
        let file: Arc<str> = label.into();
        for error in errors.listed() {
            self.errors.push(InvalidResource {
                file: Some(Arc::clone(&file)),
                ..error.clone()
            });
        }
        self.errors.omit(errors.omitted());
    }

    fn add(&mut self, label: &str, document: &'a Document) {
        let name = &document.resource.metadata().name;
        let is_new = match &document.resource {
            Resource::Service(service) => insert(&mut self.merged.services, name, service),
            Resource::Workload(workload) => insert(&mut self.merged.workloads, name, workload),
            Resource::TrafficPolicy(policy) => insert(&mut self.merged.policies, name, policy),
            Resource::AccessPolicy(policy) => insert(&mut self.merged.access_policies, name, policy),
        };
        if !is_new {
            let kind = document.resource.kind();
            return self.report(label, document, String::new(), |merge| {
                Problem::DuplicateResource {
                    first: merge.origin(kind, name),
                }
            });
        }
        match &document.resource {
            Resource::Service(service) => self.add_service(label, document, service),
            Resource::Workload(workload) => self.add_workload(label, document, workload),
            Resource::TrafficPolicy(policy) => self.add_policy(label, document, policy),
            Resource::AccessPolicy(policy) => self.add_access_policy(policy),
        }
    }

    fn add_service(&mut self, label: &str, document: &'a Document, service: &'a Service) {
        let (rows, backends) = (self.addresses.len(), self.backends);
        for claim @ (address, port, protocol) in service.claims() {
            match self.addresses.entry(claim) {
                hash_map::Entry::Vacant(entry) => {
                    entry.insert(&service.metadata.name);
                }
                hash_map::Entry::Occupied(entry) => {
                    let owner = *entry.get();
                    self.report(label, document, claimed_by(service, claim), |merge| {
                        Problem::AddressTaken {
                            address,
                            port,
                            protocol: protocol.word(),
                            owner: owner.clone(),
                            origin: merge.origin(Kind::Service, owner),
                        }
                    });
                }
            }
        }
        self.backends += service.backend_count();
        // Only the service that crosses the limit is reported, not each one after it.
        if rows <= MAX_SERVICES && self.addresses.len() > MAX_SERVICES {
            self.report(label, document, String::new(), |_| Problem::too_many_services());
        }
        if backends <= MAX_BACKENDS && self.backends > MAX_BACKENDS {
            self.report(label, document, "spec.backends".to_owned(), |_| {
                Problem::too_many_backends()
            });
        }
    }

    fn add_workload(&mut self, label: &str, document: &'a Document, workload: &'a Workload) {
        let Some(cgroup) = &workload.cgroup else { return };
        match self.cgroups.entry(cgroup) {
            hash_map::Entry::Vacant(entry) => {
                entry.insert(&workload.metadata.name);
            }
            hash_map::Entry::Occupied(entry) => {
                let owner = *entry.get();
                self.report(label, document, "spec.cgroup".to_owned(), |merge| {
                    Problem::CgroupTaken {
                        found: cgroup.to_string(),
                        owner: owner.clone(),
                        origin: merge.origin(Kind::Workload, owner),
                    }
                });
            }
        }
    }

    fn add_policy(&mut self, label: &str, document: &'a Document, policy: &Arc<TrafficPolicy>) {
        match self.merged.targets.entry(policy.target.clone()) {
            btree_map::Entry::Vacant(entry) => {
                entry.insert(Arc::clone(policy));
            }
            btree_map::Entry::Occupied(entry) => {
                let owner = entry.get().metadata.name.clone();
                let service = match &policy.target {
                    Target::Namespace(_) => None,
                    Target::Service(service) => Some(service.clone()),
                };
                self.report(label, document, "spec.targetRef".to_owned(), |merge| {
                    Problem::TargetTaken {
                        service,
                        origin: merge.origin(Kind::TrafficPolicy, &owner),
                        owner,
                    }
                });
            }
        }
    }

    /// Any number of policies may have the same target: their rules are one set.
    fn add_access_policy(&mut self, policy: &Arc<AccessPolicy>) {
        let policies = self
            .merged
            .access_targets
            .entry(policy.target.clone())
            .or_default();
        let place = policies.partition_point(|other| other.metadata.name < policy.metadata.name);
        policies.insert(place, Arc::clone(policy));
    }

    /// Notes a problem; it is worked out only if the list has room for it.
    fn report(
        &mut self,
        label: &str,
        document: &Document,
        field: String,
        problem: impl FnOnce(&Self) -> Problem,
    ) {
        if self.errors.listed().len() >= MAX_ERRORS {
            return self.errors.omit(1);
        }
        let error = InvalidResource {
            file: Some(label.into()),
            document: document.number,
            kind: Some(document.resource.kind().word().to_owned()),
            name: Some(document.resource.metadata().name.to_string()),
            field,
            problem: problem(self),
        };
        self.errors.push(error);
    }

    /// The first place that defines a resource. Searched for, because an index would cost every merge what an error needs.
    fn origin(&self, kind: Kind, name: &ResourceName) -> Origin {
        let found = self.sources.iter().find_map(|(label, manifest)| {
            let is_it = |d: &&Document| d.resource.kind() == kind && d.resource.metadata().name == *name;
            manifest
                .documents()
                .iter()
                .find(is_it)
                .map(|document| (*label, document.number))
        });
        let (label, document) = found.unwrap_or_default();
        Origin {
            file: label.into(),
            document,
        }
    }
}

/// The field of `service` by which it claims an address and port.
fn claimed_by(service: &Service, (address, port, protocol): (IpAddr, u16, Protocol)) -> String {
    if address.is_unspecified() {
        let mut ports = service.ports.iter();
        let is_it = |own: &ServicePort| own.node_port == Some(port) && own.protocol == protocol;
        return format!(
            "spec.ports[{}].nodePort",
            ports.position(is_it).unwrap_or_default()
        );
    }
    let find = |addresses: &[IpAddr]| addresses.iter().position(|own| *own == address);
    match find(&service.addresses) {
        Some(index) => format!("spec.addresses[{index}]"),
        None => "spec.externalAddresses".to_owned(),
    }
}

/// Inserts, unless the name is taken.
fn insert<T>(map: &mut BTreeMap<ResourceName, Arc<T>>, name: &ResourceName, value: &Arc<T>) -> bool {
    match map.entry(name.clone()) {
        btree_map::Entry::Occupied(_) => false,
        btree_map::Entry::Vacant(entry) => {
            entry.insert(Arc::clone(value));
            true
        }
    }
}
