// SPDX-License-Identifier: Apache-2.0
//! The documents of policies: `nodemesh.v1.PolicyDocument`.
//!
//! Invariant: what is kept went through the door of the model, and has the kind and name that its resource's name says.

use std::sync::Arc;

use nodemesh_model::{AccessPolicy, Manifest, Resource, ServiceRules};

use super::{
    decode::decode,
    notes::{Notes, Place, Read},
};
use crate::{names::policy_name, v1::PolicyDocument};

/// A policy.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Policy {
    /// Who may connect.
    Access(Arc<AccessPolicy>),
    /// What holds for the clusters that name it, besides balancing.
    Rules(Arc<ServiceRules>),
}

/// Reads the document `name`.
pub(super) fn read(name: &str, value: &[u8], notes: &mut Notes) -> Read<Policy> {
    let place = Place::ROOT;
    let wire: PolicyDocument = decode(value, place, notes)?;
    let place = place.field("document");
    let document = match serde_json::from_str(&wire.document) {
        Ok(document) => document,
        Err(error) => return place.refuse(format_args!("is no JSON document: {error}")),
    };
    let manifest = Manifest::from_values([document]);
    if let Some(error) = manifest.errors().listed().first() {
        return place.field(&error.field).refuse(&error.problem);
    }
    let mut resources = manifest.resources();
    let (Some(resource), None) = (resources.next(), resources.next()) else {
        return place.refuse("is not one resource; send each policy as a resource of its own");
    };
    let own = policy_name(resource.kind(), &resource.metadata().name);
    if own != name {
        return place.refuse(format_args!(
            "is {own}, but the resource is {name:?}; give both the same name"
        ));
    }
    match resource {
        Resource::AccessPolicy(policy) => Ok(Policy::Access(Arc::clone(policy))),
        Resource::TrafficPolicy(policy) => Ok(Policy::Rules(Arc::clone(&policy.rules))),
        Resource::Service(_) | Resource::Workload(_) => {
            place.refuse("is no policy; send services and workloads in the types of xDS")
        }
    }
}
