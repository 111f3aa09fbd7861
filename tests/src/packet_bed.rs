// SPDX-License-Identifier: Apache-2.0
//! The bed of the packet path's tests: a client outside the mesh, a node with an agent, and backends on it and on another node.
//!
//! ```text
//!  client (netns, no cgroup of the mesh) ── ext0 ─► node a: agent ── br0 ─► local
//!                                                        └── up0 ── fabric ─► node b ─► remote
//! ```
//!
//! Invariant: no program of the mesh sees the client's sockets, so what reaches a service went by packets.

mod far_end;
mod flood;
mod raw;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nodemesh_agent::api;
use serde_json::{Value, json};

pub use far_end::FarEnd;
pub use flood::flood;
pub use raw::{Echo, Raw};

use crate::{
    agent::{Agent, Build},
    attachment,
    bed::Family,
    eventually::eventually,
    manifest::{Manifest, NAMESPACE},
    topology::{Node, Pod, Topology},
};

/// Longest wait of a client for anything.
const PATIENCE: Duration = Duration::from_secs(20);
/// Port of every far end.
pub const TARGET: u16 = 9000;
/// Virtual port of the service.
pub const PORT: u16 = 8000;
/// The version of the ABI of the agent that stands for one to come.
const NEXT_ABI: u32 = 1_000;
/// Node port of the service.
pub const NODE_PORT: u16 = 30_080;

/// The parts.
#[derive(Debug)]
pub struct PacketBed {
    /// The agent of `a`.
    pub agent: Agent,
    /// Outside the mesh.
    pub client: Pod,
    /// A pod of `a`.
    pub local: Pod,
    /// A pod of `b`.
    pub remote: Pod,
    /// The node with the agent.
    pub a: Node,
    /// The other node.
    pub b: Node,
    /// All of it.
    pub topology: Topology,
}

impl PacketBed {
    /// A bed whose agent has not started.
    pub fn new() -> Self {
        let topology = Topology::new().expect("a topology");
        let (a, b) = (
            topology.node("a").expect("a node"),
            topology.node("b").expect("a node"),
        );
        let client = a.outsider("client").expect("a client outside");
        // What is outside reaches the other node by this one, and is reached so.
        let back = ["172.16.1.0/24 via 192.168.0.1", "fd16:1::/64 via fd10:ff::1"];
        b.netns()
            .configure(&back.map(|route| format!("route add {route}")))
            .expect("routes");
        Self {
            agent: a.agent().expect("an agent"),
            client,
            local: a.pod("local").expect("a pod"),
            remote: b.pod("remote").expect("a pod"),
            a,
            b,
            topology,
        }
    }

    /// A bed with an agent on all interfaces that has `manifest`.
    pub fn with(manifest: &Manifest) -> Self {
        let mut bed = Self::new();
        bed.start(manifest, &[]);
        bed
    }

    /// Starts the agent with `manifest` and more `flags`, and waits until its interfaces are served.
    pub fn start(&mut self, manifest: &Manifest, flags: &[&str]) {
        self.agent
            .configure(&manifest.to_string())
            .expect("write the configuration");
        self.switch(Build::Own, flags);
    }

    /// Starts the agent of `build` with the configuration that it has, and waits until its interfaces are served.
    pub fn switch(&mut self, build: Build, flags: &[&str]) {
        let own = ["--packet-interface", "up0,ext0,br0", "--max-flows", "4096"];
        let named = |flag: &&str| flags.contains(flag);
        let own: Vec<&str> = own
            .chunks(2)
            .filter(|pair| !named(&pair[0]))
            .flatten()
            .copied()
            .collect();
        self.agent
            .start_build(build, &[&own, flags].concat())
            .expect("start the agent");
        let packet = self.packet();
        assert!(
            packet.interfaces.iter().all(|interface| interface.effective),
            "{packet:?}"
        );
    }

    /// Links in the kernel to `flow_ingress` and `flow_egress` of the agent of `build`.
    pub fn links(&self, build: Build) -> [usize; 2] {
        let pins = self.a.pins();
        let pins = match build {
            Build::Own => pins,
            Build::Next => pins.of_version(NEXT_ABI),
        };
        let links = attachment::links(&pins).expect("the links in the kernel");
        ["flow_ingress", "flow_egress"].map(|name| links.get(name).copied().unwrap_or_default())
    }

    /// What `nodemesh status` says of the packet path.
    pub fn packet(&self) -> api::PacketStatus {
        let status = self.agent.status().expect("nodemesh status");
        status.datapath.packet.expect("a packet path")
    }

    /// The flows that `nodemesh connections` lists.
    pub fn flows(&self) -> Vec<api::Connection> {
        self.agent.flows().expect("nodemesh connections")
    }

    /// How often something happened.
    pub fn count(&self, event: &str) -> u64 {
        self.packet().events[event].packets
    }

    /// Waits until something has happened `least` times.
    pub fn counted(&self, event: &str, least: u64) -> u64 {
        eventually(event, || self.count(event), |count| *count >= least)
    }

    /// Address of the node at which the client finds it.
    pub fn node_address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => [172, 16, 1, 1].into(),
            Family::V6 => [0xfd16, 1, 0, 0, 0, 0, 0, 1].into(),
        }
    }
}

impl Default for PacketBed {
    fn default() -> Self {
        Self::new()
    }
}

/// A dual-stack service on the packet path, with a TCP and a UDP port and backends at [`TARGET`].
pub fn service(mode: &str, backends: &[&Pod], fields: &Value) -> Manifest {
    let addresses = Family::BOTH.map(|family| family.vip(1).ip());
    let located = |pod: &&Pod| {
        // The first node's pods are in 10.1.0.0/16.
        let is_local = matches!(pod.v4(), IpAddr::V4(v4) if v4.octets()[1] == 1);
        let node = if is_local { "a" } else { "b" };
        Family::BOTH.map(|family| json!({"address": family.of(pod), "locality": {"node": node}}))
    };
    let backends: Vec<Value> = backends.iter().flat_map(located).collect();
    let mut spec = json!({
        "addresses": addresses,
        "packetPath": mode,
        "ports": [
            {"name": "tcp", "port": PORT, "targetPort": TARGET},
            {"name": "udp", "port": PORT, "targetPort": TARGET, "protocol": "UDP"},
        ],
        "backends": backends,
    });
    for (field, value) in fields.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    Manifest::of([json!({
        "apiVersion": "nodemesh.io/v1alpha1", "kind": "Service",
        "metadata": {"name": "llama", "namespace": NAMESPACE}, "spec": spec,
    })])
}

/// The ports of [`service`] with [`NODE_PORT`].
pub fn node_ports() -> Value {
    json!([
        {"name": "tcp", "port": PORT, "targetPort": TARGET, "nodePort": NODE_PORT},
        {"name": "udp", "port": PORT, "targetPort": TARGET, "protocol": "UDP", "nodePort": NODE_PORT},
    ])
}

/// A TCP connection of a client outside.
#[derive(Debug)]
pub struct Call {
    stream: BufReader<TcpStream>,
    /// The replica at the other end.
    pub replica: String,
    /// The client as the replica sees it.
    pub seen_as: SocketAddr,
}

impl Call {
    /// Connects from the namespace of `client`.
    pub fn to(client: &Pod, to: SocketAddr) -> Result<Self> {
        Self::within(client, to, PATIENCE)
    }

    /// The same, if it takes no longer than `patience`.
    pub fn within(client: &Pod, to: SocketAddr, patience: Duration) -> Result<Self> {
        client.netns().run(|| {
            let stream =
                TcpStream::connect_timeout(&to, patience).with_context(|| format!("connect to {to}"))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).context("read the greeting")?;
            let (replica, seen_as) = line.trim().split_once(' ').context("a greeting")?;
            Ok(Self {
                replica: replica.to_owned(),
                seen_as: seen_as.parse()?,
                stream,
            })
        })?
    }

    /// Sends `data` and checks that it comes back.
    pub fn echoes(&mut self, data: &[u8]) -> Result<()> {
        let mut writer = self.stream.get_ref().try_clone()?;
        std::thread::scope(|scope| {
            let sent = scope.spawn(move || writer.write_all(data));
            let mut back = vec![0; data.len()];
            self.stream.read_exact(&mut back).context("read the echo")?;
            ensure!(back == data, "the echo differs");
            sent.join().expect("the writer does not panic").context("send")
        })
    }

    /// Its own end.
    pub fn local(&self) -> SocketAddr {
        self.stream.get_ref().local_addr().expect("a connected socket")
    }
}

/// Sends a datagram from the namespace of `client` and waits for the answer: the replica, and who it says that asked.
pub fn ask(client: &Pod, to: SocketAddr, data: &[u8]) -> Result<(String, SocketAddr)> {
    client.netns().run(|| {
        let any: IpAddr = match to.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(data, to)?;
        let mut buffer = vec![0; 65_536];
        let (length, source) = socket.recv_from(&mut buffer).context("no answer")?;
        ensure!(source == to, "the answer comes from {source}, not from {to}");
        let text = String::from_utf8(buffer[..length].to_vec())?;
        let mut words = text.splitn(3, ' ');
        let (replica, seen_as) = (
            words.next().context("a name")?,
            words.next().context("an address")?,
        );
        ensure!(
            words.next().map(str::as_bytes) == Some(data),
            "the echo differs: {text}"
        );
        Ok((replica.to_owned(), seen_as.parse()?))
    })?
}
