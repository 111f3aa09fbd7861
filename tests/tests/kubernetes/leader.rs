// SPDX-License-Identifier: Apache-2.0
//! Several control planes of one cluster: each serves, one writes. Which one is no matter to clients.

use nodemesh_e2e::{
    bed::{Connecting, Family},
    control::ControlPlane,
    eventually::eventually,
    kubernetes::{NAMESPACE, SYSTEM, objects},
};
use serde_json::{Value, json};

use super::{PORT, Scene, until_answers};

/// A resource that is in nobody's way.
fn idle(name: &str, number: u8) -> Value {
    let address = Family::V4.vip(number);
    let spec = json!({"addresses": [address.ip()], "ports": [{"port": address.port()}]});
    objects::custom("Service", name, spec)
}

/// The holder of the lease, and how often it has changed hands.
pub(super) fn lease(scene: &Scene) -> (String, i64) {
    let leases = scene.api.get(&["leases", "-n", SYSTEM]);
    let spec = &leases["items"][0]["spec"];
    let holder = spec["holderIdentity"].as_str().unwrap_or_default().to_owned();
    (holder, spec["leaseTransitions"].as_i64().unwrap_or_default())
}

/// Waits until the conditions of a resource were written.
fn until_told(scene: &Scene, name: &str) {
    let resource = ["services.nodemesh.io", name, "-n", NAMESPACE];
    scene.api.wait_for("conditions", &resource, |object| {
        object["status"]["conditions"].is_array()
    });
}

#[test]
fn another_control_plane_serves_and_writes_when_the_leader_ends_or_dies() {
    let mut scene = Scene::new();
    let client = scene.client("chat");
    let (r0, _s0) = scene.replica("r0");
    let (r1, _s1) = scene.replica("r1");
    let to = scene.serve(&[&r0]);
    let mut other = ControlPlane::new(scene.system.pod("control-1").expect("a pod"));
    scene.api.start_control(&mut scene.control, &[]);
    let (first, _) = eventually("a leader", || lease(&scene), |(holder, _)| !holder.is_empty());
    scene.api.start_control(&mut other, &[]);
    let urls = [scene.control.url(), other.url()].join(",");
    scene
        .agent
        .start(&["--control", &urls, "--control-plaintext"])
        .expect("start an agent");
    until_answers(&client, to, &["r0"]);
    let connecting = Connecting::start(client.pod.place(), to);
    scene.api.apply(&[idle("s1", 11)]);
    until_told(&scene, "s1");
    assert_eq!(lease(&scene).0, first);

    // It ends in order, and gives the lease back.
    scene.control.stop().expect("stop the leader");
    let slice = |pod: Value| objects::slice("llama", "llama-1", PORT, &[pod]);
    scene.api.apply(&[slice(r1.endpoint()), idle("s2", 12)]);
    until_answers(&client, to, &["r1"]);
    until_told(&scene, "s2");
    let (second, transitions) = lease(&scene);
    assert_ne!(second, first);

    // It dies with the lease.
    scene.api.start_control(&mut scene.control, &[]);
    other.kill().expect("kill the leader");
    scene.api.apply(&[slice(r0.endpoint()), idle("s3", 13)]);
    until_answers(&client, to, &["r0"]);
    until_told(&scene, "s3");
    let (third, later) = lease(&scene);
    assert_ne!(third, second);
    assert_eq!(later, transitions + 1);
    connecting.finish();
}
