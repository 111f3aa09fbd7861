// SPDX-License-Identifier: Apache-2.0
//! Objects as the API server sends them, and what they come down to.

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use nodemesh_model::{Kind, Manifest};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    finding::{ObjectId, ObjectKind, Reason},
    mesh::{ItemChange, Mesh, MeshOptions, Outcome, Update},
    object::{Custom, Object, ObjectName},
    translate::membership::Membership,
};

mod network_policy;
mod reach;

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn set(value: Value) -> Update {
    let kind = value["kind"].as_str().unwrap().to_owned();
    let metadata = &value["metadata"];
    let name = ObjectName::new(
        metadata["namespace"].as_str().unwrap_or(""),
        metadata["name"].as_str().unwrap(),
    );
    let (kind, object) = match kind.as_str() {
        "Service" if value["apiVersion"] == "v1" => (
            ObjectKind::Service,
            Object::Service(read::<Service>(value).into()),
        ),
        "EndpointSlice" => (
            ObjectKind::EndpointSlice,
            Object::EndpointSlice(read::<EndpointSlice>(value).into()),
        ),
        "Pod" => (ObjectKind::Pod, Object::Pod(read::<Pod>(value).into())),
        "Node" => (ObjectKind::Node, Object::Node(read::<Node>(value).into())),
        "Namespace" => (
            ObjectKind::Namespace,
            Object::Namespace(read::<Namespace>(value).into()),
        ),
        _ => {
            let kind = nodemesh_model::Keyword::from_word(&kind).unwrap();
            (
                ObjectKind::Custom(kind),
                Object::Custom(Custom {
                    kind,
                    document: value,
                    generation: 1,
                }),
            )
        }
    };
    Update::Set(ObjectId::new(kind, name), Box::new(object))
}

fn removed(kind: ObjectKind, name: &str) -> Update {
    Update::Removed(ObjectId::new(kind, ObjectName::new("models", name)))
}

/// A mesh, and what it told so far.
struct Scene {
    mesh: Mesh,
    items: std::collections::BTreeMap<String, Value>,
}

impl Scene {
    fn new(membership: Membership) -> Self {
        let options = MeshOptions {
            membership,
            trust_domain: "example.org".into(),
        };
        Self {
            mesh: Mesh::new(options),
            items: std::collections::BTreeMap::new(),
        }
    }

    /// Applies `updates`; every item must be valid for the model.
    fn apply(&mut self, updates: impl IntoIterator<Item = Update>) -> Outcome {
        let outcome = self.mesh.apply(updates);
        for change in &outcome.items {
            match change {
                ItemChange::Put(key, value) => {
                    let value: Value = serde_json::from_slice(value).unwrap();
                    let manifest = Manifest::from_values([value.clone()]);
                    assert!(manifest.errors().is_empty(), "{}", manifest.errors());
                    self.items.insert(key.to_string(), value);
                }
                ItemChange::Delete(key) => {
                    assert!(self.items.remove(&**key).is_some(), "{key} was there");
                }
            }
        }
        outcome
    }

    fn spec(&self, key: &str) -> &Value {
        &self
            .items
            .get(key)
            .unwrap_or_else(|| panic!("{key} in {:?}", self.items.keys()))["spec"]
    }

    fn backends(&self) -> Vec<String> {
        let backends = self.spec("Service/models/llama")["backends"].as_array().cloned();
        backends
            .unwrap_or_default()
            .iter()
            .map(|backend| {
                let text = |field: &str| backend[field].as_str().unwrap_or("-").to_owned();
                format!(
                    "{}:{} {} {}",
                    text("address"),
                    backend["port"],
                    text("portName"),
                    text("state")
                )
            })
            .collect()
    }
}

fn messages(outcome: &Outcome, reason: Reason) -> Vec<String> {
    let findings = outcome.verdicts.values().flat_map(|verdict| &verdict.findings);
    findings
        .filter(|finding| finding.reason == reason)
        .map(|finding| finding.message.clone())
        .collect()
}

fn service(more: Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "models", "name": "llama", "labels": {"nodemesh.io/mesh": "enabled"}},
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
                 "ports": [{"port": 80, "targetPort": "http", "protocol": "TCP"}]},
    });
    merge(&mut service, more);
    service
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

/// A slice `name` with endpoints `(address, ready, serving, terminating)`.
fn slice(name: &str, endpoints: &[(&str, bool, bool, bool)]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, ready, serving, terminating)| {
            json!({"addresses": [address], "nodeName": "node-1",
                   "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "models", "name": name, "labels": {"kubernetes.io/service-name": "llama"}},
        "ports": [{"name": "", "port": 8000, "protocol": "TCP"}], "endpoints": endpoints,
    })
}

const READY: (bool, bool, bool) = (true, true, false);

fn ready(address: &str) -> (&str, bool, bool, bool) {
    (address, READY.0, READY.1, READY.2)
}

#[test]
fn a_service_is_its_cluster_ip_and_its_ready_endpoints() {
    let mut scene = Scene::new(Membership::OptIn);
    scene.apply([
        set(service(json!({}))),
        set(slice(
            "llama-1",
            &[ready("10.1.0.1"), ("10.1.0.2", false, false, false)],
        )),
        set(slice(
            "llama-2",
            &[ready("10.1.0.3"), ("10.1.0.4", false, true, true)],
        )),
    ]);
    assert_eq!(
        scene.backends(),
        [
            "10.1.0.1:8000 - -",
            "10.1.0.2:8000 - draining",
            "10.1.0.3:8000 - -",
            "10.1.0.4:8000 - draining"
        ]
    );
    assert_eq!(
        scene.spec("Service/models/llama")["addresses"],
        json!(["10.96.0.10"])
    );
    scene.apply([removed(ObjectKind::EndpointSlice, "llama-2")]);
    assert_eq!(scene.backends().len(), 2);
    scene.apply([removed(ObjectKind::Service, "llama")]);
    assert!(scene.items.is_empty());
}

#[test]
fn where_nothing_is_ready_what_terminates_and_serves_takes_over() {
    let mut scene = Scene::new(Membership::OptIn);
    let terminating = slice(
        "llama-1",
        &[("10.1.0.1", false, true, true), ("10.1.0.2", false, false, true)],
    );
    scene.apply([set(service(json!({}))), set(terminating)]);
    assert_eq!(
        scene.backends(),
        ["10.1.0.1:8000 - -", "10.1.0.2:8000 - draining"]
    );
}

#[test]
fn an_endpoint_in_two_slices_is_one_backend_and_ready_if_one_says_so() {
    let mut scene = Scene::new(Membership::OptIn);
    let old = slice("llama-1", &[("10.1.0.1", false, false, true)]);
    scene.apply([
        set(service(json!({}))),
        set(old),
        set(slice("llama-2", &[ready("10.1.0.1")])),
    ]);
    assert_eq!(scene.backends(), ["10.1.0.1:8000 - -"]);
}

#[test]
fn ports_go_by_their_names() {
    let mut scene = Scene::new(Membership::OptIn);
    let ports = json!({"spec": {"ports": [
        {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"},
        {"name": "grpc", "port": 9000, "protocol": "TCP"},
        {"name": "sctp", "port": 9001, "protocol": "SCTP"},
    ]}});
    let mut named = slice("llama-1", &[ready("10.1.0.1")]);
    named["ports"] = json!([
        {"name": "http", "port": 8000, "protocol": "TCP"}, {"name": "grpc", "port": 9000, "protocol": "TCP"},
        {"name": "admin", "port": 1, "protocol": "TCP"},
    ]);
    let outcome = scene.apply([set(service(ports)), set(named)]);
    assert_eq!(scene.backends(), ["10.1.0.1:8000 http -", "10.1.0.1:9000 grpc -"]);
    assert!(
        messages(&outcome, Reason::PortMismatch)[0].contains("\"admin\""),
        "{outcome:?}"
    );
    assert!(
        messages(&outcome, Reason::NotSupported)[0].contains("port 9001 is SCTP"),
        "{outcome:?}"
    );
}

#[test]
fn what_clients_reach_otherwise_is_left_out_with_the_reason() {
    let mut scene = Scene::new(Membership::All);
    for (spec, field) in [
        (
            json!({"type": "ExternalName", "clusterIP": null, "clusterIPs": null}),
            "spec.type",
        ),
        (
            json!({"clusterIP": "None", "clusterIPs": ["None"]}),
            "spec.clusterIP",
        ),
    ] {
        let outcome = scene.apply([set(service(json!({"spec": spec})))]);
        assert!(
            messages(&outcome, Reason::NotSupported)[0].starts_with(field),
            "{outcome:?}"
        );
        assert!(scene.items.is_empty());
    }
}

#[test]
fn who_is_in_the_mesh_is_said_by_the_service_its_namespace_or_the_default() {
    let namespace = |word: &str| {
        set(json!({"apiVersion": "v1", "kind": "Namespace",
                   "metadata": {"name": "models", "labels": {"nodemesh.io/mesh": word}}}))
    };
    let own = |word: Value| {
        set(service(
            json!({"metadata": {"labels": {"nodemesh.io/mesh": word}}}),
        ))
    };
    let unlabelled = || {
        let mut service = service(json!({}));
        service["metadata"].as_object_mut().unwrap().remove("labels");
        set(service)
    };
    let mut scene = Scene::new(Membership::OptIn);
    scene.apply([unlabelled()]);
    assert!(scene.items.is_empty(), "nobody says so");
    scene.apply([namespace("enabled")]);
    assert_eq!(scene.items.len(), 1, "its namespace does");
    scene.apply([own(json!("disabled"))]);
    assert!(scene.items.is_empty(), "it says no");
    let outcome = scene.apply([own(json!("maybe"))]);
    assert_eq!(scene.items.len(), 1, "a word without a meaning has no effect");
    assert!(messages(&outcome, Reason::InvalidAnnotation)[0].contains("\"maybe\""));
}

#[test]
fn annotations_are_fields_of_a_policy_and_a_wrong_one_spoils_no_other() {
    let mut scene = Scene::new(Membership::OptIn);
    let annotated = json!({"metadata": {"annotations": {
        "nodemesh.io/model": "llama-3", "nodemesh.io/algorithm": "maglev", "nodemesh.io/max-connections": "0",
        "nodemesh.io/max-requests-per-backend": "64", "nodemesh.io/algoritm": "x", "other.io/a": "b",
        "nodemesh.io/locality": "node, zone",
    }}, "spec": {"sessionAffinity": "ClientIP"}});
    let outcome = scene.apply([set(service(annotated))]);
    let policy = scene.spec("TrafficPolicy/models/llama");
    assert_eq!(policy["loadBalancer"]["algorithm"], "maglev");
    assert_eq!(policy["limits"], json!({"perBackend": {"requests": 64}}));
    assert_eq!(policy["sessionAffinity"]["timeout"], "10800s");
    assert_eq!(policy["locality"]["tiers"], json!(["node", "zone"]));
    assert_eq!(scene.spec("Service/models/llama")["model"], "llama-3");
    let wrong = messages(&outcome, Reason::InvalidAnnotation);
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert!(
        wrong
            .iter()
            .any(|m| m.contains("nodemesh.io/max-connections") && m.contains("spec.limits.connections"))
    );
    assert!(
        wrong
            .iter()
            .any(|m| m.contains("did you mean nodemesh.io/algorithm?")),
        "{wrong:?}"
    );
}

#[test]
fn a_custom_resource_wins_and_keeps_what_was_valid() {
    let mut scene = Scene::new(Membership::OptIn);
    let custom = |spec: Value| {
        set(json!({"apiVersion": "nodemesh.io/v1alpha1", "kind": "Service",
                   "metadata": {"namespace": "models", "name": "llama"}, "spec": spec}))
    };
    let own = custom(json!({"addresses": ["10.96.0.99"], "ports": [{"port": 80}]}));
    let outcome = scene.apply([set(service(json!({}))), own]);
    let of = |scene: &Scene| scene.spec("Service/models/llama")["addresses"][0].clone();
    assert_eq!(of(&scene), "10.96.0.99");
    assert_eq!(messages(&outcome, Reason::Conflict).len(), 1);
    let outcome = scene.apply([custom(
        json!({"addresses": ["nonsense"], "ports": [{"port": 80}]}),
    )]);
    assert_eq!(of(&scene), "10.96.0.99", "what it said before holds");
    assert!(
        messages(&outcome, Reason::Invalid)[0].starts_with("spec.addresses[0]"),
        "{outcome:?}"
    );
    let outcome = scene.apply([removed(ObjectKind::Custom(Kind::Service), "llama")]);
    assert_eq!(of(&scene), "10.96.0.10");
    let native = ObjectId::new(ObjectKind::Service, ObjectName::new("models", "llama"));
    assert_eq!(
        outcome
            .verdicts
            .get(&native)
            .map(|verdict| verdict.findings.len()),
        Some(0),
        "the conflict is over"
    );
}

#[test]
fn a_pod_is_a_workload_with_the_identity_of_its_service_account() {
    let mut scene = Scene::new(Membership::OptIn);
    let pod = |phase: &str| {
        set(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "models", "name": "chat-0", "uid": "5b6f-11", "labels": {"app": "chat"}},
            "spec": {"nodeName": "node-1", "serviceAccountName": "chat", "containers": []},
            "status": {"phase": phase, "podIP": "10.1.0.7", "podIPs": [{"ip": "10.1.0.7"}, {"ip": "fd00::7"}]}}))
    };
    let node = set(
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "labels":
        {"topology.kubernetes.io/region": "eu", "topology.kubernetes.io/zone": "eu-a"}}}),
    );
    scene.apply([pod("Running"), node]);
    let spec = scene.spec("Workload/models/chat-0");
    assert_eq!(spec["addresses"], json!(["10.1.0.7", "fd00::7"]));
    assert_eq!(spec["cgroup"], "pod:5b6f-11");
    assert_eq!(spec["identity"], "spiffe://example.org/ns/models/sa/chat");
    assert_eq!(
        spec["locality"],
        json!({"region": "eu", "zone": "eu-a", "node": "node-1"})
    );
    scene.apply([pod("Succeeded")]);
    assert!(scene.items.is_empty(), "its address may be another one's now");
}

#[test]
fn a_list_is_the_whole_truth() {
    let mut scene = Scene::new(Membership::OptIn);
    scene.apply([
        set(service(json!({}))),
        set(slice("llama-1", &[ready("10.1.0.1")])),
        set(slice("llama-2", &[ready("10.1.0.2")])),
    ]);
    let listed = read::<EndpointSlice>(slice("llama-1", &[ready("10.1.0.1")]));
    let name = ObjectName::new("models", "llama-1");
    let all = vec![(name, Object::EndpointSlice(listed.into()))];
    let outcome = scene.apply([Update::All(ObjectKind::EndpointSlice, all)]);
    assert_eq!(
        scene.backends(),
        ["10.1.0.1:8000 - -"],
        "the deletion that nobody saw"
    );
    assert_eq!(outcome.items.len(), 1);
}

#[test]
fn what_does_not_matter_changes_nothing() {
    let mut scene = Scene::new(Membership::OptIn);
    let beat = |time: &str| {
        set(
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "resourceVersion": time}}),
        )
    };
    scene.apply([
        set(service(json!({}))),
        set(slice("llama-1", &[ready("10.1.0.1")])),
        beat("1"),
    ]);
    let again = [
        beat("2"),
        set(service(json!({"metadata": {"resourceVersion": "9"}}))),
    ];
    assert_eq!(scene.apply(again), Outcome::default());
}
