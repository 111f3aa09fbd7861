// SPDX-License-Identifier: Apache-2.0
//! What the listeners of a service say together about the packet path. Called by `service`.
//!
//! Invariant: what is put into the document is valid for the model: what is not is left out and noted.

use std::{collections::BTreeSet, net::IpAddr};

use nodemesh_model::{Family, Keyword as _, PacketMode};
use serde_json::{Value, json};

use super::{Draft, Listener, Ports};

/// Adds the fields of the packet path to the `spec` of a service with `addresses`, `ports` (in the order of those of the document) and
/// `backends`.
pub(super) fn add(
    spec: &mut Value,
    listeners: &[(&str, &Listener)],
    ports: &Ports<'_>,
    addresses: &[IpAddr],
    draft: &mut Draft,
) {
    let mode = listeners
        .iter()
        .find_map(|(_, listener)| listener.packet.mode.as_deref());
    let external = external(listeners, addresses, draft);
    let mut node_ports = node_ports(listeners, ports, draft);
    let mode = mode.and_then(PacketMode::from_word);
    if mode == Some(PacketMode::Dsr) {
        if let Some(name) = forwarded(spec, listeners) {
            draft.note_listener(
                name,
                "off the packet path: with dsr replicas listen at the service's own port",
            );
            return;
        }
        if node_ports.iter().any(Option::is_some) {
            draft.note_listener(
                listeners[0].0,
                "no node ports: with dsr a replica answers from the service's address",
            );
            node_ports.fill(None);
        }
    }
    if let Some(mode) = mode {
        spec["packetPath"] = mode.word().into();
    }
    if !external.is_empty() {
        spec["externalAddresses"] = json!(external);
    }
    for (index, node_port) in node_ports.into_iter().enumerate() {
        if let Some(node_port) = node_port {
            spec["ports"][index]["nodePort"] = node_port.into();
        }
    }
}

/// The external addresses of all listeners that the service can have.
fn external(listeners: &[(&str, &Listener)], addresses: &[IpAddr], draft: &mut Draft) -> BTreeSet<IpAddr> {
    let mut external = BTreeSet::new();
    for (name, listener) in listeners {
        let parsed = listener
            .packet
            .external
            .iter()
            .filter_map(|text| text.parse::<IpAddr>().ok());
        for address in parsed.map(|address| address.to_canonical()) {
            let family = Family::of(address);
            if addresses.contains(&address) || addresses.iter().all(|own| Family::of(*own) != family) {
                draft.note_listener(
                    name,
                    "external addresses are of a family of the service, and not among its own",
                );
            } else {
                external.insert(address);
            }
        }
    }
    external
}

/// The node port of each port, as its first listener that has one says.
fn node_ports(listeners: &[(&str, &Listener)], ports: &Ports<'_>, draft: &mut Draft) -> Vec<Option<u32>> {
    let mut taken = BTreeSet::new();
    let mut node_port = |(port, protocol)| {
        let (name, node_port) = listeners.iter().find_map(|(name, listener)| {
            let is_it = (listener.port, listener.protocol) == (port, protocol);
            Some((*name, listener.packet.node_port.filter(|_| is_it)?))
        })?;
        if taken.insert((node_port, protocol)) {
            return Some(node_port);
        }
        draft.note_listener(name, "its node port is that of another port of the service");
        None
    };
    ports.keys().map(|key| node_port(*key)).collect()
}

/// The first listener of a port whose replicas listen at another one.
fn forwarded<'a>(spec: &Value, listeners: &[(&'a str, &Listener)]) -> Option<&'a str> {
    let is_other = |field: &Value, port: u64| field.as_u64().is_some_and(|own| own != port);
    let listens_elsewhere = |port: &Value| {
        let number = port["port"].as_u64().unwrap_or_default();
        let mut backends = spec["backends"].as_array().into_iter().flatten();
        is_other(&port["targetPort"], number)
            || backends.any(|backend| {
                let serves = backend["portName"].is_null() || backend["portName"] == port["name"];
                serves && is_other(&backend["port"], number)
            })
    };
    let port = spec["ports"]
        .as_array()?
        .iter()
        .find(|port| listens_elsewhere(port))?;
    let number = port["port"].as_u64();
    let mut names = listeners.iter();
    names
        .find(|(_, listener)| Some(u64::from(listener.port)) == number)
        .map(|(name, _)| *name)
}
