// SPDX-License-Identifier: Apache-2.0
//! A fleet: a control plane, two nodes whose agents follow it, and servers that register themselves.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use nodemesh_e2e::{
    agent::Agent,
    bed::{Family, Replica, connect, hold},
    eventually::eventually,
    fleet::{Fleet, TTL_S, selecting},
    manifest::{Manifest, NAMESPACE, Service},
    single_node::said,
};
use serde_json::{Value, json};

/// The last state that an agent keeps on disk.
fn saved(agent: &Agent) -> String {
    let files = std::fs::read_dir(agent.state_dir())
        .into_iter()
        .flatten()
        .flatten();
    let texts = files.filter_map(|file| std::fs::read(file.path()).ok());
    texts
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect()
}

#[test]
fn servers_that_register_themselves_are_reached_and_those_that_die_are_not() {
    let fleet = Fleet::new();
    let llama = fleet.select("llama");
    fleet.wait_for_answers(llama, &["ECONNREFUSED"]);

    let leaving = fleet.register("llama", "r0", 9000);
    fleet.wait_for_answers(llama, &["r0"]);
    let workloads = fleet.control.get(&["workloads", "-n", NAMESPACE]);
    assert_eq!(workloads["items"][0]["metadata"]["name"], "r0", "{workloads}");

    // In order: first nobody is sent there any more, then the server ends, then the registration.
    leaving.signal(Signal::SIGTERM).expect("SIGTERM");
    fleet.wait_for_answers(llama, &["ECONNREFUSED"]);
    let (status, _) = leaving.finish().expect("it ends");
    assert_eq!(status.code(), Some(143), "the exit code of the server");
    let workloads = fleet.control.get(&["workloads", "-n", NAMESPACE]);
    assert_eq!(workloads["items"], json!([]), "{workloads}");

    // Killed with everything: the lease runs out.
    let dying = fleet.register("llama", "r1", 9000);
    fleet.wait_for_answers(llama, &["r1"]);
    dying.signal(Signal::SIGKILL).expect("SIGKILL");
    let killed = Instant::now();
    let gone = |backends: &Vec<nodemesh_agent::api::Backend>| backends.is_empty();
    for agent in &fleet.agents {
        eventually("no backend", || agent.backends().expect("backends"), gone);
    }
    let after = killed.elapsed();
    assert!(
        after < Duration::from_secs(TTL_S + 1),
        "the endpoint was there for {after:?}"
    );
}

#[test]
fn nobody_notices_that_the_control_plane_restarts() {
    let mut fleet = Fleet::new();
    let llama = fleet.select("llama");
    let _server = fleet.register("llama", "r0", 9000);
    fleet.wait_for_answers(llama, &["r0"]);
    let mistral = fleet.select("mistral");
    for agent in &fleet.agents {
        // A state is on disk a moment after it is in the kernel.
        eventually(
            "both services on disk",
            || saved(agent),
            |text| text.contains("mistral") && text.contains("r0"),
        );
    }
    // Connections go on all the time.
    let (place, is_over) = (fleet.client.place(), Arc::new(AtomicBool::new(false)));
    let is_over_too = Arc::clone(&is_over);
    let client = thread::spawn(move || {
        while !is_over_too.load(Ordering::Relaxed) {
            connect(&place, llama, &["--count", "200"]).assert_all_ok(200);
        }
    });
    fleet.control.kill().expect("kill the control plane");
    // An agent that starts while there is none has its last state.
    fleet.agents[0].kill().expect("kill an agent");
    fleet.start_agent(0);
    assert_eq!(fleet.services(0).len(), 2);
    // What is deleted while an agent is away is gone for it when it returns.
    fleet.agents[1].kill().expect("kill an agent");
    fleet.control.start(&[]).expect("start the control plane again");
    let deleted = fleet
        .control
        .cli(&["delete", "service", "mistral", "-n", NAMESPACE]);
    assert!(deleted.status.success(), "{}", said(&deleted));
    fleet.start_agent(1);
    for node in 0..2 {
        eventually("one service", || fleet.services(node), |names| names.len() == 1);
    }
    is_over.store(true, Ordering::Relaxed);
    client.join().expect("no connection failed");
    // The registration went on: nothing has to be registered again.
    fleet.wait_for_answers(llama, &["r0"]);
    // Addresses do not move.
    let service = fleet.control.get(&["service", "llama", "-n", NAMESPACE]);
    assert_eq!(service["spec"]["addresses"][0], llama.ip().to_string());
    assert_ne!(fleet.select("gemma").ip(), mistral.ip(), "not given away at once");
}

#[test]
fn nodes_and_backends_of_the_fleet_are_told() {
    let fleet = Fleet::new();
    let llama = fleet.select("llama");
    let _server = fleet.register("llama", "r0", 9000);
    fleet.wait_for_answers(llama, &["r0"]);
    let nodes = fleet.control.wait_for("both nodes", &["nodes"], |nodes| {
        let nodes = nodes.as_array();
        nodes.is_some_and(|nodes| nodes.len() == 2 && nodes.iter().all(|node| node["appliedVersion"] != ""))
    });
    for (node, name) in nodes.as_array().expect("a list").iter().zip(["a", "b"]) {
        assert_eq!(node["id"], name, "{nodes}");
        assert_eq!(node["errors"], json!([]), "{nodes}");
    }
    let held = hold(&fleet.client.place(), llama, 3, &[]);
    fleet
        .control
        .wait_for("three connections", &["backends", "-A"], |backends| {
            backends[0]["connectionsActive"] == 3
        });
    held.release();
    fleet
        .control
        .wait_for("no connection", &["backends", "-A"], |backends| {
            backends[0]["connectionsActive"] == 0
        });
}

#[test]
fn what_is_wrong_is_refused_at_the_door_and_told() {
    let fleet = Fleet::new();
    fleet.select("llama");
    let apply = |resource: &Value| {
        let output = fleet
            .control
            .cli_with(&["apply", "-f", "-"], &resource.to_string());
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        said(&output)
    };
    let mut bad = selecting("mistral");
    bad["spec"]["ports"][0]["port"] = json!(99_999);
    let told = apply(&bad);
    assert!(
        told.contains("spec.ports[0].port") && told.contains("65535"),
        "{told}"
    );
    let mut unknown = selecting("mistral");
    unknown["kind"] = json!("Gateway");
    let told = apply(&unknown);
    assert!(
        told.contains("Gateway") && told.contains("TrafficPolicy"),
        "{told}"
    );
    let taken = fleet.control.get(&["service", "llama", "-n", NAMESPACE])["spec"]["addresses"].clone();
    let mut overlapping = selecting("mistral");
    overlapping["spec"]["addresses"] = taken;
    let told = apply(&overlapping);
    assert!(
        told.contains("models/llama") && told.contains("models/mistral"),
        "{told}"
    );
    // One bad document does not keep the others out.
    let documents = Manifest::of([bad, selecting("gemma")]);
    let output = fleet
        .control
        .cli_with(&["apply", "-f", "-"], &documents.to_string());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("service/models/gemma created"),
        "{}",
        said(&output)
    );
    eventually("two services", || fleet.services(0), |names| names.len() == 2);
}

#[test]
fn names_of_services_are_found_by_dns() {
    let fleet = Fleet::new();
    let llama = fleet.select("llama");
    // What any program of the pod would ask: the C library, with the control plane as its name server.
    let resolver = format!("{}/resolv.conf", fleet.control.folder().display());
    std::fs::write(&resolver, format!("nameserver {}\n", fleet.control.ip())).expect("write a file");
    let look_up = |database: &str, name: &str| {
        let script = format!("mount --bind {resolver} /etc/resolv.conf && getent {database} {name}");
        let run = || {
            Command::new("unshare")
                .args(["--mount", "sh", "-c", &script])
                .output()
        };
        let output = fleet
            .client
            .netns()
            .run(run)
            .expect("enter the pod")
            .expect("run getent");
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        lines.split_whitespace().next().unwrap_or_default().to_owned()
    };
    assert_eq!(
        look_up("ahostsv4", "llama.models.mesh.internal"),
        llama.ip().to_string()
    );
    assert!(look_up("ahostsv6", "llama.models.mesh.internal").starts_with("fd97:"));
    assert_eq!(look_up("ahostsv4", "mistral.models.mesh.internal"), "");
}

#[test]
fn a_service_of_backends_reaches_every_node_by_an_apply() {
    let fleet = Fleet::new();
    let replica = Replica::start(&fleet.server, "r0", 9000);
    let service = Service::new("llama", Family::V4.vip(1)).to([replica.at(Family::V4)]);
    fleet.control.apply(&Manifest::of([service]));
    fleet.wait_for_answers(Family::V4.vip(1), &["r0"]);
    eventually("the service on b", || fleet.services(1), |names| names.len() == 1);
}
