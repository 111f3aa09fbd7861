// SPDX-License-Identifier: Apache-2.0
//! A fleet: a control plane, two nodes whose agents follow it, and servers that register themselves.

use std::{
    net::SocketAddr,
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
    control::ControlPlane,
    eventually::eventually,
    manifest::{Manifest, NAMESPACE, Service},
    process::{Process, binary},
    single_node::said,
    topology::{Node, Pod, Topology},
};
use serde_json::{Value, json};

/// Shortest time that a lease lasts here, seconds.
const TTL_S: u64 = 2;

/// Nodes `a` and `b`, each with an agent; a control plane and a client on `a`, servers on `b`.
struct Fleet {
    agents: [Agent; 2],
    control: ControlPlane,
    client: Pod,
    server: Pod,
    _nodes: [Node; 2],
    _topology: Topology,
}

impl Fleet {
    fn new() -> Self {
        let topology = Topology::new().expect("a topology");
        let nodes = ["a", "b"].map(|name| topology.node(name).expect("a node"));
        let pod = |node: usize, name| nodes[node].pod(name).expect("a pod");
        let mut fleet = Self {
            control: ControlPlane::new(pod(0, "control")),
            client: pod(0, "client"),
            server: pod(1, "server"),
            agents: [0, 1].map(|node: usize| nodes[node].agent().expect("an agent")),
            _nodes: nodes,
            _topology: topology,
        };
        fleet.control.start(&[]).expect("start the control plane");
        for node in 0..2 {
            fleet.start_agent(node);
        }
        fleet
    }

    fn start_agent(&mut self, node: usize) {
        let flags = self.control.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        self.agents[node].start(&flags).expect("start an agent");
    }

    /// Creates a service that selects what is labelled with its name, and returns its address.
    fn select(&self, name: &str) -> SocketAddr {
        let answer = self.control.apply(&selecting(name));
        assert_eq!(answer.trim(), format!("service/{NAMESPACE}/{name} created"));
        let service = self.control.get(&["service", name, "-n", NAMESPACE]);
        let address = service["spec"]["addresses"][0].as_str().expect("an address");
        assert!(address.starts_with("10.97."), "from the range: {service}");
        format!("{address}:8000").parse().expect("an address")
    }

    /// A replica of `service` that registers itself.
    fn register(&self, service: &str, name: &str, port: u16) -> Process {
        let listen = SocketAddr::new(self.server.v4(), port).to_string();
        let (address, label) = (self.server.v4().to_string(), format!("app={service}"));
        let (ttl, port) = (format!("{TTL_S}s"), port.to_string());
        let probe = binary("socket-probe").display().to_string();
        let [control, url, plaintext] = &self.control.flags();
        let arguments = [
            "register",
            control,
            url,
            plaintext,
            "-n",
            NAMESPACE,
            "--name",
            name,
            "--address",
            &address,
            "--port",
            &port,
            "--label",
            &label,
            "--ttl",
            &ttl,
            "--drain-settle",
            "1500ms",
            "--",
            &probe,
            "serve",
            "--name",
            name,
            "--listen",
            &listen,
        ];
        self.server.spawn("nodemesh", &arguments).expect("start a server")
    }

    /// Who answers `count` connections; errors are answers too.
    fn answers(&self, to: SocketAddr, count: u64) -> Vec<String> {
        let report = connect(&self.client.place(), to, &["--count", &count.to_string()]);
        report
            .replicas
            .into_keys()
            .chain(report.errors.into_keys())
            .collect()
    }

    fn wait_for_answers(&self, to: SocketAddr, expected: &[&str]) {
        let what = format!("answers of {expected:?} alone");
        eventually(&what, || self.answers(to, 12), |answers| answers == expected);
    }

    /// Names of the services that an agent has programmed.
    fn services(&self, node: usize) -> Vec<String> {
        let services = self.agents[node].services().expect("services");
        let mut names: Vec<String> = services.into_iter().map(|service| service.service).collect();
        names.dedup();
        names
    }
}

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

/// A service on port 8000 whose replicas listen on 9000.
fn selecting(name: &str) -> Value {
    json!({
        "apiVersion": "nodemesh.io/v1alpha1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"ports": [{"port": 8000, "targetPort": 9000}], "selector": {"app": name}},
    })
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
