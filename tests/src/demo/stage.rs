// SPDX-License-Identifier: Apache-2.0
//! Who takes part: two nodes, each with an agent, model servers and clients; and the ways to change the configuration and to
//! look at what the kernel counts.
//!
//! Invariant: both agents have the same configuration, edited only by [`Stage::edit`].

use std::{
    fmt::Write as _,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nodemesh_agent::{
    api::{BackendState, TrafficReport, Vantage},
    config::ADMIN_SOCKET,
};

use super::{
    client::{self, Client},
    latency::{Bounds, Counted},
    mesh,
    replica::{self, Replica, Speed, Truth},
    squatters,
    story::Timing,
};
use crate::{
    agent::Agent,
    eventually::{PATIENCE, wait_until},
    interrupt::Interrupt,
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
    replica_cast("replica-1", 0, 50, 5),
    replica_cast("replica-2", 1, 70, 12),
    replica_cast("replica-3", 0, 90, 17),
    replica_cast("replica-4", 1, 170, 20),
    replica_cast("replica-5", 0, 50, 8),
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

/// What the kernels measured of one replica so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Metered {
    /// By the kernel of its own node.
    pub(super) server: Counted,
    /// By the kernels of its clients' nodes.
    pub(super) client: Counted,
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

    /// What the kernels measured, in the order of the replicas, and the bounds of their histograms.
    pub(super) fn metered(&self) -> Result<(Vec<Metered>, Bounds)> {
        let mut metered = vec![Metered::default(); self.replicas.len()];
        let mut bounds = Bounds::default();
        for host in &self.hosts {
            let report = traffic(&host.agent)?;
            for row in report.rows.iter().filter(|row| row.service == mesh::SERVICE) {
                let replica = &mut metered[self.index_of(&row.backend)?];
                match row.vantage {
                    Vantage::Server => replica.server.add(row),
                    Vantage::Client => replica.client.add(row),
                }
            }
            bounds = Bounds {
                first: report.bounds.first_seconds,
                gap: report.bounds.gap_seconds,
            };
        }
        Ok((metered, bounds))
    }

    /// The agent of a node.
    pub(super) fn agent(&self, node: usize) -> &Agent {
        &self.hosts[node].agent
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
            found.extend(squatters::inside(netns).with_context(|| format!("look into {}", netns.name()))?);
        }
        Ok(found)
    }
}

/// `GET /v1/traffic` of an agent's admin socket.
fn traffic(agent: &Agent) -> Result<TrafficReport> {
    let socket = agent.run_dir().join(ADMIN_SOCKET);
    let ask = || -> io::Result<String> {
        let (mut stream, mut answer) = (UnixStream::connect(&socket)?, String::new());
        write!(stream, "GET /v1/traffic HTTP/1.0\r\nHost: nodemesh\r\n\r\n")?;
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().with_context(|| format!("ask {}", socket.display()))?;
    let (_, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
    serde_json::from_str(body).with_context(|| format!("{} answered {answer}", socket.display()))
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

  In the table: ACTIVE, TOTAL and SHARE of the new connections are the kernels' counts (nodemesh backends), TOKENS/S is what
  clients saw. TTFT (time to first token) and ITL (between two tokens) are mean, median and 99th percentile in milliseconds:
  as the kernel of the replica's node measured them, without decrypting or proxying anything, and as the clients saw them; the
  kernel's quantiles are interpolated within a bucket of its histogram. IN FLIGHT are the requests that the kernel counts as
  open, beside those that the server itself knows.
"
    );
    text
}
