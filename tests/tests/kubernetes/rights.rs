// SPDX-License-Identifier: Apache-2.0
//! The roles of the chart: the API server has written down what the control plane asks for, and that is what the roles allow.

use std::collections::BTreeSet;

use nodemesh_e2e::{
    bed::Family,
    eventually::eventually,
    kubernetes::{NAMESPACE, SYSTEM, objects},
};
use serde_json::{Value, json};

use super::{PORT, Scene, until_answers};

/// The control plane's service account in the chart.
const ACCOUNT: &str = "system:serviceaccount:nodemesh:nodemesh-control";
/// Its cluster role.
pub(super) const CLUSTER_ROLE: &str = "nodemesh-nodemesh-control";

/// Verb, group, resource.
type Right = (String, String, String);

/// The rights that the rules of a role give.
fn rights(role: &Value) -> BTreeSet<Right> {
    let words = |rule: &Value, field: &str| -> Vec<String> {
        let words = rule[field].as_array().into_iter().flatten();
        words
            .map(|word| word.as_str().expect("a word").to_owned())
            .collect()
    };
    let mut all = BTreeSet::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        for verb in words(rule, "verbs") {
            for group in words(rule, "apiGroups") {
                let resources = words(rule, "resources").into_iter();
                all.extend(resources.map(|resource| (verb.clone(), group.clone(), resource)));
            }
        }
    }
    all
}

/// `role` without the rules about `resource`.
fn without(role: &Value, resource: &str) -> Value {
    let mut less = role.clone();
    let rules = less["rules"].as_array_mut().expect("rules");
    rules.retain(|rule| !rule["resources"].to_string().contains(resource));
    less["metadata"] = json!({"name": role["metadata"]["name"]});
    less
}

fn replace(scene: &Scene, role: &Value) {
    scene.api.expect(&["replace", "-f", "-"], &role.to_string());
}

/// One object of each kind that the control plane has something to say about.
pub(super) fn worth_telling(scene: &Scene) -> Vec<Value> {
    let target = json!({"kind": "Service", "name": "llama"});
    let annotations = json!({"nodemesh.io/algorithm": "fastest"});
    let ports = json!({
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": "api", "protocol": "TCP"}]}],
    });
    vec![
        objects::annotated(objects::service("llama", Family::V4.vip(1)), annotations),
        objects::network_policy("callers", &json!({"app": "llama"}), ports),
        objects::custom(
            "Service",
            "own",
            json!({"addresses": ["10.96.0.9"], "ports": [{"port": 1}]}),
        ),
        objects::custom(
            "Workload",
            "vm",
            json!({"addresses": [scene.system.pod("vm").expect("a pod").v4()]}),
        ),
        objects::custom(
            "TrafficPolicy",
            "slow",
            json!({"targetRef": target, "limits": {"connections": 1000}}),
        ),
        objects::custom(
            "AccessPolicy",
            "open",
            json!({"targetRef": target, "default": "allow"}),
        ),
    ]
}

#[test]
fn the_roles_of_the_chart_are_what_the_control_plane_needs_and_no_more() {
    let Some(mut scene) = Scene::empty_for("what roles allow") else {
        return;
    };
    scene
        .api
        .install(&["control.store.kind=kubernetes", "control.replicas=2"]);
    let client = scene.client("chat");
    let (r0, _s0) = scene.replica("r0");
    let to = scene.serve(&[&r0]);
    scene.api.apply(&worth_telling(&scene));
    scene.api.start_control_as(Some(ACCOUNT), &mut scene.control, &[]);
    scene.start_agent();
    until_answers(&client, to, &["r0"]);
    let told = ["services", "workloads", "trafficpolicies", "accesspolicies"];
    let have_conditions = || {
        let lists = told.map(|kind| scene.api.get(&[&format!("{kind}.nodemesh.io"), "-n", NAMESPACE]));
        lists
            .iter()
            .all(|list| list["items"][0]["status"]["conditions"].is_array())
    };
    eventually("conditions of all kinds", have_conditions, |all| *all);
    scene.api.event("InvalidAnnotation", "llama");
    scene.api.event("NotSupported", "callers");

    // What is told again is counted.
    scene.control.stop().expect("stop the control plane");
    scene.api.start_control_as(Some(ACCOUNT), &mut scene.control, &[]);
    let is_counted = |events: &Value| {
        let mut events = events["items"].as_array().into_iter().flatten();
        events.any(|event| event["series"]["count"].as_i64() >= Some(2))
    };
    let events = ["events.events.k8s.io", "-n", NAMESPACE];
    scene
        .api
        .wait_for("an event that was told twice", &events, is_counted);

    let cluster_role = scene.api.get(&["clusterrole", CLUSTER_ROLE]);
    let role = scene.api.get(&["role", "nodemesh-control", "-n", SYSTEM]);
    let given: BTreeSet<Right> = rights(&cluster_role).union(&rights(&role)).cloned().collect();
    let asked = scene.api.audit();
    let refused: Vec<_> = asked.iter().filter(|asked| !asked.allowed).collect();
    assert!(refused.is_empty(), "{refused:#?}");
    let used: BTreeSet<Right> = asked
        .into_iter()
        .filter(|asked| asked.user == ACCOUNT)
        .map(|asked| (asked.verb, asked.group, asked.resource))
        .collect();
    let idle: Vec<_> = given.difference(&used).collect();
    assert!(idle.is_empty(), "rights that nobody uses: {idle:?}");
}

#[test]
fn a_right_that_is_missing_is_named() {
    let Some(mut scene) = Scene::empty_for("what roles allow") else {
        return;
    };
    scene.api.install(&["control.store.kind=kubernetes"]);
    let client = scene.client("chat");
    let (r0, _s0) = scene.replica("r0");
    let to = scene.serve(&[&r0]);
    scene.api.apply(&worth_telling(&scene));
    let role = scene.api.get(&["clusterrole", CLUSTER_ROLE]);

    // Nobody is told, and the mesh is served all the same.
    replace(&scene, &without(&role, "events"));
    scene.api.start_control_as(Some(ACCOUNT), &mut scene.control, &[]);
    let logged = scene
        .control
        .process()
        .wait_for_log(|line| line.contains("forbidden") && line.contains("events"));
    assert!(logged.expect("it is logged").contains("create"));
    scene.start_agent();
    until_answers(&client, to, &["r0"]);
    scene.control.kill().expect("kill the control plane");

    // Without a kind there is no mesh: an empty one would take services away.
    replace(&scene, &without(&role, "networkpolicies"));
    let kubeconfig = format!("KUBECONFIG={}", scene.api.kubeconfig(Some(ACCOUNT)).display());
    let waiting = scene
        .control
        .launch(&["/usr/bin/env", &kubeconfig], &["--store", "kubernetes"])
        .expect("launch the control plane");
    let is_named = |line: &str| line.contains("NetworkPolicy") && line.contains("forbidden");
    waiting
        .wait_for_log(|line| is_named(line) && line.contains("ClusterRole"))
        .expect("it is logged, with the remedy");
    until_answers(&client, to, &["r0"]);
    // As soon as it may, it goes on by itself.
    replace(&scene, &without(&role, "none"));
    waiting
        .wait_for_log(|line| line.contains(" ready"))
        .expect("it is ready");
    scene.api.apply(&[objects::slice("llama", "llama-1", PORT, &[])]);
    eventually(
        "no replica",
        || scene.agent.backends().expect("nodemesh backends").len(),
        |count| *count == 0,
    );
}
