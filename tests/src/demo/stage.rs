// SPDX-License-Identifier: Apache-2.0
//! Everything that runs: two nodes, each with an agent, a control plane, model servers and clients; and the ways to look at it.
//!
//! Invariant: no agent has a configuration of its own; all that they know comes from the control plane.

use std::{
    net::TcpStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    client::Client,
    fleet,
    kernels::{Counts, Kernels, Listing, Metered},
    latency::Bounds,
    replica::{Replica, Truth},
    roles::{CLIENTS, CONTROL_NODE, NEWCOMER, NODES, REPLICAS},
    screen::Screen,
    squatters,
};
use crate::{
    agent::Agent,
    control::ControlPlane,
    eventually::{PATIENCE, wait_until},
    interrupt::Interrupt,
    topology::{Node, Pod, Topology},
};

/// Everything that runs. Processes end before the pods and nodes that they are in.
pub(super) struct Stage {
    pub(super) clients: Vec<Client>,
    pub(super) replicas: Vec<Replica>,
    pub(super) control: ControlPlane,
    kernels: Kernels,
    hosts: Vec<Host>,
    /// A host outside the mesh, before the first node.
    pub(super) outsider: Pod,
    _topology: Topology,
}

/// A node and its agent.
struct Host {
    agent: Agent,
    node: Node,
}

/// One look at everything but the clients; all lists are in the order of the replicas.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) counts: Vec<Counts>,
    pub(super) listings: Vec<Listing>,
    pub(super) truths: Vec<Option<Truth>>,
}

impl Stage {
    /// Starts the control plane, the agents and all servers but the one that joins later, and applies the service.
    pub(super) fn build(interrupt: &Interrupt, screen: &mut Screen) -> Result<Self> {
        let topology = Topology::new()?;
        let hosts = NODES
            .into_iter()
            .map(|name| {
                let node = topology.node(name)?;
                let agent = node.agent()?;
                Ok(Host { agent, node })
            })
            .collect::<Result<Vec<_>>>()?;
        let outsider = hosts[0].node.outsider("stranger")?;
        let replicas = REPLICAS
            .into_iter()
            .map(|cast| Replica::new(cast, &hosts[cast.node].node))
            .collect::<Result<Vec<_>>>()?;
        let mut stage = Self {
            clients: Vec::new(),
            control: ControlPlane::new(hosts[CONTROL_NODE].node.pod("control")?),
            kernels: Kernels::new(replicas.iter().map(Replica::addresses).collect()),
            replicas,
            hosts,
            outsider,
            _topology: topology,
        };
        stage.start(interrupt, screen)?;
        Ok(stage)
    }

    fn start(&mut self, interrupt: &Interrupt, screen: &mut Screen) -> Result<()> {
        interrupt.check()?;
        self.control.start(&[])?;
        let flags = self.control.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        for (index, host) in self.hosts.iter_mut().enumerate() {
            interrupt.check()?;
            // The first node is the one that strangers find.
            let packets: &[&str] = if index == 0 {
                &[
                    "--packet-interface",
                    "up0,ext0,br0",
                    "--flow-timeout",
                    "time_wait=1s",
                ]
            } else {
                &[]
            };
            host.agent.start(&[&flags, packets].concat())?;
        }
        fleet::apply(&self.control, screen)?;
        let began = Instant::now();
        for replica in &mut self.replicas[..NEWCOMER] {
            interrupt.check()?;
            replica.start(&self.control)?;
        }
        wait_until(PATIENCE, || {
            let look = self.look();
            look.is_ok_and(|look| {
                look.listings[..NEWCOMER]
                    .iter()
                    .all(|listing| listing.is_everywhere())
            })
        })
        .context("wait until the kernels have every replica that registered itself")?;
        screen.say(&format!(
            "\n{NEWCOMER} model servers were started by `nodemesh register`; {} ms later all are in both kernels\n",
            began.elapsed().as_millis()
        ));
        Ok(())
    }

    /// Starts a replica.
    pub(super) fn start_replica(&mut self, index: usize) -> Result<()> {
        self.replicas[index].start(&self.control)
    }

    /// Starts the clients; they begin no request after `duration`.
    pub(super) fn start_clients(&mut self, duration: Duration) -> Result<()> {
        let pods = CLIENTS
            .into_iter()
            .map(|cast| Ok((cast, self.hosts[cast.node].node.pod(cast.name)?)))
            .collect::<Result<Vec<_>>>()?;
        for (_, pod) in &pods {
            self.wait_for_network(pod)?;
        }
        for (cast, pod) in pods {
            let folder = self.folder()?;
            self.clients.push(Client::start(cast, pod, &folder, duration)?);
        }
        Ok(())
    }

    /// A folder that goes with the stage.
    fn folder(&self) -> Result<PathBuf> {
        let config = self.hosts[0].agent.config();
        Ok(config.parent().context("a file is in a folder")?.to_owned())
    }

    /// Waits until every server can be reached from `pod`: IPv6 forwards nothing before duplicate address detection ends.
    fn wait_for_network(&self, pod: &Pod) -> Result<()> {
        const PAUSE: Duration = Duration::from_millis(200);
        let addresses = self.replicas[..NEWCOMER].iter().flat_map(Replica::addresses);
        for address in addresses {
            let reached = || {
                let dial = || TcpStream::connect_timeout(&address, PAUSE).is_ok();
                pod.netns().run(dial).is_ok_and(|reached| reached)
            };
            wait_until(PATIENCE, reached).with_context(|| format!("reach {address}"))?;
        }
        Ok(())
    }

    /// Looks at the kernels, through the CLI, and asks the servers.
    pub(super) fn look(&mut self) -> Result<Look> {
        let agents: Vec<&Agent> = self.hosts.iter().map(|host| &host.agent).collect();
        let (counts, listings) = self.kernels.look(&agents)?;
        let truths = self.replicas.iter().map(Replica::truth).collect();
        Ok(Look {
            counts,
            listings,
            truths,
        })
    }

    /// What the kernels measured, in the order of the replicas, and the bounds of their histograms.
    pub(super) fn measure(&mut self) -> Result<(Vec<Metered>, Bounds)> {
        let agents: Vec<&Agent> = self.hosts.iter().map(|host| &host.agent).collect();
        self.kernels.measure(&agents)
    }

    /// The agent of a node.
    pub(super) fn agent(&self, node: usize) -> &Agent {
        &self.hosts[node].agent
    }

    /// Whether every agent is connected to the control plane.
    pub(super) fn all_follow(&self) -> Result<bool> {
        for host in &self.hosts {
            let control = host.agent.status()?.config.control;
            if control.is_none_or(|control| control.connected.is_none()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How long ago the oldest connection that is still open on a replica was placed there.
    pub(super) fn age_of_first_connection(&self, replica: usize) -> Result<Option<Duration>> {
        let mut oldest: Option<Duration> = None;
        for host in &self.hosts {
            for connection in host.agent.connections()? {
                if self.kernels.find(&connection.backend)?.0 == replica {
                    oldest = oldest.max(Some(Duration::from_secs_f64(connection.age_seconds)));
                }
            }
        }
        Ok(oldest)
    }

    /// Who has the service's addresses or listens on its port: a line for each, none if nobody does.
    pub(super) fn squatters(&self) -> Result<Vec<String>> {
        let hosts = self.hosts.iter().map(|host| host.node.netns());
        let servers = self.replicas.iter().map(|replica| replica.pod().netns());
        let clients = self.clients.iter().map(|client| client.pod().netns());
        let mut found = Vec::new();
        for netns in hosts.chain([self.control.netns()]).chain(servers).chain(clients) {
            found.extend(squatters::inside(netns).with_context(|| format!("look into {}", netns.name()))?);
        }
        Ok(found)
    }
}
