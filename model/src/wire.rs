// SPDX-License-Identifier: Apache-2.0
//! The resources as they are written: field names, nothing checked but their types. Read by `manifest`, consumed by the
//! `TryFrom` of each domain type.
//!
//! Invariant: numbers are `i64` and words are `String` here, so that a value out of range reaches the domain's check, which
//! names the range, and does not stop at the first one.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, de::IgnoredAny};

use crate::schema::words;

mod admission;

pub(crate) use admission::*;

/// `apiVersion` of every resource.
pub(crate) const API_VERSION: &str = "nodemesh.io/v1alpha1";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Document<S> {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    pub(crate) metadata: Metadata,
    pub(crate) spec: S,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

/// What clients dial, and the replicas behind it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "self.ports.size() == 1 || self.ports.all(port, has(port.name))", "message": "each of several ports needs a name"}]))]
pub(crate) struct ServiceSpec {
    /// Name of the model that the replicas serve.
    #[schemars(length(min = 1, max = 253))]
    pub(crate) model: Option<String>,
    /// Virtual addresses that clients dial: one or, dual stack, one per family.
    #[schemars(length(min = 1, max = 2))]
    pub(crate) addresses: Vec<String>,
    /// Ports of these addresses.
    #[schemars(length(min = 1, max = 256))]
    pub(crate) ports: Vec<ServicePort>,
    /// Replicas.
    #[schemars(length(max = 4096))]
    pub(crate) backends: Option<Vec<Backend>>,
    /// Labels of the Workloads of the namespace that are replicas too.
    pub(crate) selector: Option<BTreeMap<String, String>>,
    /// How packets of clients outside the mesh are sent on; these reach the service only if this, an external address or a node port is
    /// given.
    #[schemars(extend("enum" = words::<crate::PacketMode>()))]
    pub(crate) packet_path: Option<String>,
    /// Addresses beside the virtual ones, for clients outside the mesh.
    #[schemars(length(max = 64))]
    pub(crate) external_addresses: Option<Vec<String>>,
}

/// A port.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ServicePort {
    /// Name of the port; needed where there are several.
    #[schemars(length(max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub(crate) name: Option<String>,
    /// Port that clients dial.
    #[schemars(range(min = 1, max = 65535))]
    pub(crate) port: i64,
    /// Transport protocol.
    #[schemars(extend("enum" = words::<nodemesh_abi::Protocol>(), "default" = "TCP"))]
    pub(crate) protocol: Option<String>,
    /// Port of the replicas that name none of their own; that of the service if absent.
    #[schemars(range(min = 1, max = 65535))]
    pub(crate) target_port: Option<i64>,
    /// Port at which every node answers clients outside the mesh.
    #[schemars(range(min = 1024, max = 32767))]
    pub(crate) node_port: Option<i64>,
}

/// A replica.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Backend {
    /// IP address of the replica.
    pub(crate) address: String,
    /// The one port of the service that it serves; all if absent.
    pub(crate) port_name: Option<String>,
    /// Its port; the target port if absent.
    #[schemars(range(min = 1, max = 65535))]
    pub(crate) port: Option<i64>,
    /// Its share of the load.
    #[schemars(range(min = 1, max = 65535))]
    pub(crate) weight: Option<i64>,
    /// Whether it takes new connections.
    #[schemars(extend("enum" = words::<crate::BackendState>()))]
    pub(crate) state: Option<String>,
    /// Where it is.
    pub(crate) locality: Option<Locality>,
    /// Name of the Workload that it is.
    pub(crate) workload: Option<String>,
}

/// A process or pod: a replica, a client, or both.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "has(self.addresses) || has(self.cgroup)", "message": "give addresses, a cgroup, or both"}]))]
pub(crate) struct WorkloadSpec {
    /// Its IP addresses, at most one per family.
    pub(crate) addresses: Option<Vec<String>>,
    /// Its share of the load as a replica.
    #[schemars(range(min = 1, max = 65535))]
    pub(crate) weight: Option<i64>,
    /// Whether it takes new connections as a replica.
    #[schemars(extend("enum" = words::<crate::BackendState>()))]
    pub(crate) state: Option<String>,
    /// Cgroup of its processes: a path below the cgroup v2 root, or pod:UID.
    pub(crate) cgroup: Option<String>,
    /// SPIFFE ID; one of its namespace and name if absent.
    pub(crate) identity: Option<String>,
    /// Where it is.
    pub(crate) locality: Option<Locality>,
}

/// How much may connect, and to which replicas.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "self.targetRef.kind == 'Service'", "message": "the target of a TrafficPolicy is a Service"}]))]
pub(crate) struct TrafficPolicySpec {
    /// The service; all services of the namespace without a name.
    pub(crate) target_ref: TargetRef,
    /// How a replica is chosen.
    pub(crate) load_balancer: Option<LoadBalancer>,
    /// What makes a client the same client.
    #[schemars(extend("enum" = words::<nodemesh_abi::ClientKeySource>()))]
    pub(crate) client_key: Option<String>,
    /// Keeps a client with its replica.
    pub(crate) session_affinity: Option<SessionAffinity>,
    /// How much is let in.
    pub(crate) limits: Option<Limits>,
    /// When a replica is left alone for a while.
    pub(crate) outlier_detection: Option<OutlierDetection>,
    /// Questions that the agents ask replicas.
    pub(crate) health_checks: Option<HealthCheck>,
    /// How a new replica gets its share.
    pub(crate) slow_start: Option<SlowStart>,
    /// Which replicas come first.
    pub(crate) locality: Option<LocalityTiers>,
    /// What happens to TCP connections of a replica that is removed.
    #[schemars(extend("enum" = words::<crate::OnRemoval>()))]
    pub(crate) on_removal: Option<String>,
    /// Whether messages between sockets of one node may go past TCP.
    pub(crate) shortcut: Option<Shortcut>,
}

/// What the policy applies to.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TargetRef {
    /// Kind of the target.
    #[schemars(extend("enum" = ["Service", "Mesh"]))]
    pub(crate) kind: String,
    /// Its name; without one all of the namespace.
    pub(crate) name: Option<String>,
}

/// How a replica is chosen.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct LoadBalancer {
    /// The algorithm.
    #[schemars(extend("enum" = words::<nodemesh_abi::Algorithm>()))]
    pub(crate) algorithm: Option<String>,
    /// Slots of the table of maglev.
    #[schemars(range(min = 251, max = 1_048_573))]
    pub(crate) table_size: Option<i64>,
}

/// Keeps a client with its replica.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionAffinity {
    /// How long without a connection until the client may be given to another replica, such as 10m.
    pub(crate) timeout: String,
}
