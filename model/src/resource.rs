// SPDX-License-Identifier: Apache-2.0
//! The validated resources. Built by `manifest` through the `TryFrom` of each, shared as `Arc` from then on.
//!
//! Invariant: a value of these types holds for itself (ranges, uniqueness within); what holds between resources is checked by
//! `Resources::merge`. `#[non_exhaustive]` keeps `TryFrom` the only way to make one.

use std::sync::Arc;

use crate::{
    invalid::{Findings, Problem},
    keyword::Kind,
    name::{DEFAULT_NAMESPACE, Labels, ResourceName, dns_label, label_key, label_value},
    wire,
};

pub mod access_policy;
pub mod address;
pub mod identity;
pub mod locality;
pub mod packet;
pub mod policy;
pub mod service;
pub mod workload;

pub use access_policy::AccessPolicy;
pub use locality::{Locality, LocalityLevel};
pub use packet::PacketPath;
pub use policy::{LoadBalancer, Target, TrafficPolicy};
pub use service::{Backend, Service, ServicePort};
pub use workload::Workload;

/// Name, labels and annotations.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metadata {
    /// Name within the kind.
    pub name: ResourceName,
    /// What selectors match.
    pub labels: Labels,
    /// For people and tools; without effect.
    pub annotations: Labels,
}

impl Metadata {
    /// Notes every problem of `wire`; `None` only if there is one.
    pub(crate) fn validate(wire: wire::Metadata, findings: &mut Findings) -> Option<Self> {
        let namespace = wire.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        findings.check("metadata.namespace", dns_label(namespace));
        findings.check("metadata.name", dns_label(&wire.name));
        let name = ResourceName::new(namespace, &wire.name).ok()?;
        let labels = wire.labels.unwrap_or_default();
        check_labels("metadata.labels", &labels, findings);
        Some(Self {
            name,
            labels,
            annotations: wire.annotations.unwrap_or_default(),
        })
    }
}

/// Notes every key and value that is no label.
fn check_labels(field: &str, labels: &Labels, findings: &mut Findings) {
    for (key, value) in labels {
        findings.check(field, label_key(key));
        findings.check(format_args!("{field}.{key}"), label_value(value));
    }
}

/// Reads a weight: 1 to 65535; absent means 1.
pub fn weight(wire: Option<i64>) -> Result<u32, Problem> {
    match wire {
        None => Ok(1),
        Some(0) => Err(Problem::WeightZero),
        Some(found) => u32::try_from(found)
            .ok()
            .filter(|weight| *weight <= nodemesh_abi::limits::MAX_WEIGHT)
            .ok_or(Problem::WeightRange { found }),
    }
}

/// A resource of any kind.
#[derive(Clone, Debug)]
pub enum Resource {
    /// A service.
    Service(Arc<Service>),
    /// A workload.
    Workload(Arc<Workload>),
    /// A traffic policy.
    TrafficPolicy(Arc<TrafficPolicy>),
    /// An access policy.
    AccessPolicy(Arc<AccessPolicy>),
}

impl Resource {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::Workload(_) => Kind::Workload,
            Self::TrafficPolicy(_) => Kind::TrafficPolicy,
            Self::AccessPolicy(_) => Kind::AccessPolicy,
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Service(service) => &service.metadata,
            Self::Workload(workload) => &workload.metadata,
            Self::TrafficPolicy(policy) => &policy.metadata,
            Self::AccessPolicy(policy) => &policy.metadata,
        }
    }

    /// Takes the allocation of `previous` if it has the same content.
    pub(crate) fn share(&mut self, previous: &Self) {
        match (self, previous) {
            (Self::Service(new), Self::Service(old)) if *new == *old => new.clone_from(old),
            (Self::Workload(new), Self::Workload(old)) if *new == *old => new.clone_from(old),
            (Self::TrafficPolicy(new), Self::TrafficPolicy(old)) if *new == *old => new.clone_from(old),
            (Self::AccessPolicy(new), Self::AccessPolicy(old)) if *new == *old => new.clone_from(old),
            _ => {}
        }
    }
}
