// SPDX-License-Identifier: Apache-2.0
//! Random valid resources, for property tests here and (feature `strategies`) in other crates.
//!
//! Invariant: the documents of one [`documents`] merge without a conflict.

use std::net::{Ipv4Addr, Ipv6Addr};

use nodemesh_abi::{Algorithm, ClientKeySource};
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};

use crate::keyword::Keyword;

mod access;
mod rules;

/// Services, workloads and policies that refer to each other: up to eight of each kind in two namespaces.
pub fn documents() -> impl Strategy<Value = Vec<Value>> {
    let access = option::weighted(0.7, vec(access::policy(), 1..8));
    (
        vec(service(), 0..8),
        vec(workload(), 0..8),
        vec(policy(), 0..8),
        access,
    )
        .prop_map(|(services, workloads, policies, access)| {
            let numbered = |make: fn(usize, &Value) -> Value, specs: Vec<Value>| {
                specs
                    .into_iter()
                    .enumerate()
                    .map(move |(at, spec)| make(at, &spec))
            };
            numbered(place_service, services)
                .chain(numbered(place_workload, workloads))
                .chain(numbered(place_policy, policies))
                .chain(numbered(access::place, access.unwrap_or_default()))
                .collect()
        })
}

const LABELS: [&str; 3] = ["llama", "qwen", "embed"];

fn named(kind: &str, at: usize, label: &Value, spec: &Value) -> Value {
    let namespace = ["default", "models"][at % 2];
    json!({
        "apiVersion": "nodemesh.io/v1alpha1", "kind": kind,
        "metadata": {"name": format!("n{}", at / 2), "namespace": namespace, "labels": {"app": label}},
        "spec": spec,
    })
}

/// Gives the service number `at` addresses of its own.
fn place_service(at: usize, spec: &Value) -> Value {
    let mut spec = spec.clone();
    let v4 = json!(format!("10.96.0.{}", at + 1));
    let v6 = json!(format!("fd00:96::{}", at + 1));
    spec["addresses"] = match spec["addresses"].as_u64() {
        Some(0) => json!([v4]),
        Some(1) => json!([v6]),
        Some(2) => json!([v6, v4]),
        _ => json!([v4, v6]),
    };
    let (has_v4, has_v6) = (spec["addresses"] != json!([v6]), spec["addresses"] != json!([v4]));
    let fits = |backend: &Value| {
        let is_v6 = backend["address"].as_str().is_some_and(|text| text.contains(':'));
        if is_v6 { has_v6 } else { has_v4 }
    };
    if let Some(backends) = spec["backends"].as_array_mut() {
        backends.retain(fits);
    }
    place_packet_path(at, &mut spec, has_v4, has_v6);
    named("Service", at, &json!("service"), &spec)
}

/// Gives the service number `at` external addresses and node ports of its own, where it is to have some.
fn place_packet_path(at: usize, spec: &mut Value, has_v4: bool, has_v6: bool) {
    let external = [
        has_v4.then(|| format!("198.51.100.{at}")),
        has_v6.then(|| format!("2001:db8::{at}")),
    ];
    let fields = spec.as_object_mut().expect("the strategy makes a mapping");
    if fields["externalAddresses"].as_bool() == Some(true) {
        let external: Vec<_> = external.into_iter().flatten().collect();
        fields.insert("externalAddresses".to_owned(), json!(external));
    } else {
        fields.remove("externalAddresses");
    }
    for (index, port) in spec["ports"].as_array_mut().into_iter().flatten().enumerate() {
        if port["nodePort"].as_bool() == Some(true) {
            port["nodePort"] = json!(30_000 + 10 * at + index);
        } else {
            port["nodePort"] = Value::Null;
        }
    }
}

fn place_workload(at: usize, spec: &Value) -> Value {
    let mut spec = spec.clone();
    let label = spec["label"].take();
    let fields = spec.as_object_mut().expect("the strategy makes a mapping");
    fields.remove("label");
    if fields.contains_key("cgroup") || fields["addresses"] == json!([]) {
        fields.insert("cgroup".to_owned(), json!(format!("kubepods/pod{at}")));
    }
    named("Workload", at, &label, &spec)
}

/// The first policy of each namespace may be that of the whole namespace.
fn place_policy(at: usize, spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["targetRef"] = match spec["targetRef"].as_bool() {
        Some(true) if at < 2 => json!({"kind": "Service"}),
        _ => json!({"kind": "Service", "name": format!("n{}", at / 2)}),
    };
    named("TrafficPolicy", at, &json!("policy"), &spec)
}

fn service() -> impl Strategy<Value = Value> {
    let ports = prop_oneof![vec(port(), 1..2), vec(port(), 1..4),].prop_map(distinct_ports);
    let model = option::of(select(vec!["meta-llama/Llama-3.1-8B", "qwen \"2.5\" ü"]));
    let packet = (option::of(select(vec!["snat", "preserve"])), any::<bool>());
    (
        0..4_u8,
        ports,
        vec(backend(), 0..12),
        option::of(select(&LABELS[..])),
        model,
        packet,
    )
        .prop_map(
            |(addresses, ports, mut backends, selector, model, (mode, external))| {
                for backend in &mut backends {
                    let port = backend["portName"].as_u64().unwrap_or(u64::MAX);
                    let port = ports.get(port as usize).filter(|_| ports.len() > 1);
                    backend["portName"] = port.map_or(Value::Null, |port| port["name"].clone());
                    if ports.len() > 1 && port.is_none() {
                        backend["port"] = Value::Null;
                    }
                }
                let identity = |backend: &Value| {
                    let name = &backend["portName"];
                    let port = ports.iter().find(|port| name.is_null() || port["name"] == *name);
                    let target = port.and_then(|port| port["targetPort"].as_u64().or(port["port"].as_u64()));
                    let effective = backend["port"].as_u64().or(target);
                    (backend["address"].to_string(), effective, name.to_string())
                };
                backends.sort_by_key(identity);
                backends.dedup_by_key(|backend| identity(backend));
                let mut spec =
                    json!({"addresses": addresses, "ports": ports, "backends": backends, "model": model});
                spec["packetPath"] = json!(mode);
                spec["externalAddresses"] = json!(external);
                if let Some(label) = selector {
                    spec["selector"] = json!({"app": label});
                }
                spec
            },
        )
}

/// A port, its name or `null`, its protocol and its target.
fn port() -> impl Strategy<Value = Value> {
    (
        prop_oneof![select(vec![53_u16, 80, 8000]), 1..=u16::MAX],
        any::<bool>(),
        option::of(1..=u16::MAX),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(port, udp, target, has_name, has_node_port)| {
            let protocol = if udp { "UDP" } else { "TCP" };
            json!({"port": port, "protocol": protocol, "targetPort": target, "name": has_name.then_some("only"), "nodePort": has_node_port})
        })
}

fn distinct_ports(mut ports: Vec<Value>) -> Vec<Value> {
    let key = |port: &Value| (port["port"].as_u64(), port["protocol"].to_string());
    ports.sort_by_key(key);
    ports.dedup_by_key(|port| key(port));
    if ports.len() > 1 {
        for (index, port) in ports.iter_mut().enumerate() {
            port["name"] = json!(format!("p{index}"));
        }
    }
    ports
}

fn weight() -> impl Strategy<Value = u32> {
    prop_oneof![Just(1_u32), 1..=65_535_u32]
}

fn state() -> impl Strategy<Value = &'static str> {
    select(vec!["active", "active", "draining", "unhealthy"])
}

fn v4() -> impl Strategy<Value = String> {
    (0..16_u8).prop_map(|host| Ipv4Addr::new(10, 1, 0, host).to_string())
}

fn v6() -> impl Strategy<Value = String> {
    (0..16_u16).prop_map(|host| Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, host).to_string())
}

/// A place; not all of its levels are known.
fn locality() -> impl Strategy<Value = Value> {
    let region = option::weighted(0.8, select(vec!["eu", "us"]));
    let zone = option::weighted(0.7, select(vec!["eu-1", "eu-2"]));
    let node = option::weighted(0.5, select(vec!["gpu-1", "gpu-2"]));
    (region, zone, node)
        .prop_map(|(region, zone, node)| json!({"region": region, "zone": zone, "node": node}))
}

/// A replica; `portName` is the position of a port.
fn backend() -> impl Strategy<Value = Value> {
    let port = option::of(select(vec![8000_u16, 8001]));
    let workload = option::weighted(0.2, select(vec!["n0", "elsewhere"]));
    let port_index = option::weighted(0.3, 0..4_u8);
    (
        prop_oneof![v4(), v6()],
        port,
        port_index,
        weight(),
        state(),
        workload,
        option::weighted(0.5, locality()),
    )
        .prop_map(|(address, port, port_index, weight, state, workload, locality)| {
            json!({
                "address": address, "port": port, "portName": port_index,
                "weight": weight, "state": state, "workload": workload, "locality": locality,
            })
        })
}

fn workload() -> impl Strategy<Value = Value> {
    let addresses = prop_oneof![
        v4().prop_map(|v4| vec![v4]),
        v6().prop_map(|v6| vec![v6]),
        (v4(), v6()).prop_map(|(v4, v6)| vec![v6, v4]),
        Just(Vec::new()),
    ];
    let identity = option::weighted(0.3, select(vec!["spiffe://example.org/chat", "spiffe://a/ns/b"]));
    let label = select(&LABELS[..]);
    let place = option::weighted(0.5, locality());
    (
        addresses,
        weight(),
        state(),
        any::<bool>(),
        label,
        identity,
        place,
    )
        .prop_map(|(addresses, weight, state, has_cgroup, label, identity, place)| {
            let mut spec = json!({
                "addresses": addresses, "weight": weight, "state": state, "label": label,
                "identity": identity, "locality": place,
            });
            if has_cgroup {
                spec["cgroup"] = json!("set when placed");
            }
            spec
        })
}

fn policy() -> impl Strategy<Value = Value> {
    let words = |words: &[&'static str]| select(words.to_vec());
    let algorithms: Vec<&str> = Algorithm::WORDS.iter().map(|(_, word)| *word).collect();
    let keys: Vec<&str> = ClientKeySource::WORDS.iter().map(|(_, word)| *word).collect();
    let size = option::of(select(vec![251_u32, 4093, 65_537]));
    let affinity = option::of(1..86_400_u32);
    let rules = option::weighted(0.7, rules::fields());
    (
        any::<bool>(),
        words(&algorithms),
        size,
        words(&keys),
        affinity,
        rules,
    )
        .prop_map(|(whole_namespace, algorithm, size, key, affinity, rules)| {
            let size = size.filter(|_| algorithm == "maglev");
            let mut spec = json!({
                "targetRef": whole_namespace, "clientKey": key,
                "loadBalancer": {"algorithm": algorithm, "tableSize": size},
            });
            if let Some(timeout) = affinity {
                spec["sessionAffinity"] = json!({"timeout": format!("{timeout}s")});
            }
            if let (Some(spec), Some(rules)) = (spec.as_object_mut(), rules) {
                spec.extend(rules);
            }
            spec
        })
}
