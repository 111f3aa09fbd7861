// SPDX-License-Identifier: Apache-2.0
//! What the control plane knows at one revision: an immutable value that every reader shares.
//!
//! Made by `follower` from the events of the store, read by the xDS server, the northbound API and the writer.
//!
//! Invariant: the resources of a state go together: no two services share an address, port and protocol, no two policies a target, no
//! two workloads a cgroup. What the store has besides is in [`State::faults`], not among the resources. A new state shares all
//! that did not change with the one before (persistent maps), so it costs what the change is, and [`State::changed_since`] too.

use std::{net::IpAddr, ops::Bound, sync::Arc};

use imbl::{OrdMap, ordmap::DiffItem};
use nodemesh_abi::Protocol;
use nodemesh_model::{
    AccessPolicy, Keyword as _, Kind, Resource, ResourceName, Service, Target, TrafficPolicy, Workload,
};

use super::{Fault, key::Key};
use crate::store::{LeaseId, Revision};

/// A resource as it is in the store.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Kind and name.
    pub key: Key,
    /// When it was written last.
    pub version: Revision,
    /// The lease that it goes with.
    pub lease: Option<LeaseId>,
    /// The document as it was applied, with its namespace and addresses filled in: JSON, a tenth of what it takes as a value.
    pub document: Arc<str>,
    /// What it says.
    pub resource: Resource,
}

impl Entry {
    /// The service, if it is one.
    pub fn service(&self) -> Option<&Arc<Service>> {
        match &self.resource {
            Resource::Service(service) => Some(service),
            _ => None,
        }
    }

    /// The workload, if it is one.
    pub fn workload(&self) -> Option<&Arc<Workload>> {
        match &self.resource {
            Resource::Workload(workload) => Some(workload),
            _ => None,
        }
    }

    /// The policy, if it is one.
    pub fn policy(&self) -> Option<&Arc<TrafficPolicy>> {
        match &self.resource {
            Resource::TrafficPolicy(policy) => Some(policy),
            _ => None,
        }
    }

    /// The access policy, if it is one.
    pub fn access_policy(&self) -> Option<&Arc<AccessPolicy>> {
        match &self.resource {
            Resource::AccessPolicy(policy) => Some(policy),
            _ => None,
        }
    }
}

/// A version says what the content is.
impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.version == other.version
    }
}

impl Eq for Entry {}

/// An address, port and protocol that a service answers on.
pub type Claim = (IpAddr, u16, Protocol);

/// An address that was allocated once, and is not given to another service for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// The service that had it: it gets it back if it comes back.
    pub owner: Arc<str>,
}

/// The entries of each kind, by name.
#[derive(Clone, Debug)]
pub(super) struct Names(Vec<OrdMap<ResourceName, Arc<Entry>>>);

impl Default for Names {
    fn default() -> Self {
        Self(vec![OrdMap::new(); Kind::WORDS.len()])
    }
}

impl Names {
    pub(super) fn of(&self, kind: Kind) -> &OrdMap<ResourceName, Arc<Entry>> {
        &self.0[kind as usize]
    }

    pub(super) fn of_mut(&mut self, kind: Kind) -> &mut OrdMap<ResourceName, Arc<Entry>> {
        &mut self.0[kind as usize]
    }
}

/// Everything at one revision.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The revision.
    pub revision: Revision,
    /// Version of the key that writers of resources with claims contend for.
    pub(super) fence: Option<Revision>,
    /// By kind; see [`Names::of`].
    pub(super) names: Names,
    pub(super) claims: OrdMap<Claim, ResourceName>,
    pub(super) targets: OrdMap<Target, ResourceName>,
    pub(super) cgroups: OrdMap<Arc<str>, ResourceName>,
    pub(super) released: OrdMap<IpAddr, Released>,
    pub(super) faults: OrdMap<Arc<str>, Fault>,
    /// Service ports, and backends that services list: what the limits of the ABI are about.
    pub(super) backends: usize,
}

/// One difference between two states.
#[derive(Clone, Debug)]
pub enum Changed<'a> {
    /// A resource is new, or has another version.
    Set {
        /// As it was; `None` if it is new.
        old: Option<&'a Arc<Entry>>,
        /// As it is.
        new: &'a Arc<Entry>,
    },
    /// A resource is gone.
    Removed {
        /// As it was.
        old: &'a Arc<Entry>,
    },
}

impl State {
    /// The entry of `key`.
    pub fn get(&self, key: &Key) -> Option<&Arc<Entry>> {
        self.names.of(key.kind).get(&key.name)
    }

    /// All entries, ordered by kind and name.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.names.0.iter().flat_map(OrdMap::values)
    }

    /// The entries of `kind`, ordered by name.
    pub fn entries_of(&self, kind: Kind) -> impl Iterator<Item = &Arc<Entry>> {
        self.names.of(kind).values()
    }

    /// The entries of `kind` in `namespace`, ordered by name.
    pub fn entries_in<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
        // A name starts with 0-9 or a-z, so no name is before this one. Text that is no namespace has no entries.
        let first = ResourceName::new(namespace, "0").ok();
        first
            .into_iter()
            .flat_map(move |first| self.names.of(kind).range(first..))
            .map(|(_, entry)| entry)
            .take_while(move |entry| entry.key.name.namespace() == namespace)
    }

    /// How many entries there are of `kind`.
    pub fn count(&self, kind: Kind) -> usize {
        self.names.of(kind).len()
    }

    /// The services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.entries_of(Kind::Service).filter_map(|entry| entry.service())
    }

    /// The services of `namespace`, by name.
    pub fn services_of<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Service>> {
        self.entries_in(Kind::Service, namespace)
            .filter_map(|entry| entry.service())
    }

    /// The workloads of `namespace`, by name.
    pub fn workloads_of<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Workload>> {
        self.entries_in(Kind::Workload, namespace)
            .filter_map(|entry| entry.workload())
    }

    /// The service `name`.
    pub fn service(&self, name: &ResourceName) -> Option<&Arc<Service>> {
        self.get(&Key::new(Kind::Service, name.clone()))?.service()
    }

    /// The policy that applies to `service`: its own, else that of its namespace.
    pub fn policy_of(&self, service: &ResourceName) -> Option<&Arc<TrafficPolicy>> {
        let name = self
            .targets
            .get(&Target::Service(service.clone()))
            .or_else(|| self.targets.get(&Target::Namespace(service.namespace().into())))?;
        self.get(&Key::new(Kind::TrafficPolicy, name.clone()))?.policy()
    }

    /// Items of the store that are no resources of this state, with the reason: by key.
    pub fn faults(&self) -> impl Iterator<Item = (&Arc<str>, &Fault)> {
        self.faults.iter()
    }

    /// What is different from `old`, ordered by kind and name; costs what the difference is.
    pub fn changed_since<'a>(&'a self, old: &'a Self) -> impl Iterator<Item = Changed<'a>> {
        old.names.0.iter().zip(&self.names.0).flat_map(|(old, new)| {
            old.diff(new).map(|item| match item {
                DiffItem::Add(_, new) => Changed::Set { old: None, new },
                DiffItem::Update {
                    old: (_, old),
                    new: (_, new),
                } => Changed::Set { old: Some(old), new },
                DiffItem::Remove(_, old) => Changed::Removed { old },
            })
        })
    }

    /// The version of what the store has under `key`, whether it is a resource or not.
    pub(super) fn version_of(&self, key: &Key) -> Option<Revision> {
        let fault = || self.faults.get(&*key.to_string()).map(|fault| fault.item.version);
        self.get(key).map(|entry| entry.version).or_else(fault)
    }

    /// Whether some service has `address`.
    pub(super) fn is_taken(&self, address: IpAddr) -> bool {
        let from = (address, 0, Protocol::Tcp);
        self.claims
            .range((Bound::Included(from), Bound::Unbounded))
            .next()
            .is_some_and(|(claim, _)| claim.0 == address)
    }
}
