// SPDX-License-Identifier: Apache-2.0
//! What the kernels of both nodes count and measure for each replica, as the agents' CLI and API tell it.
//!
//! Used by the stage. Invariant: what was told of a replica is remembered when its agent tells nothing of it any more, which is some
//! time after it was taken out and its last socket has gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    os::unix::net::UnixStream,
};

use anyhow::{Context as _, Result, ensure};
use nodemesh_agent::{
    api::{Backend, BackendState, TrafficReport, Vantage},
    config::ADMIN_SOCKET,
};

use super::{
    latency::{Bounds, Counted},
    mesh,
    roles::NODES,
};
use crate::agent::Agent;

/// Address families in which every replica is reached.
const FAMILIES: usize = 2;

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

/// How the kernels of all nodes list one replica.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Listing {
    /// Rows that take new connections: one per node and address family.
    taking: usize,
    /// Rows that take none.
    others: usize,
}

/// What the kernels measured of one replica so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Metered {
    /// By the kernel of its own node.
    pub(super) server: Counted,
    /// By the kernels of its clients' nodes.
    pub(super) client: Counted,
}

/// A row: index of the node, index of the replica, its address.
type Row = (usize, usize, SocketAddr);

/// The memory of what was told.
#[derive(Debug)]
pub(super) struct Kernels {
    /// Addresses of the replicas, in their order.
    replicas: Vec<[SocketAddr; FAMILIES]>,
    rows: BTreeMap<Row, Counts>,
    meters: BTreeMap<(Row, Vantage), Counted>,
}

impl Listing {
    /// Whether every kernel sends new connections of both families there.
    pub(super) fn is_everywhere(self) -> bool {
        self.taking == NODES.len() * FAMILIES
    }

    /// Whether no kernel sends new connections there.
    pub(super) fn is_nowhere(self) -> bool {
        self.taking == 0
    }

    /// The word for people.
    pub(super) fn word(self) -> &'static str {
        match (self.taking, self.others) {
            (0, 0) => "unlisted",
            (0, _) => BackendState::Draining.word(),
            _ => BackendState::Active.word(),
        }
    }
}

impl Kernels {
    /// Nothing is known of the replicas with these addresses.
    pub(super) fn new(replicas: Vec<[SocketAddr; FAMILIES]>) -> Self {
        Self {
            replicas,
            rows: BTreeMap::new(),
            meters: BTreeMap::new(),
        }
    }

    /// Counts and listings of the replicas now, through `nodemesh backends`.
    pub(super) fn look(&mut self, agents: &[&Agent]) -> Result<(Vec<Counts>, Vec<Listing>)> {
        let mut listings = vec![Listing::default(); self.replicas.len()];
        for (node, agent) in agents.iter().enumerate() {
            // What is not told any more has no socket.
            let own = self.rows.iter_mut().filter(|((at, ..), _)| *at == node);
            own.for_each(|(_, counts)| counts.active = 0);
            for backend in agent.backends()? {
                let service = &backend.service;
                ensure!(service == mesh::SERVICE, "an unknown service: {service}");
                let (replica, address) = self.find(&backend.address)?;
                let listing = &mut listings[replica];
                match backend.state {
                    BackendState::Active => listing.taking += 1,
                    _ => listing.others += 1,
                }
                self.rows.insert((node, replica, address), counts(&backend));
            }
        }
        let mut sums = vec![Counts::default(); self.replicas.len()];
        for ((_, replica, _), counts) in &self.rows {
            let sum = &mut sums[*replica];
            sum.active += counts.active;
            sum.total += counts.total;
            sum.refused += counts.refused;
        }
        Ok((sums, listings))
    }

    /// What was measured, in the order of the replicas, and the bounds of the histograms.
    pub(super) fn measure(&mut self, agents: &[&Agent]) -> Result<(Vec<Metered>, Bounds)> {
        let mut bounds = Bounds::default();
        for (node, agent) in agents.iter().enumerate() {
            let report = traffic(agent)?;
            let mut told = BTreeSet::new();
            for row in report.rows.iter().filter(|row| row.service == mesh::SERVICE) {
                let (replica, address) = self.find(&row.backend)?;
                let key = ((node, replica, address), row.vantage);
                self.meters.insert(key, Counted::of(row));
                told.insert(key);
            }
            let gone = self
                .meters
                .iter_mut()
                .filter(|(key, _)| key.0.0 == node && !told.contains(*key));
            // What is not told any more has no socket.
            gone.for_each(|(_, counted)| counted.in_flight = 0);
            bounds = Bounds {
                first: report.bounds.first_seconds,
                gap: report.bounds.gap_seconds,
            };
        }
        let mut metered = vec![Metered::default(); self.replicas.len()];
        for (((_, replica, _), vantage), counted) in &self.meters {
            match vantage {
                Vantage::Server => metered[*replica].server.add(counted),
                Vantage::Client => metered[*replica].client.add(counted),
                Vantage::Node => {}
            }
        }
        Ok((metered, bounds))
    }

    /// Index of the replica at an address.
    pub(super) fn find(&self, address: &str) -> Result<(usize, SocketAddr)> {
        let address: SocketAddr = address.parse().context("an address of a backend")?;
        let index = self.replicas.iter().position(|own| own.contains(&address));
        let index = index.with_context(|| format!("no replica is at {address}"))?;
        Ok((index, address))
    }
}

fn counts(backend: &Backend) -> Counts {
    Counts {
        active: backend.active_connections,
        total: backend.connections_total,
        refused: backend
            .connections_failed
            .get("refused")
            .copied()
            .unwrap_or_default(),
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
