// SPDX-License-Identifier: Apache-2.0
//! A Deployment is rolled out while control planes and the API server come and go: clients do not notice.

use nodemesh_e2e::{
    bed::Connecting,
    control::ControlPlane,
    eventually::eventually,
    kubernetes::{ClusterPod, objects},
};
use serde_json::Value;

use super::{PORT, Scene, leader::lease, until_answers};

/// An endpoint that has these conditions: ready, serving, terminating.
fn conditions(pod: &ClusterPod, ready: bool, serving: bool, terminating: bool) -> Value {
    let mut endpoint = pod.endpoint();
    endpoint["conditions"] =
        serde_json::json!({"ready": ready, "serving": serving, "terminating": terminating});
    endpoint
}

#[test]
fn a_rollout_under_load_fails_no_connection_whatever_else_happens() {
    let mut scene = Scene::new();
    let client = scene.client("chat");
    let (old0, old0_server) = scene.replica("old0");
    let (old1, old1_server) = scene.replica("old1");
    let to = scene.serve(&[&old0, &old1]);
    let mut other = ControlPlane::new(scene.system.pod("control-1").expect("a pod"));
    scene.api.start_control(&mut scene.control, &[]);
    let (first, _) = eventually("a leader", || lease(&scene), |(holder, _)| !holder.is_empty());
    scene.api.start_control(&mut other, &[]);
    let urls = [scene.control.url(), other.url()].join(",");
    let agent = ["--control", &urls, "--control-plaintext"];
    scene.agent.start(&agent).expect("start an agent");
    until_answers(&client, to, &["old0", "old1"]);
    let connecting = Connecting::start(client.pod.place(), to);
    let slice = |endpoints: &[Value]| objects::slice("llama", "llama-1", PORT, endpoints);
    let ready = |pod| conditions(pod, true, true, false);
    let ending = |pod| conditions(pod, false, true, true);

    // A new pod comes, and takes nothing before it is ready.
    let (new0, _new0_server) = scene.replica("new0");
    let waiting = conditions(&new0, false, false, false);
    scene.api.apply(&[slice(&[ready(&old0), ready(&old1), waiting])]);
    // The leader ends in order, while an old pod is asked to end.
    scene.control.stop().expect("stop the leader");
    scene
        .api
        .apply(&[slice(&[ending(&old0), ready(&old1), ready(&new0)])]);
    until_answers(&client, to, &["old1", "new0"]);
    let (second, _) = eventually(
        "another leader",
        || lease(&scene),
        |(holder, _)| !holder.is_empty() && *holder != first,
    );
    drop(old0_server);
    scene.api.apply(&[slice(&[ready(&old1), ready(&new0)])]);
    scene.api.start_control(&mut scene.control, &[]);

    // The next one, while the new leader dies and the API server starts anew.
    let (new1, _new1_server) = scene.replica("new1");
    other.kill().expect("kill the leader");
    scene.api.kill().expect("kill the API server");
    scene.api.restart().expect("start the API server");
    scene
        .api
        .apply(&[slice(&[ending(&old1), ready(&new0), ready(&new1)])]);
    until_answers(&client, to, &["new0", "new1"]);
    drop(old1_server);
    scene.api.apply(&[slice(&[ready(&new0), ready(&new1)])]);
    until_answers(&client, to, &["new0", "new1"]);
    eventually(
        "a third leader",
        || lease(&scene),
        |(holder, _)| !holder.is_empty() && *holder != first && *holder != second,
    );
    connecting.finish();
}
