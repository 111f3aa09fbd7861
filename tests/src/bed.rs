// SPDX-License-Identifier: Apache-2.0
//! The bed of the data path's tests: a client pod on node `a`, a server pod on node `b`, and `a`'s agent.
//!
//! ```text
//!  node a: agent ── connect() of client is placed ──► node b: server, with several replicas, one port each
//! ```
//!
//! Invariant: what a bed cannot do fails the test at once, with the reason.

mod connecting;
mod health;
mod model;
mod probing;
mod replica;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use nodemesh_agent::api::{self, Event, EventKind};

pub use self::{
    connecting::Connecting,
    health::HealthServer,
    model::ModelServer,
    probing::{
        Counts, Held, Report, Talk, UdpReport, connect, hold, once, probe, report_of, talk, talk_polling, udp,
    },
    replica::Replica,
};
use crate::{
    agent::Agent,
    cgroup::Cgroup,
    eventually::eventually,
    manifest::Manifest,
    process::Place,
    topology::{Node, Pod, Topology},
};

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The address of this family that `pod` has.
    pub fn of(self, pod: &Pod) -> IpAddr {
        match self {
            Self::V4 => pod.v4(),
            Self::V6 => pod.v6(),
        }
    }

    /// The `number`th address for services, port 8000, which leads nowhere by itself.
    pub fn vip(self, number: u8) -> SocketAddr {
        match self {
            Self::V4 => SocketAddr::new([10, 96, 0, number].into(), 8000),
            Self::V6 => SocketAddr::new([0xfd96, 0, 0, 0, 0, 0, 0, u16::from(number)].into(), 8000),
        }
    }

    /// An address in the network of the pods of node `b` that no pod has.
    pub fn nobody(self) -> IpAddr {
        match self {
            Self::V4 => [10, 2, 0, 250].into(),
            Self::V6 => [0xfd10, 2, 0, 0, 0, 0, 0, 0xfa].into(),
        }
    }
}

/// Nodes, pods and an agent.
#[derive(Debug)]
pub struct Bed {
    /// The agent of `a`.
    pub agent: Agent,
    /// A pod of `a`.
    pub client: Pod,
    /// A pod of `b`.
    pub server: Pod,
    /// The node of the client.
    pub a: Node,
    /// The node of the server.
    pub b: Node,
    /// Both.
    pub topology: Topology,
}

impl Bed {
    /// A bed whose agent has not started.
    pub fn new() -> Self {
        let topology = Topology::new().expect("a topology");
        let (a, b) = (
            topology.node("a").expect("a node"),
            topology.node("b").expect("a node"),
        );
        Self {
            agent: a.agent().expect("an agent"),
            client: a.pod("client").expect("a pod"),
            server: b.pod("server").expect("a pod"),
            a,
            b,
            topology,
        }
    }

    /// A bed with an agent that has `manifest`.
    pub fn with(manifest: &Manifest) -> Self {
        let mut bed = Self::new();
        bed.start(manifest, &[]);
        bed
    }

    /// Starts the agent with `manifest` and more `flags`.
    pub fn start(&mut self, manifest: &Manifest, flags: &[&str]) {
        self.agent
            .configure(&manifest.to_string())
            .expect("write the configuration");
        self.agent.start(flags).expect("start the agent");
    }

    /// Replaces the configuration and waits until the kernel has it.
    pub fn apply(&self, manifest: &Manifest) {
        self.agent
            .reconfigure(&manifest.to_string())
            .expect("apply the configuration");
    }

    /// `count` replicas in the server pod, named `r0`, `r1`..., at ports from 9000 on.
    pub fn replicas(&self, count: u16) -> Vec<Replica> {
        (0..count)
            .map(|number| Replica::start(&self.server, &format!("r{number}"), 9000 + number))
            .collect()
    }

    /// A place in the network namespace of `pod` and in a new cgroup `name` below its own.
    pub fn nested(&self, pod: &Pod, name: &str) -> (Cgroup, Place) {
        let cgroup = Cgroup::create(pod.cgroup(), name).expect("a cgroup");
        let place = Place {
            cgroup: cgroup.path().into(),
            ..pod.place()
        };
        (cgroup, place)
    }

    /// The backends by address.
    pub fn backends(&self) -> BTreeMap<String, api::Backend> {
        let backends = self.agent.backends().expect("nodemesh backends");
        backends
            .into_iter()
            .map(|backend| (backend.address.clone(), backend))
            .collect()
    }

    /// The backend at `address`.
    pub fn backend(&self, address: SocketAddr) -> api::Backend {
        let mut backends = self.backends();
        backends
            .remove(&address.to_string())
            .unwrap_or_else(|| panic!("no backend {address}: {backends:?}"))
    }

    /// How often a service at `address` refused for lack of a backend.
    pub fn refused(&self, address: SocketAddr) -> u64 {
        let services = self.agent.services().expect("nodemesh services");
        let service = services
            .iter()
            .find(|service| service.address == address.to_string());
        service
            .unwrap_or_else(|| panic!("no service {address}: {services:?}"))
            .refused["no_backend"]
    }

    /// What all backends together have counted.
    pub fn counted(&self) -> Counted {
        self.backends().values().fold(Counted::default(), Counted::plus)
    }

    /// Waits until no connection is counted as open, and checks that every one that was opened is counted as ended once.
    pub fn at_rest(&self) -> Counted {
        let counted = eventually(
            "no open connection",
            || self.counted(),
            |counted| counted.active == 0,
        );
        let backends = self.backends();
        assert_eq!(counted.opened, counted.closed + counted.failed, "{backends:#?}");
        let listed = self.agent.connections().expect("nodemesh connections");
        assert!(listed.is_empty(), "{listed:#?}");
        counted
    }

    /// What the agent remembers of this kind, the oldest first: the output of `nodemesh monitor`.
    pub fn events(&self, kind: EventKind) -> Vec<Event> {
        let arguments = ["monitor", "--follow=false", "--kind", kind.word(), "-o", "json"];
        let output = self.agent.cli(&arguments).expect("nodemesh monitor");
        let text = String::from_utf8(output.stdout).expect("text");
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        text.lines().map(parse).collect()
    }

    /// Waits until this many events of the kind are known.
    pub fn eventually_events(&self, kind: EventKind, count: usize) -> Vec<Event> {
        eventually(kind.word(), || self.events(kind), |events| events.len() >= count)
    }

    /// Panics if a kernel program had an internal error.
    pub fn assert_no_internal_error(&self) {
        let errors = self
            .agent
            .status()
            .expect("nodemesh status")
            .datapath
            .internal_errors;
        assert!(errors.values().all(|count| *count == 0), "{errors:?}");
    }
}

impl Default for Bed {
    fn default() -> Self {
        Self::new()
    }
}

/// Sums over backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Connections that are open.
    pub active: u64,
    /// Connections that were ever placed.
    pub opened: u64,
    /// Connections that ended after they were established.
    pub closed: u64,
    /// Connections that were never established.
    pub failed: u64,
}

impl Counted {
    fn plus(self, backend: &api::Backend) -> Self {
        Self {
            active: self.active + backend.active_connections,
            opened: self.opened + backend.connections_total,
            closed: self.closed + backend.connections_closed,
            failed: self.failed + backend.connections_failed.values().sum::<u64>(),
        }
    }
}
