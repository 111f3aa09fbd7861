// SPDX-License-Identifier: Apache-2.0
//! The service of the demo as YAML, the same for every node: what an operator would write.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::replica::Replica;

/// Model of the service.
pub(super) const MODEL: &str = "llama-3.1-8b";
/// Name of the service, as the CLI shows it.
pub(super) const SERVICE: &str = "models/llama";
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

/// The service with the replicas that it lists.
pub(super) fn manifest(replicas: &[Replica]) -> String {
    let [v4, v6] = VIRTUAL;
    let mut yaml = format!(
        "apiVersion: nodemesh.io/v1alpha1
kind: Service
metadata: {{name: llama, namespace: models}}
spec:
  model: {MODEL}
  addresses: [\"{v4}\", \"{v6}\"]
  ports: [{{port: {PORT}}}]
  backends:
"
    );
    for replica in replicas {
        let Some(state) = replica.listed else { continue };
        for address in replica.addresses() {
            let _ = writeln!(
                yaml,
                "  - {{address: \"{}\", port: {}, state: {}}} # {}",
                address.ip(),
                address.port(),
                state.word(),
                replica.cast.name
            );
        }
    }
    yaml.push_str(
        "---
apiVersion: nodemesh.io/v1alpha1
kind: TrafficPolicy
metadata: {name: llama, namespace: models}
spec:
  targetRef: {kind: Service, name: llama}
  loadBalancer: {algorithm: least-request}
",
    );
    yaml
}
