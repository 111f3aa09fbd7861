// SPDX-License-Identifier: Apache-2.0
//! The control plane when something fails: itself, its store, its disk, the network, or those who talk to it.

#[path = "control_faults/disk.rs"]
mod disk;
#[path = "control_faults/journal.rs"]
mod journal;
#[path = "control_faults/replicas.rs"]
mod replicas;
#[path = "control_faults/security.rs"]
mod security;
#[path = "control_faults/silence.rs"]
mod silence;

use std::net::SocketAddr;

use nodemesh_e2e::{
    agent::Agent,
    bed::{Bed, Family, Replica, connect},
    control::ControlPlane,
    eventually::eventually,
    manifest::{Manifest, NAMESPACE, Service},
    single_node::said,
};
use serde_json::{Value, json};

use journal::Journal;

/// Names of the services that an agent has programmed.
fn services(agent: &Agent) -> Vec<String> {
    let services = agent.services().expect("services");
    let mut names: Vec<String> = services.into_iter().map(|service| service.service).collect();
    names.dedup();
    names
}

/// A service without backends at the `number`th address.
fn empty(name: &str, number: u8) -> Manifest {
    Manifest::of([Service::new(name, Family::V4.vip(number))])
}

/// Starts an agent that follows `control`.
fn follow(agent: &mut Agent, control: &ControlPlane, flags: &[&str]) {
    let own = control.flags();
    let own = own.iter().map(String::as_str);
    let flags: Vec<&str> = own.chain(flags.iter().copied()).collect();
    agent.start(&flags).expect("start an agent");
}

#[test]
fn a_request_of_10_mb_is_refused_while_others_are_served() {
    let bed = Bed::new();
    let mut control = ControlPlane::new(bed.b.pod("control").expect("a pod"));
    control.start(&[]).expect("start the control plane");
    let others = Journal::start(bed.client.netns(), vec![control.url()], "w", 1);
    others.until_acknowledged(5);
    let big = json!({
        "apiVersion": "nodemesh.io/v1alpha1",
        "kind": "Service",
        "metadata": {"name": "big", "namespace": NAMESPACE, "labels": {"blob": "x".repeat(10 << 20)}},
        "spec": {"ports": [{"port": 8000}]},
    });
    for _ in 0..3 {
        let output = control.cli_with(&["apply", "-f", "-"], &big.to_string());
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(
            said(&output).contains("too large") && said(&output).contains("4194304"),
            "{}",
            said(&output)
        );
        others.until_acknowledged(5);
    }
    let told = others.finish();
    assert!(told.unknown.is_empty() && told.refused.is_empty(), "{told:?}");
    told.compare(&control, "w");
}

#[test]
fn nodes_of_the_same_name_are_told_and_both_are_served() {
    let mut bed = Bed::new();
    let mut control = ControlPlane::new(bed.b.pod("control").expect("a pod"));
    control.start(&[]).expect("start the control plane");
    let mut other = bed.b.agent().expect("an agent");
    for agent in [&mut bed.agent, &mut other] {
        follow(agent, &control, &["--node-name", "twin"]);
    }
    let is_told = |node: &Value| {
        let errors = node["errors"].as_array().into_iter().flatten();
        node["id"] == "twin"
            && errors
                .filter_map(Value::as_str)
                .any(|error| error.contains("another stream"))
    };
    let nodes = control.wait_for("both of one name", &["nodes"], |nodes| {
        nodes
            .as_array()
            .is_some_and(|nodes| nodes.len() == 2 && nodes.iter().all(is_told))
    });
    assert_ne!(nodes[0]["address"], nodes[1]["address"], "{nodes}");
    // What the other one is called is no reason to serve neither.
    control.apply(&empty("llama", 1));
    for agent in [&bed.agent, &other] {
        eventually("the service", || services(agent), |names| names.len() == 1);
    }
    other.stop().expect("stop an agent");
    control.wait_for("one, about which nothing is wrong", &["nodes"], |nodes| {
        nodes.as_array().is_some_and(|nodes| nodes.len() == 1) && nodes[0]["errors"] == json!([])
    });
}

/// A service of one replica on node b, reached from node a's client.
fn serve(bed: &Bed, control: &ControlPlane) -> (Replica, SocketAddr) {
    let (replica, address) = (Replica::start(&bed.server, "r0", 9000), Family::V4.vip(1));
    let service = Service::new("llama", address).to([replica.at(Family::V4)]);
    control.apply(&Manifest::of([service]));
    let answers = || connect(&bed.client.place(), address, &["--count", "1"]).of("r0");
    eventually("an answer", answers, |count| *count == 1);
    (replica, address)
}
