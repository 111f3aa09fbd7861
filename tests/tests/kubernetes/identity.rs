// SPDX-License-Identifier: Apache-2.0
//! Who a client is: a pod, by the cgroup that the kubelet gave it. What policies say of pods is enforced where they connect.

use nodemesh_e2e::kubernetes::objects;
use serde_json::json;

use super::{Scene, until_answers};

const DENIED: &str = "EACCES";

#[test]
fn a_network_policy_decides_by_labels_and_namespaces_of_pods() {
    let mut scene = Scene::new();
    let chat = scene.client("chat");
    let batch = scene.client("batch");
    let (r0, _s0) = scene.replica("r0");
    let to = scene.serve(&[&r0]);
    let llama = &json!({"app": "llama"});
    let from = |peer| json!({"policyTypes": ["Ingress"], "ingress": [{"from": [peer]}]});
    let of_chat = json!({"podSelector": {"matchLabels": {"app": "chat"}}});
    scene
        .api
        .apply(&[objects::network_policy("callers", llama, from(of_chat))]);
    scene.start();
    until_answers(&chat, to, &["r0"]);
    until_answers(&batch, to, &[DENIED]);

    // A pod that comes later is known before it connects for the first time, or asks again.
    let late = scene
        .api
        .run(&scene.clients, "late", "chat", json!({"app": "chat"}));
    until_answers(&late, to, &["r0"]);

    // Policies add up.
    let everywhere = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "models"}}});
    let more = objects::network_policy("neighbours", llama, from(everywhere));
    scene.api.apply(std::slice::from_ref(&more));
    until_answers(&batch, to, &["r0"]);
    scene.api.delete(&[more]);
    until_answers(&batch, to, &[DENIED]);

    // What cannot be had is refused as a whole, and told.
    let by_name = json!({
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": "api", "protocol": "TCP"}]}],
    });
    scene
        .api
        .apply(&[objects::network_policy("callers", llama, by_name)]);
    let note = scene.api.event("NotSupported", "callers");
    assert!(note.contains("api") && note.contains("models/llama"), "{note}");
    until_answers(&batch, to, &["r0"]);
}

#[test]
fn an_access_policy_decides_by_the_service_account() {
    let mut scene = Scene::new();
    let chat = scene.client("chat");
    let batch = scene.client("batch");
    let (r0, _s0) = scene.replica("r0");
    let to = scene.serve(&[&r0]);
    let identity = "spiffe://cluster.local/ns/models/sa/chat";
    scene.api.apply(&[objects::custom(
        "AccessPolicy",
        "callers",
        json!({
            "targetRef": {"kind": "Service", "name": "llama"},
            "default": "deny",
            "rules": [{"action": "allow", "from": [{"identities": [identity]}]}],
        }),
    )]);
    scene.start();
    until_answers(&chat, to, &["r0"]);
    until_answers(&batch, to, &[DENIED]);
}
