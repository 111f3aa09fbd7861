// SPDX-License-Identifier: Apache-2.0
//! The service of the demo and its policy as YAML: all that an operator writes, once.
//!
//! Invariant: no replica is named here; the selector finds those that register themselves.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use super::replica;

/// Model of the service.
pub(super) const MODEL: &str = "llama-3.1-8b";
/// Name of the service, as the CLI shows it.
pub(super) const SERVICE: &str = "models/llama";
/// Namespace of the service and of its replicas.
pub(super) const NAMESPACE: &str = "models";
/// Label of the replicas, as a flag of `nodemesh register`.
pub(super) const LABEL: &str = "app=llama";
/// How long a replica's registration outlives it.
pub(super) const LEASE: Duration = Duration::from_secs(3);
/// Port of the service. No process listens on it.
pub(super) const PORT: u16 = 8000;
/// Addresses of the service. No interface has them.
pub(super) const VIRTUAL: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd10, 0x96, 0, 0, 0, 0, 0, 0x10)),
];

/// Where clients connect to.
pub(super) fn service_address(index: usize) -> SocketAddr {
    SocketAddr::new(VIRTUAL[index], PORT)
}

/// What is applied.
pub(super) fn manifest() -> String {
    let [v4, v6] = VIRTUAL;
    let target = replica::PORT;
    format!(
        "apiVersion: nodemesh.io/v1alpha1
kind: Service
metadata: {{name: llama, namespace: {NAMESPACE}}}
spec:
  model: {MODEL}
  addresses: [\"{v4}\", \"{v6}\"]
  ports: [{{port: {PORT}, targetPort: {target}}}]
  selector: {{app: llama}}
  packetPath: snat
---
apiVersion: nodemesh.io/v1alpha1
kind: TrafficPolicy
metadata: {{name: llama, namespace: {NAMESPACE}}}
spec:
  targetRef: {{kind: Service, name: llama}}
  loadBalancer: {{algorithm: least-request}}
"
    )
}
