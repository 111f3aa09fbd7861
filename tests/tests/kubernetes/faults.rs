// SPDX-License-Identifier: Apache-2.0
//! What happens to the mesh when the API server, the way to it, or the control plane fails: clients do not notice, and what was missed is
//! made good.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Stdio},
};

use nix::sys::signal::Signal;
use nodemesh_e2e::{
    bed::{Connecting, Family},
    eventually::eventually,
    kubernetes::{NAMESPACE, objects},
    netns::NetNs,
    proc_net,
};

use serde_json::json;

use super::{PORT, Scene, until_answers};

#[test]
fn what_was_missed_while_the_api_server_or_the_control_plane_was_away_is_made_good() {
    let mut scene = Scene::new();
    let client = scene.client("chat");
    let (r0, _s0) = scene.replica("r0");
    let (r1, _s1) = scene.replica("r1");
    let to = scene.serve(&[&r0, &r1]);
    let other = objects::service("other", Family::V4.vip(2));
    scene.api.apply(std::slice::from_ref(&other));
    scene.start();
    until_answers(&client, to, &["r0", "r1"]);
    let connecting = Connecting::start(client.pod.place(), to);
    let slice = |pods: &[_]| objects::slice("llama", "llama-1", PORT, pods);

    // The API server goes and comes back.
    scene.api.kill().expect("kill the API server");
    until_answers(&client, to, &["r0", "r1"]);
    scene.api.restart().expect("start the API server");
    scene.api.apply(&[slice(&[r0.endpoint()])]);
    until_answers(&client, to, &["r0"]);

    // The control plane sleeps over changes, a deletion among them, that the API server no longer remembers when it wakes up (410).
    let control = scene.control.process();
    control.signal(Signal::SIGSTOP).expect("stop the control plane");
    scene.api.apply(&[slice(&[r1.endpoint()])]);
    scene.api.delete(&[other]);
    scene.api.kill().expect("kill the API server");
    scene.api.restart().expect("start the API server");
    control
        .signal(Signal::SIGCONT)
        .expect("let the control plane go on");
    control
        .wait_for_log(|line| line.contains("EndpointSlice") && line.contains("too old resource version"))
        .expect("the API server has answered 410");
    until_answers(&client, to, &["r1"]);
    eventually("no other service", || scene.services(), |names| names.len() == 1);

    // The API server does not answer for a while.
    scene.api.pause(true).expect("stop the API server");
    until_answers(&client, to, &["r1"]);
    scene.api.pause(false).expect("let the API server go on");
    scene.api.apply(&[slice(&[r0.endpoint()])]);
    until_answers(&client, to, &["r0"]);

    // The control plane is killed, and what it then reads has changed.
    scene.control.kill().expect("kill the control plane");
    scene.api.apply(&[slice(&[r1.endpoint()])]);
    scene.api.start_control(&mut scene.control, &[]);
    until_answers(&client, to, &["r1"]);
    connecting.finish();
}

#[test]
fn a_namespace_that_goes_at_once_and_an_address_that_is_used_again_are_followed() {
    let mut scene = Scene::new();
    let client = scene.client("chat");
    let (r0, s0) = scene.replica("r0");
    let to = scene.serve(&[&r0]);
    let many: Vec<_> = (10..40)
        .flat_map(|number| {
            let name = format!("s{number}");
            [
                objects::service(&name, Family::V4.vip(number)),
                objects::slice(&name, &name, PORT, &[r0.endpoint()]),
            ]
        })
        .collect();
    scene.api.apply(&many);
    let app = json!({"app": "llama"});
    let everybody = json!({"policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}]});
    let target = json!({"kind": "Service", "name": "llama"});
    scene.api.apply(&[
        objects::network_policy("callers", &app, everybody),
        objects::custom(
            "AccessPolicy",
            "open",
            json!({"targetRef": target, "default": "allow"}),
        ),
    ]);
    scene.start();
    eventually("all services", || scene.services().len(), |count| *count == 31);
    until_answers(&client, to, &["r0"]);

    // Another pod gets the address of the one that ended.
    drop(s0);
    scene.api.delete(&[objects::object("v1", "Pod", "r0")]);
    let mut again = r0.endpoint();
    again["targetRef"]["name"] = "r9".into();
    let _s9 = nodemesh_e2e::bed::Replica::start(&r0.pod, "r9", PORT);
    scene
        .api
        .apply(&[objects::slice("llama", "llama-1", PORT, &[again])]);
    until_answers(&client, to, &["r9"]);
    let workload = || {
        let backends = scene.agent.backends().expect("nodemesh backends");
        backends
            .iter()
            .filter(|backend| backend.service.ends_with("llama"))
            .map(|backend| backend.workload.clone().unwrap_or_default())
            .collect::<Vec<_>>()
    };
    eventually("the new pod's name", workload, |names| *names == ["models/r9"]);

    scene.api.delete_all(&[
        "endpointslices",
        "pods",
        "services",
        "networkpolicies",
        "accesspolicies.nodemesh.io",
    ]);
    scene.api.delete(&[objects::namespace(NAMESPACE)]);
    eventually("no service", || scene.services(), BTreeSet::is_empty);
}

/// From now on nothing passes by the connections that a control plane in `netns` has to the API server; new ones work. That is what is left of
/// them when something on the way has forgotten them.
fn silence(netns: &NetNs) {
    const API: u16 = 6443;
    let own = proc_net::established(netns).expect("the list of sockets");
    // Those below are where agents and scrapers come in.
    let ports: Vec<String> = own
        .iter()
        .filter(|end| end.port() > 32_000)
        .map(|end| end.port().to_string())
        .collect();
    assert!(!ports.is_empty(), "it is connected");
    let ports = ports.join(", ");
    let rules = format!(
        "table inet silence {{
            chain out {{ type filter hook output priority 0; tcp dport {API} tcp sport {{ {ports} }} drop; }}
            chain in {{ type filter hook input priority 0; tcp sport {API} tcp dport {{ {ports} }} drop; }}
        }}"
    );
    let run = || {
        let mut nft = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()?;
        nft.stdin
            .take()
            .expect("it is piped")
            .write_all(rules.as_bytes())?;
        nft.wait()
    };
    let status = netns
        .run(run)
        .expect("enter the network namespace")
        .expect("run nft");
    assert!(status.success(), "nft: {status}");
}

#[test]
fn connections_that_died_in_silence_are_noticed() {
    let mut scene = Scene::new();
    let client = scene.client("chat");
    let (r0, _s0) = scene.replica("r0");
    let (r1, _s1) = scene.replica("r1");
    let to = scene.serve(&[&r0]);
    scene.start();
    until_answers(&client, to, &["r0"]);
    let connecting = Connecting::start(client.pod.place(), to);
    silence(scene.control.netns());
    scene
        .api
        .apply(&[objects::slice("llama", "llama-1", PORT, &[r1.endpoint()])]);
    until_answers(&client, to, &["r1"]);
    connecting.finish();
}
