// SPDX-License-Identifier: Apache-2.0
//! A cluster is the source of the mesh: an API server, the control plane that follows it, agents that route by it.
//!
//! Tests of what the control plane makes of a cluster run on the real API server where it was built, else on the double; some run on both. Tests of
//! schemas, roles and programs run on the real one or not at all.

#[path = "kubernetes/agreement.rs"]
mod agreement;
#[path = "kubernetes/documentation.rs"]
mod documentation;
#[path = "kubernetes/faults.rs"]
mod faults;
#[path = "kubernetes/identity.rs"]
mod identity;
#[path = "kubernetes/leader.rs"]
mod leader;
#[path = "kubernetes/resources.rs"]
mod resources;
#[path = "kubernetes/rights.rs"]
mod rights;
#[path = "kubernetes/rollout.rs"]
mod rollout;
#[path = "kubernetes/routing.rs"]
mod routing;
#[path = "kubernetes/verbs.rs"]
mod verbs;

use std::{collections::BTreeSet, net::SocketAddr};

use nodemesh_e2e::{
    agent::Agent,
    bed::{Family, Replica, connect},
    control::ControlPlane,
    eventually::eventually,
    kubernetes::{ApiServer, ClusterPod, Served, objects},
    topology::{Node, Topology},
};
use serde_json::json;

/// Port of the replicas.
const PORT: u16 = 9000;

/// An API server and a control plane on one node, clients and an agent on another, replicas on a third. Dropped in this order.
struct Scene {
    agent: Agent,
    control: ControlPlane,
    api: ApiServer,
    clients: Node,
    replicas: Node,
    system: Node,
    _topology: Topology,
}

impl Scene {
    /// Nothing but the API server runs, the best one that there is, with the definitions of our resources.
    fn new() -> Self {
        Self::on(Served::best())
    }

    /// The same, of this sort.
    fn on(served: Served) -> Self {
        Self::with(|node| ApiServer::start(node, served))
    }

    /// The same on the real one, which `what` needs; without it there is nothing, and that is said.
    fn real_for(what: &str) -> Option<Self> {
        Served::real_for(what).map(Self::on)
    }

    /// The same with nothing in it.
    fn empty_for(what: &str) -> Option<Self> {
        let served = Served::real_for(what)?;
        Some(Self::with(|node| ApiServer::start_empty(node, served)))
    }

    fn with(start: impl Fn(&Node) -> anyhow::Result<ApiServer>) -> Self {
        let topology = Topology::new().expect("a topology");
        let node = |name| topology.node(name).expect("a node");
        let (clients, replicas, system) = (node("a"), node("b"), node("c"));
        Self {
            agent: clients.agent().expect("an agent"),
            control: ControlPlane::new(system.pod("control").expect("a pod")),
            api: start(&system).expect("start the API server"),
            clients,
            replicas,
            system,
            _topology: topology,
        }
    }

    /// Starts the control plane and the agent.
    fn start(&mut self) {
        self.api.start_control(&mut self.control, &[]);
        self.start_agent();
    }

    fn start_agent(&mut self) {
        let flags = self.control.flags();
        let flags = flags.each_ref().map(String::as_str);
        self.agent.start(&flags).expect("start an agent");
    }

    /// A pod for clients, which speaks for `account`.
    fn client(&self, account: &str) -> ClusterPod {
        self.api
            .run(&self.clients, account, account, json!({"app": account}))
    }

    /// A replica of the Service `llama`.
    fn replica(&self, name: &str) -> (ClusterPod, Replica) {
        let pod = self
            .api
            .run(&self.replicas, name, "llama", json!({"app": "llama"}));
        let server = pod.serve(PORT);
        (pod, server)
    }

    /// The Service `llama` with one slice of these replicas.
    fn serve(&self, pods: &[&ClusterPod]) -> SocketAddr {
        let address = Family::V4.vip(1);
        let endpoints: Vec<_> = pods.iter().map(|pod| pod.endpoint()).collect();
        self.api.apply(&[
            objects::service("llama", address),
            objects::slice("llama", "llama-1", PORT, &endpoints),
        ]);
        address
    }

    /// Names of the services that the agent has programmed.
    fn services(&self) -> BTreeSet<String> {
        let services = self.agent.services().expect("nodemesh services");
        services.into_iter().map(|service| service.service).collect()
    }
}

/// The names of the replicas that answer `count` connections, and the errors of the others.
fn answers(client: &ClusterPod, to: SocketAddr, count: u64) -> BTreeSet<String> {
    let flags = ["--count", &count.to_string(), "--timeout", "1s"];
    let report = connect(&client.pod.place(), to, &flags);
    report
        .replicas
        .into_keys()
        .chain(report.errors.into_keys())
        .collect()
}

/// Waits until connections have these answers and no others. So many that with several replicas each is picked.
fn until_answers(client: &ClusterPod, to: SocketAddr, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|&name| name.to_owned()).collect();
    let what = format!("answers of {expected:?}");
    eventually(&what, || answers(client, to, 40), |seen| *seen == expected);
}
