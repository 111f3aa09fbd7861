// SPDX-License-Identifier: Apache-2.0
//! A pod to a workload: its addresses, its cgroup and whom it speaks for.
//!
//! Called by `mesh`. Invariant: a pod in the network of its node has no address of its own, so nobody is taken for it.

use nodemesh_model::Kind;
use serde_json::{Map, json};

use super::{
    super::object::{ObjectName, Pod},
    Translation,
    endpoints::{Topology, locality},
};

/// What `pod` comes down to; nothing for one that has ended or is not on a node yet.
pub(crate) fn translate(
    name: &ObjectName,
    pod: &Pod,
    topology: &impl Topology,
    trust_domain: &str,
) -> Translation {
    let mut translation = Translation::default();
    let Some(node) = pod.node.as_deref().filter(|_| pod.is_live) else {
        return translation;
    };
    let mut spec = Map::new();
    if !pod.has_host_network && !pod.addresses.is_empty() {
        spec.insert("addresses".to_owned(), json!(pod.addresses));
    }
    spec.insert("cgroup".to_owned(), format!("pod:{}", pod.uid).into());
    let identity = format!(
        "spiffe://{trust_domain}/ns/{}/sa/{}",
        name.namespace, pod.service_account
    );
    spec.insert("identity".to_owned(), identity.into());
    if let Some(locality) = locality(Some(node), None, topology) {
        spec.insert("locality".to_owned(), locality);
    }
    translation.put(Kind::Workload, name, &pod.labels, spec);
    translation
}
