// SPDX-License-Identifier: Apache-2.0
//! What the mesh needs to know of each object of the cluster, and nothing else of it.
//!
//! Read by `reflect` from what the API server sends; used by `translate`. Invariant: two values are equal if the mesh cannot tell
//! their objects apart, so that a heartbeat of a node or a new status of a pod is no change.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use nodemesh_model::Kind;
use serde_json::Value;

pub(super) mod endpoints;
pub(super) mod network_policy;
pub(super) mod pod;
pub(super) mod service;
pub(super) mod topology;

pub(super) use endpoints::{Endpoint, EndpointPort, EndpointSlice};
pub(super) use network_policy::NetworkPolicy;
pub(super) use pod::Pod;
pub(super) use service::{Port, Reach, Service};
pub(super) use topology::{Namespace, Node};

/// Labels or annotations.
pub(super) type Labels = BTreeMap<String, String>;

/// Namespace and name; the namespace of a cluster-wide object is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ObjectName {
    /// The object `name` of `namespace`.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A custom resource of ours: the document that it is, without what the API server adds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Custom {
    pub(super) kind: Kind,
    pub(super) document: Value,
    /// Counts the changes of its spec.
    pub(super) generation: i64,
}

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Object {
    Service(Service),
    EndpointSlice(EndpointSlice),
    Pod(Pod),
    Node(Node),
    Namespace(Namespace),
    NetworkPolicy(NetworkPolicy),
    Custom(Custom),
}

/// Addresses that can be read; the API server has checked them, so others are of a form that is not known here.
fn addresses<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<IpAddr> {
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}
