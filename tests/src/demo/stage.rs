// SPDX-License-Identifier: Apache-2.0
//! Who takes part: two nodes, each with an agent, model servers and clients; and the ways to change the configuration and to
//! look at what the kernel counts.
//!
//! Invariant: both agents have the same configuration, edited only by [`Stage::edit`].

use std::{
    fmt::Write as _,
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nodemesh_agent::api::BackendState;

use super::{
    client::{self, Client},
    mesh,
    replica::{self, Replica, Speed, Truth},
    story::Timing,
};
use crate::{
    agent::Agent,
    eventually::{PATIENCE, wait_until},
    interrupt::Interrupt,
    netns::NetNs,
    topology::{Node, Pod, Topology},
};

/// Names of the nodes.
pub(super) const NODES: [&str; 2] = ["a", "b"];

/// Index of the fastest replica.
pub(super) const FASTEST: usize = 0;
/// Index of the replica that is killed.
pub(super) const VICTIM: usize = 1;
/// Index of the replica that is drained.
pub(super) const LEAVING: usize = 2;
/// Index of the slowest replica.
pub(super) const SLOWEST: usize = 3;
/// Index of the replica that joins.
pub(super) const NEWCOMER: usize = 4;

const REPLICAS: [replica::Cast; 5] = [
    replica_cast("replica-1", 0, 40, 5),
    replica_cast("replica-2", 1, 80, 10),
    replica_cast("replica-3", 0, 120, 15),
    replica_cast("replica-4", 1, 160, 20),
    replica_cast("replica-5", 0, 60, 8),
];

const CLIENTS: [client::Cast; 4] = [
    client_cast("client-1", 0, "one-shot", 12, 0),
    client_cast("client-2", 0, "keep-alive", 4, 0),
    client_cast("client-3", 1, "one-shot", 12, 0),
    client_cast("client-4", 1, "one-shot", 6, 1),
];

const fn replica_cast(name: &'static str, node: usize, prefill: u32, token: u32) -> replica::Cast {
    let speed = Speed { prefill, token };
    replica::Cast { name, node, speed }
}

const fn client_cast(
    name: &'static str,
    node: usize,
    mode: &'static str,
    streams: u32,
    address: usize,
) -> client::Cast {
    client::Cast {
        name,
        node,
        mode,
        streams,
        address,
    }
}

/// Everything that runs. Processes end before the pods and nodes that they are in.
pub(super) struct Stage {
    pub(super) clients: Vec<Client>,
    pub(super) replicas: Vec<Replica>,
    hosts: Vec<Host>,
    _topology: Topology,
}

/// A node and its agent.
struct Host {
    agent: Agent,
    node: Node,
}

/// What the kernels of all nodes count for one replica.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    /// Open sockets.
    pub(super) active: u64,
    /// Connections placed on it, ever.
    pub(super) total: u64,
    /// Those that it refused.
    pub(super) refused: u64,
}

/// One look at everything but the clients; both lists are in the order of the replicas.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) counts: Vec<Counts>,
    pub(super) truths: Vec<Option<Truth>>,
}

impl Stage {
    /// Starts the agents and all servers but the one that joins later.
    pub(super) fn build(interrupt: &Interrupt) -> Result<Self> {
        let topology = Topology::new()?;
        let hosts = NODES
            .into_iter()
            .map(|name| {
                let node = topology.node(name)?;
                let agent = node.agent()?;
                Ok(Host { agent, node })
            })
            .collect::<Result<Vec<_>>>()?;
        let replicas = REPLICAS
            .into_iter()
            .map(|cast| Replica::new(cast, &hosts[cast.node].node))
            .collect::<Result<Vec<_>>>()?;
        let mut stage = Self {
            clients: Vec::new(),
            replicas,
            hosts,
            _topology: topology,
        };
        interrupt.check()?;
        for replica in &mut stage.replicas[..NEWCOMER] {
            replica.start()?;
            replica.listed = Some(BackendState::Active);
        }
        let manifest = mesh::manifest(&stage.replicas);
        for host in &mut stage.hosts {
            interrupt.check()?;
            host.agent.configure(&manifest)?;
            host.agent.start(&[])?;
        }
        Ok(stage)
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
            self.clients.push(Client::start(cast, pod, duration)?);
        }
        Ok(())
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

    /// Writes how the replicas are listed to the configuration of every node, waits until every kernel has it, and returns
    /// when the first file was replaced and when the last kernel was seen to follow.
    pub(super) fn edit(&self) -> Result<(Instant, Instant)> {
        let manifest = mesh::manifest(&self.replicas);
        let mut former = Vec::new();
        for host in &self.hosts {
            former.push(host.agent.status()?.config.generation);
        }
        let edited = Instant::now();
        for host in &self.hosts {
            host.agent.configure(&manifest)?;
        }
        for (host, former) in self.hosts.iter().zip(former) {
            let applied = || {
                host.agent.status().is_ok_and(|status| {
                    status.config.generation > former
                        && status.config.applied_generation == status.config.generation
                })
            };
            wait_until(PATIENCE, applied).context("wait until the kernel has the new configuration")?;
        }
        Ok((edited, Instant::now()))
    }

    /// Looks at the kernels, through the CLI, and asks the servers.
    pub(super) fn look(&self) -> Result<Look> {
        let mut counts = vec![Counts::default(); self.replicas.len()];
        for host in &self.hosts {
            for backend in host.agent.backends()? {
                ensure!(
                    backend.service == mesh::SERVICE,
                    "an unknown service: {}",
                    backend.service
                );
                let count = &mut counts[self.index_of(&backend.address)?];
                count.active += backend.active_connections;
                count.total += backend.connections_total;
                count.refused += backend
                    .connections_failed
                    .get("refused")
                    .copied()
                    .unwrap_or_default();
            }
        }
        let truths = self.replicas.iter().map(Replica::truth).collect();
        Ok(Look { counts, truths })
    }

    /// How long ago the oldest connection that is still open on a replica was placed there.
    pub(super) fn age_of_first_connection(&self, replica: usize) -> Result<Option<Duration>> {
        let mut oldest: Option<Duration> = None;
        for host in &self.hosts {
            for connection in host.agent.connections()? {
                if self.index_of(&connection.backend)? == replica {
                    oldest = oldest.max(Some(Duration::from_secs_f64(connection.age_seconds)));
                }
            }
        }
        Ok(oldest)
    }

    fn index_of(&self, address: &str) -> Result<usize> {
        let address: SocketAddr = address.parse().context("an address of a backend")?;
        self.replicas
            .iter()
            .position(|replica| replica.addresses().contains(&address))
            .with_context(|| format!("no replica is at {address}"))
    }

    /// Who has the service's addresses or listens on its port: a line for each, none if nobody does.
    pub(super) fn squatters(&self) -> Result<Vec<String>> {
        let hosts = self.hosts.iter().map(|host| host.node.netns());
        let servers = self.replicas.iter().map(|replica| replica.pod().netns());
        let clients = self.clients.iter().map(|client| client.pod().netns());
        let mut found = Vec::new();
        for netns in hosts.chain(servers).chain(clients) {
            found.extend(squatters_in(netns).with_context(|| format!("look into {}", netns.name()))?);
        }
        Ok(found)
    }
}

/// Listeners on the service's port and holders of its addresses in one network namespace.
fn squatters_in(netns: &NetNs) -> Result<Vec<String>> {
    let inside = || -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for table in ["tcp", "tcp6"] {
            let sockets = std::fs::read_to_string(format!("/proc/thread-self/net/{table}"))?;
            found.extend(sockets.lines().filter(|line| listens(line)).map(str::to_owned));
        }
        for ip in mesh::VIRTUAL {
            match TcpListener::bind(SocketAddr::new(ip, 0)) {
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => (),
                Err(error) => return Err(error),
                Ok(_) => found.push(has_address(ip)),
            }
        }
        Ok(found)
    };
    Ok(netns.run(inside)??)
}

fn has_address(ip: IpAddr) -> String {
    format!("an interface has {ip}")
}

/// Whether a line of `/proc/net/tcp` is a socket that listens on the service's port.
fn listens(line: &str) -> bool {
    const LISTEN: &str = "0A";
    let mut fields = line.split_whitespace().skip(1);
    let port = fields
        .next()
        .and_then(|local| local.rsplit_once(':'))
        .map(|(_, port)| port);
    let state = fields.nth(1);
    port == Some(&format!("{:04X}", mesh::PORT)) && state == Some(LISTEN)
}

/// What runs and what will be seen.
pub(super) fn picture(timing: Timing) -> String {
    let mut text = "nodemesh demo: two nodes, four model servers, four clients, and no proxy.\n\n".to_owned();
    for (node, name) in NODES.into_iter().enumerate() {
        let servers = REPLICAS[..NEWCOMER]
            .iter()
            .filter(|cast| cast.node == node)
            .map(|cast| {
                let Speed { prefill, token } = cast.speed;
                format!("{} ({prefill} ms, then {token} ms a token)", cast.name)
            });
        let clients = CLIENTS.iter().filter(|cast| cast.node == node).map(|cast| {
            let family = if cast.address == 0 { "IPv4" } else { "IPv6" };
            format!("{} ({} {} streams, {family})", cast.name, cast.streams, cast.mode)
        });
        let _ = writeln!(text, "  node {name}: nodemesh-agent");
        let _ = writeln!(text, "    servers  {}", servers.collect::<Vec<_>>().join(", "));
        let _ = writeln!(text, "    clients  {}", clients.collect::<Vec<_>>().join(", "));
    }
    let [v4, v6] = [0, 1].map(mesh::service_address);
    let _ = write!(
        text,
        "
  Every client dials {v4} or {v6}. No process listens there and no interface has these addresses:
  inside connect(), the kernel draws two replicas and takes the one with fewer open connections.

{timing}

  In the table: ACTIVE, TOTAL and SHARE of the new connections are the kernels' counts (nodemesh backends), TOKENS/S
  and median TTFT (time to first token) are what clients saw, IN FLIGHT is what the server says itself.
"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listeners_on_the_port_of_the_service_count() {
        let line =
            |port: &str, state: &str| format!("  0: 0B01010A:{port} 00000000:0000 {state} 00000000:00000000");
        assert!(listens(&line("1F40", "0A")));
        assert!(!listens(&line("1F40", "01")));
        assert!(!listens(&line("2328", "0A")));
        assert!(!listens("  sl  local_address rem_address   st tx_queue rx_queue"));
    }
}
