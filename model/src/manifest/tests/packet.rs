// SPDX-License-Identifier: Apache-2.0
//! Cases of the packet path's fields, and what a service claims by them.

use nodemesh_abi::Protocol;

use super::{fields, service};
use crate::{Resources, keyword::PacketMode, manifest::Manifest};

const FIELDS: fields::Cases = &[
    (
        "packetPath: nat\nports: [{port: 80}]",
        &["spec.packetPath: \"nat\" is not known here; did you mean \"snat\"?"],
    ),
    (
        "externalAddresses: [203.0.113.7, 203.0.113.7, 10.96.0.10, \"2001:db8::7\", nowhere]\nports: [{port: 80}]",
        &[
            "spec.externalAddresses[1]: 203.0.113.7 is given twice; name each address once, in addresses or in externalAddresses",
            "spec.externalAddresses[2]: 10.96.0.10 is given twice; name each address once, in addresses or in externalAddresses",
            "spec.externalAddresses[3]: 2001:db8::7 is IPv6, but the service has no IPv6 address; add one to spec.addresses, or remove this one",
            "spec.externalAddresses[4]: \"nowhere\" is no IP address; write one such as 10.1.0.2 or fd00::2 (host names are not resolved)",
        ],
    ),
    (
        "ports: [{name: a, port: 80, nodePort: 22}, {name: b, port: 81, nodePort: 40000}, {name: c, port: 82, nodePort: 0}]",
        &[
            "spec.ports[0].nodePort: node port is 22; use 1024 to 32767: the node's own services are below, the ports of its own connections above",
            "spec.ports[1].nodePort: node port is 40000; use 1024 to 32767: the node's own services are below, the ports of its own connections above",
            "spec.ports[2].nodePort: node port is 0; use 1024 to 32767: the node's own services are below, the ports of its own connections above",
        ],
    ),
    (
        "ports: [{name: a, port: 80, nodePort: 30080}, {name: b, port: 80, protocol: UDP, nodePort: 30080}, {name: c, port: 82, nodePort: 30080}]",
        &["spec.ports[2].nodePort: 30080/TCP is already the node port of ports[0]; give each its own"],
    ),
    (
        "packetPath: dsr\nports: [{port: 80, targetPort: 8000, nodePort: 30080}]\nbackends: [{address: 10.1.0.2, port: 80}, {address: 10.1.0.3, port: 81}]",
        &[
            "spec.ports[0].targetPort: is 8000, but with packetPath dsr a replica is sent what the client sent, to port 80; use that port, or packetPath snat",
            "spec.ports[0].nodePort: with packetPath dsr a replica answers from the address that the client asked, which of a node port is the node's; remove it, or use packetPath snat",
            "spec.backends[1].port: is 81, but with packetPath dsr a replica is sent what the client sent, to port 80; use that port, or packetPath snat",
        ],
    ),
    (
        "packetPath: dsr\nports: [{port: 80}]\nbackends: [{address: 10.1.0.2}]",
        &[],
    ),
];

#[test]
fn packet_path_fields() {
    fields::check("Service", "addresses: [10.96.0.10]\n", FIELDS);
}

#[test]
fn a_node_port_or_an_external_address_asks_for_the_packet_path() {
    let text = |more: &str, port: &str| {
        format!(
            "apiVersion: nodemesh.io/v1alpha1\nkind: Service\nmetadata: {{name: llama}}\n\
             spec: {{addresses: [10.96.0.10], {more} ports: [{{port: 80{port}}}]}}"
        )
    };
    assert_eq!(service(&text("", "")).packet, None);
    let external = service(&text("externalAddresses: [203.0.113.7],", ", nodePort: 30080"));
    assert_eq!(external.packet.as_ref().unwrap().mode, PacketMode::Snat);
    let claims: Vec<_> = external
        .claims()
        .map(|(address, port, _)| (address.to_string(), port))
        .collect();
    let expected = [("10.96.0.10", 80), ("203.0.113.7", 80), ("0.0.0.0", 30_080)];
    assert_eq!(claims, expected.map(|(address, port)| (address.to_owned(), port)));
    assert!(external.claims().all(|(.., protocol)| protocol == Protocol::Tcp));
    let preserve = service(&text("packetPath: preserve,", ""));
    assert_eq!(preserve.packet.as_ref().unwrap().mode, PacketMode::Preserve);
}

#[test]
fn two_services_cannot_answer_at_the_same_place() {
    let service = |name: &str, spec: &str| {
        format!(
            "apiVersion: nodemesh.io/v1alpha1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n"
        )
    };
    let first = service(
        "a",
        "addresses: [10.96.0.1], externalAddresses: [203.0.113.7], ports: [{port: 80, nodePort: 30080}]",
    );
    let second = service(
        "b",
        "addresses: [203.0.113.7], externalAddresses: [10.96.0.1], ports: [{port: 80, nodePort: 30080}]",
    );
    let manifest = Manifest::parse(&(first + &second));
    let errors = Resources::merge([("mesh.yaml", &manifest)])
        .unwrap_err()
        .to_string();
    let owner = "is already that of Service default/a (mesh.yaml, document 1); change one of the two";
    let expected = [
        ("spec.addresses[0]", "203.0.113.7 port 80/TCP"),
        ("spec.externalAddresses", "10.96.0.1 port 80/TCP"),
        ("spec.ports[0].nodePort", "of every node, port 30080/TCP"),
    ]
    .map(|(field, place)| format!("mesh.yaml: document 2, Service default/b, {field}: {place} {owner}"));
    assert_eq!(errors, expected.join("\n"));
}
