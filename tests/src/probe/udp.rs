// SPDX-License-Identifier: Apache-2.0
//! `udp`: sends datagrams one at a time, waits for the answer to each, and reports who answered from which address.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use super::report::{Counts, Nanoseconds};
use super::tcp;

/// Flags of `udp`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Where to send to.
    #[arg(
        value_name = "IP:PORT",
        required_unless_present = "targets",
        conflicts_with = "targets"
    )]
    address: Option<SocketAddr>,
    /// Several destinations, separated by commas, which one unconnected socket talks to in turn.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "IP:PORT,IP:PORT",
        conflicts_with = "connected"
    )]
    targets: Vec<SocketAddr>,
    /// Datagrams to send.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// `connect()` the sockets first.
    #[arg(long)]
    connected: bool,
    /// Sockets to send from, in turn.
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u16).range(1..))]
    sockets: u16,
    /// Pause between two datagrams; bare numbers are milliseconds.
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = super::span)]
    interval: Duration,
    /// Limit of the wait for each answer; bare numbers are milliseconds.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = super::timeout)]
    timeout: Duration,
    /// Local address.
    #[arg(long, value_name = "IP")]
    bind: Option<IpAddr>,
}

/// The JSON line of `udp`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Datagrams that were answered.
    pub(super) ok: u64,
    pub(super) sent: u64,
    /// By errno name; `TIMEOUT` if no answer came.
    pub(super) errors: Counts,
    /// The call that failed: `connect`, `send` or `recv`.
    pub(super) failed_calls: Counts,
    pub(super) replicas: Counts,
    /// By the address that `recvfrom()` returned.
    pub(super) sources: Counts,
    /// Connected sockets by `getpeername()`.
    pub(super) peers: Counts,
    /// Answers whose source is not the address that the datagram was sent to.
    pub(super) foreign_sources: u64,
    /// Answers to an earlier datagram.
    pub(super) stale: u64,
    pub(super) targets: BTreeMap<SocketAddr, Target>,
    pub(super) seconds: f64,
    pub(super) round_trip_ns: Nanoseconds,
}

/// The part of one destination.
#[derive(Debug, Default, Serialize)]
pub(super) struct Target {
    pub(super) ok: u64,
    pub(super) replicas: Counts,
    pub(super) sources: Counts,
}

/// A system call that failed.
struct Failed {
    call: &'static str,
    error: io::Error,
}

struct Answer {
    name: String,
    source: SocketAddr,
}

/// Runs the exchange; an error means that there was no socket.
pub(super) fn run(args: &Args) -> anyhow::Result<Report> {
    let targets: Vec<SocketAddr> = args
        .address
        .into_iter()
        .chain(args.targets.iter().copied())
        .collect();
    let first = *targets
        .first()
        .context("no destination: give IP:PORT or --targets")?;
    let mut report = Report::default();
    let sockets = (0..args.sockets)
        .map(|_| open(args, first, &mut report))
        .collect::<io::Result<Vec<_>>>()
        .context("open a UDP socket")?;
    let sockets: Vec<UdpSocket> = sockets.into_iter().flatten().collect();
    let started = Instant::now();
    for number in 0..if sockets.is_empty() { 0 } else { args.count } {
        let socket = &sockets[usize::try_from(number)? % sockets.len()];
        let target = targets[usize::try_from(number)? % targets.len()];
        if number > 0 && !args.interval.is_zero() {
            #[expect(
                clippy::disallowed_methods,
                reason = "the pause that was asked for, on a thread of its own"
            )]
            std::thread::sleep(args.interval);
        }
        exchange(args, socket, target, number, &mut report);
    }
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// A socket; `None` if its `connect()` failed, which the report then has.
fn open(args: &Args, target: SocketAddr, report: &mut Report) -> io::Result<Option<UdpSocket>> {
    let socket = UdpSocket::bind(
        args.bind
            .map_or_else(|| tcp::any(target), |ip| SocketAddr::new(ip, 0)),
    )?;
    if args.connected {
        if let Err(error) = socket.connect(target) {
            report.fail(&Failed {
                call: "connect",
                error,
            });
            return Ok(None);
        }
        report.peers.count(&socket.peer_addr()?);
    }
    Ok(Some(socket))
}

fn exchange(args: &Args, socket: &UdpSocket, target: SocketAddr, number: u64, report: &mut Report) {
    let payload = format!("probe-{number}");
    let began = Instant::now();
    let sent = if args.connected {
        socket.send(payload.as_bytes())
    } else {
        socket.send_to(payload.as_bytes(), target)
    };
    if let Err(error) = sent {
        return report.fail(&Failed { call: "send", error });
    }
    report.sent += 1;
    match receive(socket, &payload, began + args.timeout, &mut report.stale) {
        Ok(answer) => {
            report.round_trip_ns.record(began.elapsed());
            report.answered(&answer, target);
        }
        Err(error) => report.fail(&Failed { call: "recv", error }),
    }
}

/// Waits for the answer to `payload`, which comes as `NAME payload`.
fn receive(socket: &UdpSocket, payload: &str, deadline: Instant, stale: &mut u64) -> io::Result<Answer> {
    let mut buffer = [0; 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        socket.set_read_timeout(Some(left))?;
        let (n, source) = socket.recv_from(&mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..n]);
        match text.rsplit_once(' ') {
            Some((name, echoed)) if echoed == payload => {
                return Ok(Answer {
                    name: name.to_owned(),
                    source,
                });
            }
            _ => *stale += 1,
        }
    }
}

impl Report {
    fn answered(&mut self, answer: &Answer, target: SocketAddr) {
        self.ok += 1;
        self.replicas.count(&answer.name);
        self.sources.count(&answer.source);
        self.foreign_sources += u64::from(answer.source != target);
        let target = self.targets.entry(target).or_default();
        target.ok += 1;
        target.replicas.count(&answer.name);
        target.sources.count(&answer.source);
    }

    fn fail(&mut self, failed: &Failed) {
        self.failed_calls.count(failed.call);
        if failed.call == "recv" && failed.error.kind() == io::ErrorKind::WouldBlock {
            self.errors.count(tcp::TIMEOUT);
        } else {
            self.errors.count(&crate::errno::name(&failed.error));
        }
    }
}
