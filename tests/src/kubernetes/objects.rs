// SPDX-License-Identifier: Apache-2.0
//! Objects of the API, as JSON. Invariant: they are in the namespace of the tests unless they have none.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::NAMESPACE;

/// An object of a kind, with nothing but its name.
pub fn object(version: &str, kind: &str, name: &str) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}})
}

/// A resource of ours.
pub fn custom(kind: &str, name: &str, spec: Value) -> Value {
    let mut object = object("nodemesh.io/v1alpha1", kind, name);
    object["spec"] = spec;
    object
}

/// A namespace whose Services are in the mesh.
pub fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name, "nodemesh.io/mesh": "enabled"}},
    })
}

/// A node, in a zone of its own.
pub fn node(name: &str) -> Value {
    let labels =
        json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{name}")});
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
}

/// A Service at `address` that has one port without a name.
pub fn service(name: &str, address: SocketAddr) -> Value {
    let mut object = object("v1", "Service", name);
    object["spec"] = json!({
        "clusterIP": address.ip(), "clusterIPs": [address.ip()], "type": "ClusterIP", "selector": {"app": name},
        "ports": [{"port": address.port(), "protocol": "TCP", "targetPort": 9000}],
    });
    object
}

/// A slice of `service`, with `endpoints` at `port`.
pub fn slice(service: &str, name: &str, port: u16, endpoints: &[Value]) -> Value {
    let mut object = object("discovery.k8s.io/v1", "EndpointSlice", name);
    object["metadata"]["labels"] = json!({"kubernetes.io/service-name": service});
    object["addressType"] = "IPv4".into();
    object["ports"] = json!([{"name": "", "port": port, "protocol": "TCP"}]);
    object["endpoints"] = endpoints.into();
    object
}

/// A policy for the pods with `labels`.
pub fn network_policy(name: &str, labels: &Value, rules: Value) -> Value {
    let mut object = object("networking.k8s.io/v1", "NetworkPolicy", name);
    object["spec"] = rules;
    object["spec"]["podSelector"] = json!({"matchLabels": labels});
    object
}

/// `object` with annotations.
#[must_use]
pub fn annotated(mut object: Value, annotations: Value) -> Value {
    object["metadata"]["annotations"] = annotations;
    object
}

/// One document for `kubectl`.
pub(super) fn document(objects: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()
}
