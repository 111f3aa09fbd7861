// SPDX-License-Identifier: Apache-2.0
//! All resources of a node, from all its sources. Made by the agent at each change, then compiled into `Desired`.
//!
//! Invariant: names are unique per kind; no two services share an address, port and protocol; no two policies have the same
//! target; no two workloads share a cgroup; the limits of the ABI hold for what services list themselves.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{
    invalid::InvalidResources,
    manifest::Manifest,
    name::ResourceName,
    resource::{AccessPolicy, Service, Target, TrafficPolicy, Workload, access_policy::AccessTarget},
};

mod access;
mod merge;
mod node;

pub use access::{AccessWarning, MAX_WARNINGS};
pub use node::NodeAccess;

/// A valid set of resources.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    services: BTreeMap<ResourceName, Arc<Service>>,
    workloads: BTreeMap<ResourceName, Arc<Workload>>,
    policies: BTreeMap<ResourceName, Arc<TrafficPolicy>>,
    targets: BTreeMap<Target, Arc<TrafficPolicy>>,
    access_policies: BTreeMap<ResourceName, Arc<AccessPolicy>>,
    access_targets: BTreeMap<AccessTarget, Vec<Arc<AccessPolicy>>>,
}

impl Resources {
    /// Puts the resources of several sources together; each source has a label such as a file name.
    ///
    /// All or nothing: an error of any manifest or between any two resources is an error here. The resources are shared with
    /// the manifests, not copied.
    pub fn merge<'a>(
        manifests: impl IntoIterator<Item = (&'a str, &'a Manifest)>,
    ) -> Result<Self, InvalidResources> {
        merge::merge(manifests)
    }

    /// The services by name.
    pub fn services(&self) -> &BTreeMap<ResourceName, Arc<Service>> {
        &self.services
    }

    /// The workloads by name.
    pub fn workloads(&self) -> &BTreeMap<ResourceName, Arc<Workload>> {
        &self.workloads
    }

    /// The traffic policies by name.
    pub fn policies(&self) -> &BTreeMap<ResourceName, Arc<TrafficPolicy>> {
        &self.policies
    }

    /// The policy that applies to `service`: its own, else that of its namespace.
    pub fn policy_of(&self, service: &ResourceName) -> Option<&Arc<TrafficPolicy>> {
        if self.targets.is_empty() {
            return None;
        }
        self.targets
            .get(&Target::Service(service.clone()))
            .or_else(|| self.targets.get(&Target::Namespace(service.namespace().into())))
    }

    /// The access policies by name.
    pub fn access_policies(&self) -> &BTreeMap<ResourceName, Arc<AccessPolicy>> {
        &self.access_policies
    }

    /// The access policies of each target, sorted by name; none is empty.
    pub(crate) fn access_targets(&self) -> &BTreeMap<AccessTarget, Vec<Arc<AccessPolicy>>> {
        &self.access_targets
    }

    /// The policy of each target.
    pub(crate) fn targets(&self) -> &BTreeMap<Target, Arc<TrafficPolicy>> {
        &self.targets
    }

    /// The services of `namespace`, by name.
    pub fn services_of(&self, namespace: &str) -> impl Iterator<Item = &Arc<Service>> + use<'_> {
        self.services
            .range(ResourceName::range_of(namespace))
            .map(|(_, service)| service)
    }

    /// The workloads of `namespace`, by name.
    pub fn workloads_of(&self, namespace: &str) -> impl Iterator<Item = &Arc<Workload>> + use<'_> {
        self.workloads
            .range(ResourceName::range_of(namespace))
            .map(|(_, workload)| workload)
    }

    /// What is valid but hardly meant.
    pub fn warnings(&self) -> Vec<Warning> {
        let access = access::warnings(self).into_iter().map(Warning::Access);
        self.targets
            .iter()
            .filter_map(|(target, policy)| match target {
                Target::Service(service) if !self.services.contains_key(service) => {
                    Some(Warning::NoSuchTarget {
                        policy: policy.metadata.name.clone(),
                        service: service.clone(),
                    })
                }
                _ => None,
            })
            .chain(access)
            .collect()
    }
}

/// Something valid that is hardly meant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// A policy has a target that does not exist.
    NoSuchTarget {
        /// The policy.
        policy: ResourceName,
        /// Its target.
        service: ResourceName,
    },
    /// Something in the access policies.
    Access(AccessWarning),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchTarget { policy, service } => write!(
                f,
                "TrafficPolicy {policy} has no effect: there is no Service {service}; correct spec.targetRef.name, or create it"
            ),
            Self::Access(warning) => warning.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
