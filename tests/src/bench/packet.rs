// SPDX-License-Identifier: Apache-2.0
//! Case `packet`: a client outside the mesh through a node to a server behind it, by the packet path, by nftables DNAT with masquerading, and
//! by plain routing, in turns; and the packet path with 10,000 services.
//!
//! ```text
//! client (netns) ── ext0 ─► node (netns): packet path, nftables or neither ── br0 ─► server (netns)
//! client (netns) ── ext0 ─► node (netns): server                                  what client and server alone take
//! ```
//!
//! Client and server are two threads on one CPU, and the packets between them are worked on in their system calls, so the CPU time of
//! this process is that of the whole way; without that of a client and a server on one link, it is that of the node. Invariant: each way
//! has a node, a client and a server of its own, so none pays for another.

mod way;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};

use super::{Run, markdown::Table, series::Series};
use crate::{
    agent::Agent,
    netns::NetNs,
    topology::{Node, Pod, Topology},
};
use way::{Load, Way};

/// What the packet path may take of nftables' CPU.
const TARGET_CPU: f64 = 0.8;
/// How many services there are in the second part.
const SERVICES: u32 = 10_000;
/// Address of the node at which its client finds it.
const NODE: [u8; 4] = [172, 16, 1, 1];
/// Port of the server.
const PORT: u16 = 9000;

/// A node with a client before it and a server behind it.
struct Lane {
    way: Way,
    agent: Option<Agent>,
    client: Pod,
    server: Pod,
    node: Node,
}

impl Lane {
    fn new(topology: &Topology, way: Way) -> Result<Self> {
        let node = topology.node(way.word())?;
        let client = node.outsider("client")?;
        let server = node.pod("server")?;
        let mut lane = Self {
            way,
            agent: None,
            client,
            server,
            node,
        };
        match way {
            Way::Joined | Way::Direct => {}
            Way::Nftables => way::nftables(&lane.node, lane.dialled().ip(), lane.backend())?,
            Way::Packet | Way::Many => {
                let services = if way == Way::Many { SERVICES } else { 1 };
                let mut agent = lane.node.agent()?;
                agent.configure(&way::services(services, lane.dialled(), lane.backend()))?;
                let interfaces = ["--packet-interface", "ext0,br0", "--program-stats", "false"];
                agent.start(&interfaces)?;
                lane.agent = Some(agent);
            }
        }
        Ok(lane)
    }

    fn backend(&self) -> SocketAddr {
        match self.way {
            Way::Joined => SocketAddr::new(NODE.into(), PORT),
            _ => SocketAddr::new(self.server.v4(), PORT),
        }
    }

    /// Where the server is.
    fn far_end(&self) -> &NetNs {
        match self.way {
            Way::Joined => self.node.netns(),
            _ => self.server.netns(),
        }
    }

    /// What the client dials.
    fn dialled(&self) -> SocketAddr {
        match self.way {
            Way::Joined | Way::Direct => self.backend(),
            _ => SocketAddr::new([10, 96, 0, 1].into(), 8000),
        }
    }

    /// Operations per second, and CPU time of one in nanoseconds.
    fn measure(&self, load: Load, count: u32) -> Result<(f64, f64)> {
        let (elapsed, cpu) = load
            .run(
                self.client.netns(),
                self.far_end(),
                (self.dialled(), self.backend()),
                count,
            )
            .with_context(|| format!("{} by {}", load.word(), self.way.word()))?;
        let per = |time: Duration| time.as_nanos() as f64 / f64::from(count);
        Ok((1e9 / per(elapsed), per(cpu)))
    }
}

/// Rates and CPU times of a way, per round.
#[derive(Default)]
struct Measured {
    rate: Series,
    cpu: Series,
}

pub(super) fn run(run: &Run) -> Result<String> {
    let topology = Topology::new()?;
    let lanes = Way::ALL
        .iter()
        .map(|way| Lane::new(&topology, *way))
        .collect::<Result<Vec<_>>>()?;
    let mut table = Table::new(&[
        "load",
        "without a node, ns CPU",
        "routed",
        "nftables",
        "packet path",
        "rate, packet path / nftables",
        "CPU of the node, packet path / nftables",
        "CPU of all three",
        "10,000 services / 1",
    ]);
    let mut verdicts = Vec::new();
    for load in Load::ALL {
        let mut measured: Vec<Measured> = lanes.iter().map(|_| Measured::default()).collect();
        for round in 0..run.scaled(5, 15) {
            for turn in 0..lanes.len() {
                run.step()?;
                let index = (turn + round) % lanes.len();
                let (rate, cpu) = lanes[index].measure(load, load.count(run.quick))?;
                measured[index].rate.push(rate);
                measured[index].cpu.push(cpu);
            }
        }
        let [joined, direct, nftables, packet, many] = &measured[..] else {
            unreachable!("one for each way")
        };
        let rate = packet.rate.over(&nftables.rate);
        let cpu = packet.cpu.over(&nftables.cpu);
        let node = |way: &Measured| way.cpu.less(&joined.cpu).median();
        let node = node(packet) / node(nftables);
        table.row(&[
            load.word().to_owned(),
            joined.cpu.shown(1.0, 0),
            direct.cpu.shown(1.0, 0),
            nftables.cpu.shown(1.0, 0),
            packet.cpu.shown(1.0, 0),
            rate.to_string(),
            format!("{node:.2}"),
            cpu.to_string(),
            many.cpu.over(&packet.cpu).to_string(),
        ]);
        let is_met = rate.median() >= 1.0 && node <= TARGET_CPU;
        let word = if is_met { "met" } else { "**not met**" };
        verdicts.push(format!(
            "{}: {word} with {:.2} and {:.2}",
            load.word(),
            rate.median(),
            node
        ));
    }
    Ok(format!(
        "CPU is that of client, node and server together; that of the node is what is left without the CPU of a client and a server on one \
         link.\n\n{table}\nTarget: a rate of at least 1.0 at no more than {TARGET_CPU} of the node's CPU: {}.\n",
        verdicts.join("; ")
    ))
}
