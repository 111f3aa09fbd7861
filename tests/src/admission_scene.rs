// SPDX-License-Identifier: Apache-2.0
//! The scene of the tests of policies: clients of three kinds on node `a`, an agent on either node, and replicas on `b`.
//!
//! Invariant: what the scene cannot do fails the test at once, with the reason.

use std::net::SocketAddr;

use nodemesh_agent::api::{Event, EventKind};
use serde_json::json;

use crate::{
    agent::Agent,
    bed::{Bed, Family, Replica, connect},
    manifest::{Manifest, Service, workload},
    process::Place,
    topology::Pod,
};

/// What a client meets that gets an answer.
pub const IN: &str = "ok";
/// What it meets where the policy of its own node denies it.
pub const DENIED: &str = "EACCES";
/// What it meets where that of the server's node does.
pub const SILENCE: &str = "TIMEOUT";

/// Clients of three kinds, an agent on either node, and replicas.
#[derive(Debug)]
pub struct AdmissionScene {
    /// The client pod is the workload `apps/chat`.
    pub bed: Bed,
    /// The agent of the servers' node.
    pub other: Agent,
    /// The workload `apps/batch-1`.
    pub batch: Pod,
    /// No workload.
    pub stranger: Pod,
    /// In the server pod.
    pub replicas: Vec<Replica>,
}

impl AdmissionScene {
    /// With `count` replicas. The agents do not run yet.
    pub fn new(count: u16) -> Self {
        let bed = Bed::new();
        Self {
            other: bed.b.agent().expect("an agent"),
            batch: bed.a.pod("batch").expect("a pod"),
            stranger: bed.a.pod("stranger").expect("a pod"),
            replicas: bed.replicas(count),
            bed,
        }
    }

    /// The workloads of the clients.
    pub fn workloads(&self) -> Manifest {
        let addresses = |pod: &Pod| json!([pod.v4(), pod.v6()]);
        let chat = json!({
            "cgroup": "client", "addresses": addresses(&self.bed.client),
            "identity": "spiffe://example.org/ns/apps/sa/chat",
        });
        let batch = json!({"cgroup": "batch", "addresses": addresses(&self.batch)});
        let mut batch = workload("apps", "batch-1", &batch);
        batch["metadata"]["labels"] = json!({"app": "batch"});
        Manifest::of([workload("apps", "chat", &chat), batch])
    }

    /// The service `name` at the `number`th addresses of both families, that leads to one replica.
    pub fn service(&self, name: &str, number: u8, replica: usize) -> Service {
        let service = Service::new(name, Family::V4.vip(number)).also_at(Family::V6.vip(number).ip());
        service.to(Family::BOTH.map(|family| self.replicas[replica].at(family)))
    }

    /// Starts both agents.
    pub fn start(&mut self, manifest: &Manifest) {
        self.start_other(manifest);
        self.bed.start(manifest, &[]);
    }

    /// Starts the agent of the servers' node alone.
    pub fn start_other(&mut self, manifest: &Manifest) {
        let text = manifest.to_string();
        self.other.configure(&text).expect("write the configuration");
        self.other.start(&[]).expect("start the agent");
    }

    /// Replaces the configuration of both agents, and waits until the kernel has it.
    pub fn apply(&self, manifest: &Manifest) {
        self.apply_other(manifest);
        self.bed.apply(manifest);
    }

    /// Replaces that of the servers' node.
    pub fn apply_other(&self, manifest: &Manifest) {
        let applied = self.other.reconfigure(&manifest.to_string());
        applied.expect("apply the configuration");
    }

    /// A place in the network of `pod` that no agent looks at: as if its node had none.
    pub fn outside(&self, pod: &Pod) -> Place {
        let above = self.bed.a.cgroup().parent();
        Place {
            netns: pod.netns().path(),
            cgroup: above
                .expect("nodes have cgroups below that of the topology")
                .into(),
        }
    }
}

/// The one outcome of a connection: [`IN`] or the name of an error.
pub fn outcome(place: &Place, to: SocketAddr) -> String {
    let report = connect(place, to, &["--timeout", "400ms"]);
    report.errors.into_keys().next().unwrap_or_else(|| IN.to_owned())
}

/// Events of a kind that an agent remembers, as `nodemesh monitor` tells them.
pub fn events(agent: &Agent, kind: EventKind) -> Vec<Event> {
    let arguments = ["monitor", "--follow=false", "--kind", kind.word(), "-o", "json"];
    let output = agent.cli(&arguments).expect("nodemesh monitor");
    let text = String::from_utf8(output.stdout).expect("text");
    let event = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(event).collect()
}
