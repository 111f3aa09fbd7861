// SPDX-License-Identifier: Apache-2.0
//! The ways by which clients outside the mesh reach a Service (external addresses, load balancers, node ports) to the packet path.
//!
//! Called by `service`. Invariant: nothing of it without the annotation: as long as nobody asks, it is the business of kube-proxy. What
//! cannot be had is noted and left out as a whole.

use nodemesh_model::{Family, Kind, Manifest, document::document};
use serde_json::{Map, Value, json};

use super::{
    super::{
        finding::{Finding, Reason},
        object::Service,
    },
    annotations::PACKET_PATH,
};

/// Direct server return leaves ports as they are, so there are no node ports with it.
const DIRECT: &str = "dsr";

/// Adds to `spec`, the spec of the service, what the annotation asks for.
pub(crate) fn read(
    service: &Service,
    families: &[Family],
    spec: &mut Map<String, Value>,
    findings: &mut Vec<Finding>,
) {
    let Some(mode) = service.annotations.get(PACKET_PATH).map(|mode| mode.trim()) else {
        return;
    };
    let mut asked = spec.clone();
    asked.insert("packetPath".to_owned(), mode.into());
    let external = service.external_ips.iter();
    let mut external: Vec<_> = external
        .filter(|address| families.contains(&Family::of(**address)))
        .collect();
    external.sort_unstable();
    external.dedup();
    if !external.is_empty() {
        asked.insert("externalAddresses".to_owned(), json!(external));
    }
    if mode != DIRECT {
        add_node_ports(service, &mut asked);
    }
    let metadata = json!({"name": "a"});
    let manifest = Manifest::from_values([document(Kind::Service, metadata, asked.clone().into())]);
    let problems: Vec<String> = manifest
        .errors()
        .listed()
        .iter()
        .map(|error| format!("{}: {}", error.field, error.problem))
        .collect();
    if problems.is_empty() {
        *spec = asked;
    } else {
        findings.push(Finding::new(
            Reason::InvalidAnnotation,
            format!(
                "annotation {PACKET_PATH}: {}; it has no effect",
                problems.join("; ")
            ),
        ));
    }
}

fn add_node_ports(service: &Service, spec: &mut Map<String, Value>) {
    let documents = spec.get_mut("ports").and_then(Value::as_array_mut);
    for fields in documents.into_iter().flatten().filter_map(Value::as_object_mut) {
        let same = service.ports.iter().find(|port| {
            Some(&Value::from(port.number)) == fields.get("port")
                && Some(&Value::from(port.protocol.as_str())) == fields.get("protocol")
        });
        if let Some(node_port) = same.and_then(|port| port.on_nodes).filter(|port| *port > 0) {
            fields.insert("nodePort".to_owned(), node_port.into());
        }
    }
}
