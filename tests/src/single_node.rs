// SPDX-License-Identifier: Apache-2.0
//! One node with an agent, a client, two replicas and a pod behind no service: the scene of the agent's own tests.
//!
//! The services' virtual address is that of a real pod, `direct`, which answers on every service port itself, so whoever
//! dials one is answered and learns from the name whether the connection was placed. Invariant: what the scene cannot do
//! fails the test at once, with the reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Output,
};

use serde::Deserialize;

use crate::{
    agent::Agent,
    process::Process,
    scrape::Scrape,
    topology::{Node, Pod, Topology},
};

/// What answers a connection that was not placed.
pub const DIRECT: &str = "direct";
/// The service ports on which `direct` answers.
pub const PORTS: [u16; 4] = [8000, 8001, 8002, 8003];
/// Where the replicas listen.
const REPLICA_PORT: u16 = 9000;

/// The scene. Its agent is not running yet.
#[derive(Debug)]
pub struct SingleNode {
    /// The node's agent.
    pub agent: Agent,
    /// The node.
    pub node: Node,
    /// A pod without servers.
    pub client: Pod,
    direct: Pod,
    replicas: Vec<Pod>,
    _servers: Vec<Process>,
}

/// The report of `socket-probe connect`.
#[derive(Debug, Deserialize)]
pub struct Connects {
    /// Connections that were answered.
    pub ok: u64,
    /// The others, by errno name.
    pub errors: BTreeMap<String, u64>,
    /// The answers, by name.
    pub replicas: BTreeMap<String, u64>,
}

impl SingleNode {
    /// The scene, with the replicas `r0` and `r1` serving.
    pub fn new() -> Self {
        let topology = Topology::new().expect("a topology");
        let node = topology.node("a").expect("a node");
        let pod = |name| node.pod(name).expect("a pod");
        let (client, direct) = (pod("client"), pod(DIRECT));
        let replicas: Vec<Pod> = ["r0", "r1"].map(pod).into();
        let mut servers = vec![serve(&direct, DIRECT, &PORTS)];
        for (index, replica) in replicas.iter().enumerate() {
            servers.push(serve(replica, &format!("r{index}"), &[REPLICA_PORT]));
        }
        Self {
            agent: node.agent().expect("an agent"),
            node,
            client,
            direct,
            replicas,
            _servers: servers,
        }
    }

    /// The scene, its agent configured with the service `a` of `r0` on port 8000.
    pub fn configured() -> Self {
        let scene = Self::new();
        let configured = scene.agent.configure(&scene.service("a", 8000, &[0]));
        configured.expect("write the configuration");
        scene
    }

    /// The scene, its agent running with this configuration and more `flags`.
    pub fn started(yaml: impl FnOnce(&Self) -> String, flags: &[&str]) -> Self {
        let mut scene = Self::new();
        let configured = scene.agent.configure(&yaml(&scene));
        configured.expect("write the configuration");
        scene.agent.start(flags).expect("start the agent");
        scene
    }

    /// Address of the service port `port`.
    pub fn address(&self, port: u16) -> String {
        format!("{}:{port}", self.direct.v4())
    }

    /// Address of a replica.
    pub fn replica(&self, index: usize) -> String {
        format!("{}:{REPLICA_PORT}", self.replicas[index].v4())
    }

    /// The YAML document of the service `models/<name>` on `port` with these replicas.
    pub fn service(&self, name: &str, port: u16, replicas: &[usize]) -> String {
        let backends: Vec<String> = replicas.iter().map(|index| self.backend(*index, "")).collect();
        self.service_of(name, port, &backends.join(", "))
    }

    /// The YAML mapping of a replica in a service, with more fields such as `, weight: 2`.
    pub fn backend(&self, index: usize, more: &str) -> String {
        format!(
            "{{address: {}, port: {REPLICA_PORT}{more}}}",
            self.replicas[index].v4()
        )
    }

    /// The YAML document of the service `models/<name>` on `port` with the backends `backends`.
    pub fn service_of(&self, name: &str, port: u16, backends: &str) -> String {
        format!(
            "---\napiVersion: nodemesh.io/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: models}}\n\
             spec: {{addresses: [{}], ports: [{{port: {port}}}], backends: [{backends}]}}\n",
            self.direct.v4()
        )
    }

    /// Connects from the client.
    pub fn connect(&self, port: u16, count: u64) -> Connects {
        let (address, count) = (self.address(port), count.to_string());
        let probe = self
            .client
            .spawn("socket-probe", &["connect", &address, "--count", &count]);
        let report = probe.and_then(Process::report);
        report.expect("a report of connects").0
    }

    /// Names of those who answer the client on `port`, out of a few connections which all succeed.
    pub fn answers(&self, port: u16) -> BTreeSet<String> {
        let connects = self.connect(port, 4);
        assert_eq!(connects.ok, 4, "port {port}: {connects:?}");
        connects.replicas.into_keys().collect()
    }

    /// Whether every connection to `port` is answered by `name`.
    pub fn is_answered_by(&self, port: u16, name: &str) -> bool {
        self.answers(port) == BTreeSet::from([name.to_owned()])
    }

    /// Opens connections to `port` that stay open until the process ends.
    pub fn hold(&self, port: u16, count: u64) -> Process {
        let (address, count) = (self.address(port), count.to_string());
        let arguments = ["connect", &address, "--hold", "--count", &count];
        let process = self
            .client
            .spawn("socket-probe", &arguments)
            .expect("start a client");
        let all = format!("\"ok\":{count},");
        process
            .wait_for_line(|line| line.contains(&all))
            .expect("open connections");
        process
    }

    /// The body that the agent answers to `GET path`, which must succeed.
    pub fn http(&self, path: &str) -> String {
        let (code, body) = self.agent.http(&self.node, path).expect("ask over HTTP");
        assert_eq!(code, 200, "{path}: {body}");
        body
    }

    /// The agent's metrics.
    pub fn scrape(&self) -> Scrape {
        let text = self.http("/metrics");
        Scrape::parse(&text).unwrap_or_else(|error| panic!("{error:#} in:\n{text}"))
    }
}

impl Default for SingleNode {
    fn default() -> Self {
        Self::new()
    }
}

fn serve(pod: &Pod, name: &str, ports: &[u16]) -> Process {
    let mut arguments = ["serve", "--tcp", "--name", name].map(str::to_owned).to_vec();
    for port in ports {
        arguments.extend(["--listen".to_owned(), format!("{}:{port}", pod.v4())]);
    }
    pod.serve("socket-probe", &arguments).expect("start a server")
}

/// Standard output and error of a command, for messages and searches.
pub fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
