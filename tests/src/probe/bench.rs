// SPDX-License-Identifier: Apache-2.0
//! `bench-connect`: what a connect costs. Several addresses are measured in interleaved rounds of one run, so that
//! their ratio does not depend on the mood of the machine.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::report::{Counts, Nanoseconds};
use super::tcp::{self, Close, Dial};

/// What a request of `--exchange` sends and gets back.
const REQUEST: [u8; 64] = [b'x'; 64];
const CLOCK_READS: usize = 10_000;

/// Flags of `bench-connect`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Addresses to compare.
    #[arg(required = true, value_name = "IP:PORT")]
    addresses: Vec<SocketAddr>,
    /// Measured operations per address.
    #[arg(long, default_value = "10000", value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Operations on one address before the next has its turn.
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(u64).range(1..))]
    round: u64,
    /// `connect()` of a UDP socket: no packet is sent, so this is the cost of the call and its hooks.
    #[arg(long, conflicts_with = "exchange")]
    udp: bool,
    /// With --udp, a new socket for each `connect()`; its creation is not measured.
    #[arg(long, requires = "udp")]
    fresh: bool,
    /// Measure TCP connect, name, 64 bytes each way and close, against `serve`; without it, connect and close.
    #[arg(long)]
    exchange: bool,
    /// How TCP connections are closed; `fin` runs out of ports after some 28000 connections a minute.
    #[arg(long, value_enum, default_value = "rst")]
    close: Close,
    /// Limit of a TCP connect and of each read; bare numbers are milliseconds.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = super::timeout)]
    timeout: Duration,
}

/// The JSON line of `bench-connect`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    mode: &'static str,
    /// Median cost of reading the clock, which every measurement contains once.
    clock_ns: u64,
    pub(super) targets: Vec<Target>,
}

/// What one address cost.
#[derive(Debug, Serialize)]
pub(super) struct Target {
    address: SocketAddr,
    pub(super) ok: u64,
    pub(super) errors: Counts,
    /// Wall time per operation.
    pub(super) ns: Nanoseconds,
    /// User and system time of this thread per operation, socket creation included.
    pub(super) cpu_ns_per_op: f64,
}

/// One way to spend the time.
enum Operation {
    /// Per address, the socket that is connected again and again.
    UdpAgain(Vec<Socket>),
    UdpFresh,
    Tcp(Dial, Close),
    TcpExchange(Dial, Close),
}

/// Measures all addresses.
pub(super) fn run(args: &Args) -> anyhow::Result<Report> {
    let operation = Operation::new(args).context("open a UDP socket")?;
    let targets = args.addresses.iter().map(|&address| Target {
        address,
        ok: 0,
        errors: Counts::default(),
        ns: Nanoseconds::default(),
        cpu_ns_per_op: 0.0,
    });
    let mut report = Report {
        mode: operation.name(),
        clock_ns: clock_cost(),
        targets: targets.collect(),
    };
    let mut cpu = vec![Duration::ZERO; args.addresses.len()];
    // Fills caches and routes; not measured.
    for (index, &address) in args.addresses.iter().enumerate() {
        for _ in 0..args.round.min(args.count) {
            let _ = operation.run(index, address);
        }
    }
    let mut left = args.count;
    let mut order: Vec<usize> = (0..report.targets.len()).collect();
    while left > 0 {
        let round = left.min(args.round);
        left -= round;
        for &index in &order {
            let target = &mut report.targets[index];
            let before = thread_cpu()?;
            for _ in 0..round {
                match operation.run(index, target.address) {
                    Ok(elapsed) => {
                        target.ok += 1;
                        target.ns.record(elapsed);
                    }
                    Err(error) => target.errors.count(&error),
                }
            }
            cpu[index] += thread_cpu()?.saturating_sub(before);
        }
        // A, B, B, A: no address always follows the same one.
        order.reverse();
    }
    for (target, cpu) in report.targets.iter_mut().zip(cpu) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "an average needs no 52 significant bits"
        )]
        let operations = args.count as f64;
        target.cpu_ns_per_op = cpu.as_secs_f64() * 1e9 / operations;
    }
    Ok(report)
}

impl Operation {
    fn new(args: &Args) -> io::Result<Self> {
        let dial = Dial {
            bind: None,
            mapped: false,
            nonblocking: false,
            retries: 0,
            timeout: args.timeout,
        };
        Ok(match (args.udp, args.fresh, args.exchange) {
            (true, false, _) => {
                Self::UdpAgain(args.addresses.iter().map(udp_socket).collect::<Result<_, _>>()?)
            }
            (true, true, _) => Self::UdpFresh,
            (false, _, false) => Self::Tcp(dial, args.close),
            (false, _, true) => Self::TcpExchange(dial, args.close),
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::UdpAgain(_) => "udp-connect-same-socket",
            Self::UdpFresh => "udp-connect-fresh-socket",
            Self::Tcp(..) => "tcp-connect",
            Self::TcpExchange(..) => "tcp-exchange",
        }
    }

    /// Runs once and returns the measured time; an error is the name of an errno.
    fn run(&self, index: usize, address: SocketAddr) -> Result<Duration, String> {
        match self {
            Self::UdpAgain(sockets) => udp_connect(&sockets[index], address).map_err(name),
            Self::UdpFresh => udp_connect(&udp_socket(&address).map_err(name)?, address).map_err(name),
            Self::Tcp(dial, close) => {
                let (stream, elapsed) = tcp_connect(dial, address)?;
                tcp::close(stream, *close).map_err(name)?;
                Ok(elapsed)
            }
            Self::TcpExchange(dial, close) => {
                let started = Instant::now();
                let (stream, _) = tcp_connect(dial, address)?;
                tcp::read_name(&stream)?;
                (&stream).write_all(&REQUEST).map_err(name)?;
                (&stream).read_exact(&mut [0; REQUEST.len()]).map_err(name)?;
                tcp::close(stream, *close).map_err(name)?;
                Ok(started.elapsed())
            }
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn name(error: io::Error) -> String {
    crate::errno::name(&error)
}

fn udp_socket(address: &SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(*address), Type::DGRAM, Some(Protocol::UDP))
}

fn udp_connect(socket: &Socket, address: SocketAddr) -> io::Result<Duration> {
    let target = SockAddr::from(address);
    let started = Instant::now();
    socket.connect(&target)?;
    Ok(started.elapsed())
}

fn tcp_connect(dial: &Dial, address: SocketAddr) -> Result<(TcpStream, Duration), String> {
    let attempt = dial.connect(address).map_err(name)?;
    let elapsed = attempt.elapsed;
    attempt
        .stream
        .map(|stream| (stream, elapsed))
        .ok_or_else(|| attempt.outcomes.concat())
}

/// CPU time of this thread. `getrusage` would not do: it advances only with the timer tick, which a round is far
/// shorter than.
fn thread_cpu() -> anyhow::Result<Duration> {
    let spent =
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("read the CPU time of this thread")?;
    Ok(spent.into())
}

fn clock_cost() -> u64 {
    let mut cost = Nanoseconds::default();
    for _ in 0..CLOCK_READS {
        cost.record(Instant::now().elapsed());
    }
    cost.median()
}
