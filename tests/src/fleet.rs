// SPDX-License-Identifier: Apache-2.0
//! A fleet: a control plane, two nodes whose agents follow it, and servers that register themselves.
//!
//! Used by tests of a whole mesh. Invariant: what the scene cannot do fails the test at once, with the reason.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::{
    agent::Agent,
    bed::connect,
    control::ControlPlane,
    eventually::eventually,
    manifest::NAMESPACE,
    process::{Process, binary},
    topology::{Node, Pod, Topology},
};

/// Shortest time that a lease lasts here, seconds.
pub const TTL_S: u64 = 2;

/// Nodes `a` and `b`, each with an agent; a control plane and a client on `a`, servers on `b`.
pub struct Fleet {
    /// The agents of `a` and `b`.
    pub agents: [Agent; 2],
    /// The control plane.
    pub control: ControlPlane,
    /// Where clients run.
    pub client: Pod,
    /// Where servers run.
    pub server: Pod,
    nodes: [Node; 2],
    _topology: Topology,
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new()
    }
}

impl Fleet {
    /// Starts it; nothing is served yet.
    pub fn new() -> Self {
        let topology = Topology::new().expect("a topology");
        let nodes = ["a", "b"].map(|name| topology.node(name).expect("a node"));
        let pod = |node: usize, name| nodes[node].pod(name).expect("a pod");
        let mut fleet = Self {
            control: ControlPlane::new(pod(0, "control")),
            client: pod(0, "client"),
            server: pod(1, "server"),
            agents: [0, 1].map(|node: usize| nodes[node].agent().expect("an agent")),
            nodes,
            _topology: topology,
        };
        fleet.control.start(&[]).expect("start the control plane");
        for node in 0..2 {
            fleet.start_agent(node);
        }
        fleet
    }

    /// Starts the agent of a node.
    pub fn start_agent(&mut self, node: usize) {
        let flags = self.control.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        self.agents[node].start(&flags).expect("start an agent");
    }

    /// Creates a service that selects what is labelled with its name, and returns its address.
    pub fn select(&self, name: &str) -> SocketAddr {
        let answer = self.control.apply(&selecting(name));
        assert_eq!(answer.trim(), format!("service/{NAMESPACE}/{name} created"));
        let service = self.control.get(&["service", name, "-n", NAMESPACE]);
        let address = service["spec"]["addresses"][0].as_str().expect("an address");
        assert!(address.starts_with("10.97."), "from the range: {service}");
        format!("{address}:8000").parse().expect("an address")
    }

    /// One more pod on `b`, for servers.
    pub fn pod(&self, name: &str) -> Pod {
        self.nodes[1].pod(name).expect("a pod")
    }

    /// A replica of `service` that registers itself and tells its name.
    pub fn register(&self, service: &str, name: &str, port: u16) -> Process {
        let probe = binary("socket-probe").display().to_string();
        let listen = SocketAddr::new(self.server.v4(), port).to_string();
        let command = [&*probe, "serve", "--name", name, "--listen", &listen];
        self.register_in(&self.server, (service, name), port, &command)
    }

    /// Runs `command` as the replica of a service with this name, by `nodemesh register` in `pod`.
    pub fn register_in(
        &self,
        pod: &Pod,
        (service, name): (&str, &str),
        port: u16,
        command: &[&str],
    ) -> Process {
        let (address, label) = (pod.v4().to_string(), format!("app={service}"));
        let (ttl, port) = (format!("{TTL_S}s"), port.to_string());
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
        ];
        pod.spawn("nodemesh", &[&arguments[..], command].concat())
            .expect("start a server")
    }

    /// Who answers `count` connections; errors are answers too.
    pub fn answers(&self, to: SocketAddr, count: u64) -> Vec<String> {
        let report = connect(&self.client.place(), to, &["--count", &count.to_string()]);
        report
            .replicas
            .into_keys()
            .chain(report.errors.into_keys())
            .collect()
    }

    /// Waits until these and nobody else answer.
    pub fn wait_for_answers(&self, to: SocketAddr, expected: &[&str]) {
        let what = format!("answers of {expected:?} alone");
        eventually(&what, || self.answers(to, 12), |answers| answers == expected);
    }

    /// Names of the services that an agent has programmed.
    pub fn services(&self, node: usize) -> Vec<String> {
        let services = self.agents[node].services().expect("services");
        let mut names: Vec<String> = services.into_iter().map(|service| service.service).collect();
        names.dedup();
        names
    }
}

/// A service on port 8000 whose replicas listen on 9000.
pub fn selecting(name: &str) -> Value {
    json!({
        "apiVersion": "nodemesh.io/v1alpha1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"ports": [{"port": 8000, "targetPort": 9000}], "selector": {"app": name}},
    })
}
