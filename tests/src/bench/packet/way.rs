// SPDX-License-Identifier: Apache-2.0
//! The ways through the node, and the loads that are sent on them.
//!
//! Invariant: a load is two threads, bound to one CPU, that end with it.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::socket::{MsgFlags, recv},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use socket2::SockRef;

use crate::{netns::NetNs, topology::Node};

/// A way through the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// None: the server is where the node is, one link from the client.
    Joined,
    /// Routed, nothing translated.
    Direct,
    /// DNAT and masquerading by nftables, with one rule.
    Nftables,
    /// The packet path, with one service.
    Packet,
    /// The packet path, with 10,000 services.
    Many,
}

impl Way {
    pub(super) const ALL: [Self; 5] = [
        Self::Joined,
        Self::Direct,
        Self::Nftables,
        Self::Packet,
        Self::Many,
    ];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Direct => "direct",
            Self::Nftables => "nft",
            Self::Packet => "packet",
            Self::Many => "many",
        }
    }
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// Connect, 64 bytes each way, close.
    Exchange,
    /// 64 bytes each way on one connection.
    Requests,
    /// 64 KiB one way on one connection.
    Bulk,
}

const REQUEST: [u8; 64] = [7; 64];
const BLOCK: usize = 65_536;

impl Load {
    pub(super) const ALL: [Self; 3] = [Self::Exchange, Self::Requests, Self::Bulk];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Exchange => "connect, request, close",
            Self::Requests => "request and response",
            Self::Bulk => "bulk, per 64 KiB",
        }
    }

    pub(super) fn count(self, quick: bool) -> u32 {
        let count = match self {
            Self::Exchange => 4_000,
            Self::Requests => 16_000,
            Self::Bulk => 15_000,
        };
        if quick { count } else { count * 2 }
    }

    /// Runs `count` operations; how long they took, and the CPU time of this process for them.
    pub(super) fn run(
        self,
        client: &NetNs,
        server: &NetNs,
        (dialled, backend): (SocketAddr, SocketAddr),
        count: u32,
    ) -> Result<(Duration, Duration)> {
        let listener = server.run(|| TcpListener::bind(backend))?.context("listen")?;
        thread::scope(|scope| {
            let far_end = scope.spawn(move || -> Result<()> {
                bind_to_one_cpu()?;
                self.serve(&listener, count)
            });
            let spent = client.run(|| -> Result<(Duration, Duration)> {
                bind_to_one_cpu()?;
                // The first connection finds neighbours and routes; it is no part of what is measured.
                drop(dial(dialled)?);
                let (began, cpu) = (Instant::now(), cpu_time()?);
                self.ask(dialled, count)?;
                Ok((began.elapsed(), cpu_time()?.saturating_sub(cpu)))
            });
            far_end.join().expect("the server does not panic")?;
            spent?
        })
    }

    fn connections(self, count: u32) -> u32 {
        if self == Self::Exchange { count } else { 1 }
    }

    fn serve(self, listener: &TcpListener, count: u32) -> Result<()> {
        drop(listener.accept()?);
        for _ in 0..self.connections(count) {
            let (mut stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            match self {
                Self::Exchange | Self::Requests => {
                    let mut request = REQUEST;
                    while stream.read_exact(&mut request).is_ok() {
                        stream.write_all(&request)?;
                    }
                }
                Self::Bulk => {
                    let mut block = vec![0; BLOCK];
                    // What is truncated is not copied.
                    while recv(stream.as_raw_fd(), &mut block, MsgFlags::MSG_TRUNC)? > 0 {}
                }
            }
        }
        Ok(())
    }

    fn ask(self, dialled: SocketAddr, count: u32) -> Result<()> {
        let mut answer = REQUEST;
        match self {
            Self::Exchange => {
                for _ in 0..count {
                    let mut stream = dial(dialled)?;
                    stream.write_all(&REQUEST)?;
                    stream.read_exact(&mut answer)?;
                    // Leaves no TIME_WAIT behind, which would run the client out of ports.
                    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                }
            }
            Self::Requests => {
                let mut stream = dial(dialled)?;
                for _ in 0..count {
                    stream.write_all(&REQUEST)?;
                    stream.read_exact(&mut answer)?;
                }
            }
            Self::Bulk => {
                let mut stream = dial(dialled)?;
                let block = vec![7; BLOCK];
                for _ in 0..count {
                    stream.write_all(&block)?;
                }
                // All of it has arrived when the far end has closed.
                stream.shutdown(std::net::Shutdown::Write)?;
                while stream.read(&mut answer)? > 0 {}
            }
        }
        Ok(())
    }
}

fn dial(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))
        .with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn bind_to_one_cpu() -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).context("bind a thread to a CPU")
}

fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

/// The rules of a node that translates by nftables.
pub(super) fn nftables(node: &Node, dialled: IpAddr, backend: SocketAddr) -> Result<()> {
    let rules = format!(
        "table ip bench {{\n\
           chain pre {{ type nat hook prerouting priority dstnat; ip daddr {dialled} tcp dport 8000 dnat to {backend}; }}\n\
           chain post {{ type nat hook postrouting priority srcnat; ip daddr {} masquerade; }}\n\
         }}\n",
        backend.ip()
    );
    let mut nft = Command::new("ip")
        .args(["netns", "exec", node.netns().name(), "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("run nft")?;
    nft.stdin
        .take()
        .context("nft has a standard input")?
        .write_all(rules.as_bytes())?;
    ensure!(
        nft.wait()?.success(),
        "nft refused the rules; is the package nftables installed?"
    );
    Ok(())
}

/// `count` services on the packet path, the first of which is at `dialled`.
pub(super) fn services(count: u32, dialled: SocketAddr, backend: SocketAddr) -> String {
    let mut yaml = String::from("# The services of a benchmark.\n");
    let first = match dialled.ip() {
        IpAddr::V4(first) => u32::from(first),
        IpAddr::V6(_) => unreachable!("the benchmark is of IPv4"),
    };
    for number in 0..count {
        let _ = writeln!(
            yaml,
            "---\napiVersion: nodemesh.io/v1alpha1\nkind: Service\nmetadata: {{name: s{number}}}\nspec: {{addresses: [{}], packetPath: snat, \
             ports: [{{port: {}, targetPort: {}}}], backends: [{{address: {}}}]}}",
            Ipv4Addr::from(first + number),
            dialled.port(),
            backend.port(),
            backend.ip()
        );
    }
    yaml
}
