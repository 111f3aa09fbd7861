// SPDX-License-Identifier: Apache-2.0
//! The way from an empty cluster to a meshed model, as docs/kubernetes.md has it: every command, in its order. What a cluster does in
//! between (addresses, pods, slices, the pods of the chart) is played here.

use std::collections::BTreeSet;

use nodemesh_e2e::{
    bed::{Family, connect},
    control::ControlPlane,
    eventually::eventually,
    kubernetes::{ApiServer, NAMESPACE, SYSTEM, objects},
    single_node::said,
};
use serde_json::{Value, json};

use super::{PORT, Scene, until_answers};

const DOCUMENT: &str = include_str!("../../../docs/kubernetes.md");

/// The commands of the shell in the document, line by line.
fn commands() -> Vec<&'static str> {
    let blocks = DOCUMENT.split("```sh\n").skip(1);
    let blocks = blocks.filter_map(|rest| Some(rest.split_once("```")?.0));
    blocks.flat_map(str::lines).collect()
}

/// What the chart gives the control plane, as flags.
fn starts(api: &ApiServer, control: &mut ControlPlane) {
    let deployment = api.get(&["deployment", "nodemesh-control", "-n", SYSTEM]);
    let pod = &deployment["spec"]["template"]["spec"];
    let variables = pod["containers"][0]["env"].as_array().expect("variables");
    let value = |name: &str| {
        let mut found = variables.iter().filter(|variable| variable["name"] == name);
        found
            .next()
            .map(|variable| variable["value"].as_str().expect("a text"))
    };
    assert_eq!(value("NODEMESH_CONTROL_STORE"), Some("kubernetes"));
    assert_eq!(value("NODEMESH_CONTROL_INSECURE"), Some("true"));
    let account = pod["serviceAccountName"].as_str().expect("an account");
    let user = format!("system:serviceaccount:{SYSTEM}:{account}");
    let services = value("NODEMESH_CONTROL_KUBERNETES_SERVICES").expect("it is set");
    let domain = value("NODEMESH_CONTROL_TRUST_DOMAIN").expect("it is set");
    let flags = ["--kubernetes-services", services, "--trust-domain", domain];
    api.start_control_as(Some(&user), control, &flags);
}

#[test]
fn every_command_of_the_documentation_works() {
    let Some(mut scene) = Scene::empty_for("kubectl and helm") else {
        return;
    };
    let to = Family::V4.vip(1);
    let mut pods = Vec::new();
    let commands = commands();
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands {
        let output = scene.api.shell(command);
        let said = said(&output);
        assert!(output.status.success(), "{command}: {said}");
        if command.starts_with("helm install") {
            starts(&scene.api, &mut scene.control);
            scene.start_agent();
        } else if command.contains("vllm.yaml") {
            let patch = json!({"spec": {"clusterIP": to.ip(), "clusterIPs": [to.ip()]}}).to_string();
            let service = [
                "patch",
                "service",
                "llama",
                "-n",
                NAMESPACE,
                "--type=merge",
                "-p",
                &patch,
            ];
            scene.api.expect(&service, "");
            let replicas: Vec<_> = ["llama-0", "llama-1"].map(|name| scene.replica(name)).into();
            let endpoints: Vec<_> = replicas.iter().map(|(pod, _)| pod.endpoint()).collect();
            let mut slice = objects::slice("llama", "llama-1", PORT, &endpoints);
            slice["ports"][0]["name"] = "http".into();
            scene.api.apply(&[slice]);
            pods.push((scene.client("chat"), scene.client("batch"), replicas));
            let (chat, batch, _) = &pods[0];
            for client in [chat, batch] {
                until_answers(client, to, &["llama-0", "llama-1"]);
            }
        } else if command.contains("get msvc,tpol,apol") {
            assert!(
                said.contains("llama-callers") && said.contains("1 of 1 nodes"),
                "{said}"
            );
            let (chat, batch, _) = &pods[0];
            until_answers(chat, to, &["llama-0", "llama-1"]);
            until_answers(batch, to, &["EACCES"]);
        } else if command.contains("max-connections") {
            let (chat, ..) = &pods[0];
            let model = |services: &Value| services["items"][0]["spec"]["model"].is_string();
            scene
                .control
                .wait_for("the model", &["services", "-n", NAMESPACE], model);
            connect(&chat.pod.place(), to, &["--count", "100"]).assert_all_ok(100);
        } else if command.contains("nodemesh.io/mesh-") {
            eventually("no service", || scene.services(), BTreeSet::is_empty);
        }
    }
    let events = scene.api.get(&["events.events.k8s.io", "-A"]);
    assert_eq!(events["items"], json!([]), "nothing was wrong with the examples");
}
