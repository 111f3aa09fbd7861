// SPDX-License-Identifier: Apache-2.0
//! Services and their slices, as clients meet them.

use std::collections::BTreeSet;

use nodemesh_e2e::{
    bed::{Family, connect, hold},
    eventually::eventually,
    kubernetes::{NAMESPACE, Served, objects},
};
use serde_json::{Value, json};

use super::{PORT, Scene, answers, until_answers};

/// The entry of a pod that is about to end and still serves.
fn terminating(mut endpoint: Value) -> Value {
    endpoint["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
    endpoint
}

#[test]
fn clients_reach_what_the_slices_of_a_service_say() {
    follows_slices(Scene::new());
}

#[test]
fn clients_reach_what_the_slices_say_on_the_double() {
    follows_slices(Scene::on(Served::Double));
}

fn follows_slices(mut scene: Scene) {
    let client = scene.client("chat");
    let (r0, _s0) = scene.replica("r0");
    let (r1, _s1) = scene.replica("r1");
    let to = scene.serve(&[&r0]);
    scene.start();
    until_answers(&client, to, &["r0"]);

    let second = |endpoint| objects::slice("llama", "llama-2", PORT, &[endpoint]);
    scene.api.apply(&[second(r1.endpoint())]);
    until_answers(&client, to, &["r0", "r1"]);

    let held = hold(&client.pod.place(), to, 40, &[]);
    let first = |endpoint| objects::slice("llama", "llama-1", PORT, &[endpoint]);
    scene.api.apply(&[first(terminating(r0.endpoint()))]);
    until_answers(&client, to, &["r1"]);
    let open: u64 = scene
        .agent
        .backends()
        .expect("nodemesh backends")
        .iter()
        .map(|backend| backend.active_connections)
        .sum();
    assert_eq!(open, 40, "a replica that ends keeps what it has");
    drop(held);

    // None is ready: those that still serve are better than nobody.
    scene.api.apply(&[second(terminating(r1.endpoint()))]);
    until_answers(&client, to, &["r0", "r1"]);

    // One endpoint in two slices, ready in one of them.
    scene.api.apply(&[objects::slice(
        "llama",
        "llama-2",
        PORT,
        &[r0.endpoint(), terminating(r1.endpoint())],
    )]);
    until_answers(&client, to, &["r0"]);

    scene.api.delete(&[objects::service("llama", to)]);
    eventually("no service", || scene.services(), BTreeSet::is_empty);
}

#[test]
fn ports_have_names_and_the_namespace_decides_unless_the_service_does() {
    let mut scene = Scene::new();
    let client = scene.client("chat");
    let (r0, _s0) = scene.replica("r0");
    let _admin = r0.serve(9100);
    let address = Family::V4.vip(1).ip();
    let mut service = objects::service("llama", Family::V4.vip(1));
    service["spec"]["ports"] = json!([
        {"name": "http", "port": 80, "protocol": "TCP", "targetPort": "api"},
        {"name": "admin", "port": 81, "protocol": "TCP", "targetPort": 9100},
    ]);
    let mut slice = objects::slice("llama", "llama-1", PORT, &[r0.endpoint()]);
    slice["ports"] = json!([
        {"name": "http", "port": PORT, "protocol": "TCP"},
        {"name": "admin", "port": 9100, "protocol": "TCP"},
        {"name": "metrics", "port": 9200, "protocol": "TCP"},
    ]);
    scene.api.apply(&[service.clone(), slice]);
    scene.start();
    for port in [80, 81] {
        until_answers(&client, (address, port).into(), &["r0"]);
    }
    let note = scene.api.event("PortMismatch", "llama");
    assert!(note.contains("metrics"), "{note}");

    service["metadata"]["labels"] = json!({"nodemesh.io/mesh": "disabled"});
    scene.api.apply(std::slice::from_ref(&service));
    eventually("no service", || scene.services(), BTreeSet::is_empty);
    let mut namespace = objects::namespace(NAMESPACE);
    namespace["metadata"]["labels"] = json!({});
    scene.api.apply(&[namespace]);
    service["metadata"]["labels"] = json!({"nodemesh.io/mesh": "enabled"});
    scene.api.apply(&[service]);
    until_answers(&client, (address, 80).into(), &["r0"]);
}

/// The Service with one field of its spec.
fn service_with_locality(scene: &Scene, to: std::net::SocketAddr, field: &str, word: &str) {
    let mut service = objects::service("llama", to);
    service["spec"][field] = word.into();
    scene.api.apply(&[service]);
}

#[test]
fn hints_and_distribution_prefer_the_zone_of_the_client() {
    let mut scene = Scene::new();
    let client = scene.client("chat");
    let (far, _far) = scene.replica("far");
    let near = scene
        .api
        .run(&scene.clients, "near", "llama", json!({"app": "llama"}));
    let _near = near.serve(PORT);
    let to = scene.serve(&[&far, &near]);
    scene.start();
    until_answers(&client, to, &["far", "near"]);

    service_with_locality(&scene, to, "trafficDistribution", "PreferSameZone");
    until_answers(&client, to, &["near"]);

    service_with_locality(&scene, to, "internalTrafficPolicy", "Local");
    until_answers(&client, to, &["near"]);
    scene
        .api
        .apply(&[objects::slice("llama", "llama-1", PORT, &[far.endpoint()])]);
    until_answers(&client, to, &["ECONNREFUSED"]);
    service_with_locality(&scene, to, "trafficDistribution", "PreferSameZone");
    until_answers(&client, to, &["far"]);

    // Hints are what the control plane of the cluster has decided: they win over where the endpoint is.
    let hinted = |mut endpoint: Value, zone: &str| {
        endpoint["hints"] = json!({"forZones": [{"name": zone}]});
        endpoint
    };
    let endpoints = [
        hinted(far.endpoint(), "zone-a"),
        hinted(near.endpoint(), "zone-b"),
    ];
    scene
        .api
        .apply(&[objects::slice("llama", "llama-1", PORT, &endpoints)]);
    until_answers(&client, to, &["far"]);
    let for_node = |mut endpoint: Value, node: &str| {
        endpoint["hints"] = json!({"forNodes": [{"name": node}]});
        endpoint
    };
    let (a, b) = (scene.clients.name(), scene.replicas.name());
    let endpoints = [for_node(far.endpoint(), b), for_node(near.endpoint(), a)];
    scene.api.apply(&[
        objects::service("llama", to),
        objects::slice("llama", "llama-1", PORT, &endpoints),
    ]);
    until_answers(&client, to, &["near"]);
}

#[test]
fn annotations_are_policies_and_a_wrong_one_is_told_by_its_name() {
    let mut scene = Scene::new();
    let client = scene.client("chat");
    let (r0, _s0) = scene.replica("r0");
    let to = scene.serve(&[&r0]);
    let annotations = json!({
        "nodemesh.io/model": "llama-3-8b",
        "nodemesh.io/max-connections": "2",
        "nodemesh.io/algorithm": "fastest",
        "nodemesh.io/max-conections": "3",
    });
    let service = objects::annotated(objects::service("llama", to), annotations);
    scene.api.apply(std::slice::from_ref(&service));
    scene.start();
    until_answers(&client, to, &["r0"]);
    let held = hold(&client.pod.place(), to, 2, &[]);
    let full = connect(&client.pod.place(), to, &["--count", "1"]);
    full.assert_all_failed(1, "EAGAIN");
    drop(held);
    let model = |services: &Value| services["items"][0]["spec"]["model"] == "llama-3-8b";
    scene
        .control
        .wait_for("the model", &["services", "-n", NAMESPACE], |all| model(all));

    let is_told = || {
        let events = scene.api.get(&["events.events.k8s.io", "-n", NAMESPACE]);
        let items = events["items"].as_array().cloned().unwrap_or_default();
        let notes = items.iter().filter(|event| {
            event["reason"] == "InvalidAnnotation" && event["regarding"]["kind"] == "Service"
        });
        notes
            .map(|event| event["note"].to_string())
            .collect::<Vec<_>>()
            .join(" ")
    };
    eventually("both annotations", is_told, |notes| {
        notes.contains("nodemesh.io/algorithm") && notes.contains("did you mean nodemesh.io/max-connections?")
    });
    // What was wrong had no effect; without annotations there is no limit.
    scene.api.apply(&[objects::service("llama", to)]);
    eventually(
        "three connections",
        || hold(&client.pod.place(), to, 3, &[]).report.ok,
        |ok| *ok == 3,
    );
    assert_eq!(answers(&client, to, 5).len(), 1);
}
