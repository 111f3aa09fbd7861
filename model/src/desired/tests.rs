// SPDX-License-Identifier: Apache-2.0
//! Compilation: cases of what a service becomes, and the property that an edit compiles to what a fresh start would.

use std::collections::BTreeSet;

use nodemesh_abi::{Algorithm, ClientKeySource};
use serde_json::{Value, json};

use super::*;
use crate::manifest::Manifest;

mod access;
mod edits;
mod tiers;

fn document(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "nodemesh.io/v1alpha1", "kind": kind,
        "metadata": {"name": name, "labels": {"app": name}}, "spec": spec,
    })
}

fn merge(documents: impl IntoIterator<Item = Value>) -> Resources {
    let manifest = Manifest::from_values(documents);
    Resources::merge([("test", &manifest)]).unwrap()
}

fn compile(documents: impl IntoIterator<Item = Value>) -> Desired {
    Desired::compile(&merge(documents), &Locality::default(), None).unwrap()
}

/// Address, port, weight, state and source of each backend, in order.
fn backends(frontend: &Frontend) -> Vec<String> {
    let show = |b: &crate::FrontendBackend| {
        let source = b.workload.as_ref().map_or("listed", |name| name.name());
        format!("{:?}:{:?} {} {} {source}", b.addr, b.port, b.weight, b.state)
    };
    frontend.backends.iter().map(show).collect()
}

#[test]
fn one_frontend_per_address_and_port() {
    let desired = compile([document(
        "Service",
        "llama",
        &json!({
            "model": "llama-3.1-8b", "addresses": ["10.96.0.10", "fd00:96::10"],
            "ports": [{"name": "http", "port": 80, "targetPort": 8000}, {"name": "udp", "port": 80, "protocol": "UDP"}],
            "backends": [{"address": "10.1.0.10"}, {"address": "10.1.0.9", "state": "draining"}, {"address": "fd00::2", "weight": 5}],
        }),
    )]);
    let found: Vec<_> = desired
        .frontends
        .iter()
        .map(|(name, frontend)| (name.to_string(), backends(frontend)))
        .collect();
    let row = |name: &str, backends: &[&str]| {
        (
            name.to_owned(),
            backends.iter().map(ToString::to_string).collect::<Vec<_>>(),
        )
    };
    assert_eq!(
        found,
        [
            row(
                "default/llama:80/TCP (IPv4)",
                &[
                    "10.1.0.9:8000 1 draining listed",
                    "10.1.0.10:8000 1 active listed"
                ]
            ),
            row("default/llama:80/TCP (IPv6)", &["fd00::2:8000 5 active listed"]),
            row(
                "default/llama:80/UDP (IPv4)",
                &["10.1.0.9:80 1 draining listed", "10.1.0.10:80 1 active listed"]
            ),
            row("default/llama:80/UDP (IPv6)", &["fd00::2:80 5 active listed"]),
        ]
    );
    assert_eq!(desired.backend_count(), 6);
    for (name, frontend) in &desired.frontends {
        assert_eq!(*name, frontend.name());
        assert_eq!(frontend.model.as_deref(), Some("llama-3.1-8b"));
    }
}

#[test]
fn listed_and_selected_backends_are_merged() {
    let mut other = document("Workload", "elsewhere", &json!({"addresses": ["10.1.0.9"]}));
    other["metadata"]["namespace"] = json!("other");
    let workload = |name: &str, address: &str, state: &str| {
        let mut value = document(
            "Workload",
            name,
            &json!({"addresses": [address], "weight": 3, "state": state}),
        );
        value["metadata"]["labels"] = json!({"app": "llama", "name": name});
        value
    };
    let desired = compile([
        document(
            "Service",
            "llama",
            &json!({
                "addresses": ["10.96.0.10"], "ports": [{"port": 80}], "selector": {"app": "llama"},
                "backends": [{"address": "10.1.0.1"}, {"address": "10.1.0.2", "port": 81}],
            }),
        ),
        workload("a", "10.1.0.1", "active"),
        workload("b", "10.1.0.2", "draining"),
        workload("c", "10.1.0.2", "active"),
        workload("d", "10.1.0.2", "active"),
        workload("six", "fd00::1", "active"),
        document("Workload", "unlabelled", &json!({"addresses": ["10.1.0.8"]})),
        other,
    ]);
    let frontend = desired.frontends.values().next().unwrap();
    assert_eq!(
        backends(frontend),
        [
            "10.1.0.1:80 1 active listed",
            "10.1.0.2:80 3 active c",
            "10.1.0.2:81 1 active listed",
        ]
    );
}

#[test]
fn a_backend_may_serve_one_port_alone() {
    let desired = compile([document(
        "Service",
        "llama",
        &json!({
            "addresses": ["10.96.0.10"],
            "ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 81, "targetPort": 9000}],
            "backends": [
                {"address": "10.1.0.1"}, {"address": "10.1.0.2", "portName": "admin"},
                {"address": "10.1.0.3", "portName": "http", "port": 8080, "workload": "llama-3"},
            ],
        }),
    )]);
    let found: Vec<_> = desired
        .frontends
        .values()
        .map(|frontend| backends(frontend))
        .collect();
    assert_eq!(
        found,
        [
            ["10.1.0.1:80 1 active listed", "10.1.0.3:8080 1 active llama-3"],
            ["10.1.0.1:9000 1 active listed", "10.1.0.2:9000 1 active listed"],
        ]
    );
}

#[test]
fn a_policy_shapes_the_frontends_of_its_target() {
    let service = document(
        "Service",
        "a",
        &json!({"addresses": ["10.96.0.10"], "ports": [{"port": 80}]}),
    );
    let policy = json!({
        "targetRef": {"kind": "Service", "name": "a"}, "clientKey": "address",
        "loadBalancer": {"algorithm": "maglev", "tableSize": 4093}, "sessionAffinity": {"timeout": "90s"},
    });
    let frontend = |documents: Vec<Value>| Arc::clone(compile(documents).frontends.values().next().unwrap());
    let plain = frontend(vec![service.clone()]);
    assert_eq!(
        (plain.algorithm, plain.table_size),
        (Algorithm::LeastRequest, None)
    );
    assert_eq!(
        (plain.client_key, plain.affinity_timeout_s),
        (ClientKeySource::Workload, 0)
    );
    let shaped = frontend(vec![service, document("TrafficPolicy", "p", &policy)]);
    assert_eq!(
        (shaped.algorithm, shaped.table_size),
        (Algorithm::Maglev, Some(4093))
    );
    assert_eq!(
        (shaped.client_key, shaped.affinity_timeout_s),
        (ClientKeySource::Address, 90)
    );
}

#[test]
fn workloads_with_a_cgroup_are_clients() {
    let desired = compile([
        document(
            "Workload",
            "both",
            &json!({"addresses": ["fd00::1", "10.1.0.1"], "cgroup": "/pods/both"}),
        ),
        document("Workload", "client", &json!({"cgroup": "pods/client"})),
        document("Workload", "replica", &json!({"addresses": ["10.1.0.2"]})),
    ]);
    let name = |name| ResourceName::new("default", name).unwrap();
    let client = |workload: &ResourceName, addr, cgroup: &str| Client {
        workload: workload_hash(workload),
        addr,
        cgroup: cgroup.into(),
        principal: PrincipalName::Workload(workload.clone()),
        shortcut: false,
    };
    let first: IpAddr = "fd00::1".parse().unwrap();
    assert_eq!(
        desired.clients,
        BTreeMap::from([
            (name("both"), client(&name("both"), first.into(), "pods/both")),
            (
                name("client"),
                client(&name("client"), Ip16::UNSPECIFIED, "pods/client")
            ),
        ])
    );
}

#[test]
fn the_workload_hash_is_fnv_1a_mixed() {
    let name = ResourceName::new("models", "llama-0").unwrap();
    assert_eq!(workload_hash(&name), mix(FNV_OF_MODELS_LLAMA_0));
    let hashes: BTreeSet<u64> = (0..10_000)
        .map(|index| workload_hash(&ResourceName::new("models", &format!("llama-{index}")).unwrap()))
        .collect();
    assert_eq!(hashes.len(), 10_000);
}

/// Computed by another implementation of FNV-1a (64 bits).
const FNV_OF_MODELS_LLAMA_0: u64 = 0xe6c3_b0e2_3b47_1fc8;

#[test]
fn selectors_that_multiply_beyond_the_limit_are_refused() {
    let workloads = (0..10_001_u32).map(|index| {
        let address = std::net::Ipv4Addr::from(0x0a01_0000 + index);
        let mut value = document("Workload", &format!("w{index}"), &json!({"addresses": [address]}));
        value["metadata"]["labels"] = json!({"app": "all"});
        value
    });
    let services = (0..100_u8).map(|index| {
        let spec = json!({"addresses": [format!("10.96.0.{index}")], "ports": [{"port": 80}], "selector": {"app": "all"}});
        document("Service", &format!("s{index}"), &spec)
    });
    let resources = merge(workloads.chain(services));
    assert_eq!(
        Desired::compile(&resources, &Locality::default(), None),
        Err(CompileError::TooManyBackends)
    );
}
