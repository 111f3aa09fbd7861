// SPDX-License-Identifier: Apache-2.0
//! Nodes and namespaces: where things are, and which of them are in the mesh. Read by `reflect`.
//!
//! Invariant: nothing of what changes by itself (heartbeats, images, conditions) is in here.

use k8s_openapi::api::core::v1::{Namespace as ApiNamespace, Node as ApiNode};

use super::Labels;

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Where a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) region: Option<String>,
    pub(crate) zone: Option<String>,
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Namespace {
    pub(crate) labels: Labels,
    pub(crate) annotations: Labels,
}

impl From<ApiNode> for Node {
    fn from(api: ApiNode) -> Self {
        let mut labels = api.metadata.labels.unwrap_or_default();
        Self {
            region: labels.remove(REGION),
            zone: labels.remove(ZONE),
        }
    }
}

impl From<ApiNamespace> for Namespace {
    fn from(api: ApiNamespace) -> Self {
        Self {
            labels: api.metadata.labels.unwrap_or_default(),
            annotations: api.metadata.annotations.unwrap_or_default(),
        }
    }
}
