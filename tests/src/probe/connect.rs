// SPDX-License-Identifier: Apache-2.0
//! `connect`: opens TCP connections from several threads and reports where they led.

use std::io::{self, BufRead as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use super::report::{Counts, Nanoseconds};
use super::tcp::{self, Close, Dial};

/// Flags of `connect`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Where to connect to.
    #[arg(value_name = "IP:PORT")]
    address: SocketAddr,
    /// Connections to open.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Stop after this long; bare numbers are milliseconds.
    #[arg(long = "for", value_name = "DURATION", value_parser = super::timeout)]
    longest: Option<Duration>,
    /// Threads that open them.
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// How to close a connection.
    #[arg(long, value_enum, default_value = "fin")]
    close: Close,
    /// Keep all connections open after the report, until standard input has a line or closes.
    #[arg(long)]
    hold: bool,
    /// Local address.
    #[arg(long, value_name = "IP")]
    bind: Option<IpAddr>,
    /// After a failed `connect()`, call it again on the same socket, up to this often.
    #[arg(long, value_name = "N", default_value_t = 0)]
    retry_on_same_socket: u32,
    /// `v6-mapped` connects an IPv6 socket to `::ffff:a.b.c.d`.
    #[arg(long, value_enum, default_value = "native")]
    family: Family,
    /// Non-blocking connect, poll and `SO_ERROR`.
    #[arg(long)]
    nonblocking: bool,
    /// Limit of each `connect()` and of the wait for the name; bare numbers are milliseconds.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = super::timeout)]
    timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Family {
    Native,
    V6Mapped,
}

/// The JSON line of `connect`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Connections that were established and said a name.
    pub(super) ok: u64,
    /// The others, by the last error.
    pub(super) errors: Counts,
    pub(super) replicas: Counts,
    /// By `getpeername()`.
    pub(super) peers: Counts,
    /// Outcomes of the `connect()` calls on one socket, in order and joined by commas, for sockets with a failure.
    pub(super) attempts: Counts,
    pub(super) seconds: f64,
    pub(super) connect_ns: Nanoseconds,
}

/// Prints the report; with `--hold`, closes the connections only afterwards.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let (report, held) = probe(args)?;
    super::print(&report)?;
    if args.hold {
        io::stdin()
            .lock()
            .read_line(&mut String::new())
            .context("read standard input")?;
    }
    for stream in held {
        tcp::close(stream, args.close)?;
    }
    Ok(())
}

/// Opens the connections and returns those to hold.
pub(super) fn probe(args: &Args) -> anyhow::Result<(Report, Vec<TcpStream>)> {
    let taken = AtomicU64::new(0);
    let started = Instant::now();
    let (mut report, mut held) = (Report::default(), Vec::new());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.concurrency)
            .map(|_| scope.spawn(|| thread(args, &taken)))
            .collect();
        for thread in threads {
            let (part, streams) = thread.join().expect("a probing thread does not panic")?;
            report.merge(part);
            held.extend(streams);
        }
        anyhow::Ok(())
    })?;
    report.seconds = started.elapsed().as_secs_f64();
    Ok((report, held))
}

fn thread(args: &Args, taken: &AtomicU64) -> anyhow::Result<(Report, Vec<TcpStream>)> {
    let dial = Dial {
        bind: args.bind,
        mapped: args.family == Family::V6Mapped,
        nonblocking: args.nonblocking,
        retries: args.retry_on_same_socket,
        timeout: args.timeout,
    };
    let (mut report, mut held) = (Report::default(), Vec::new());
    let started = Instant::now();
    let is_over = || args.longest.is_some_and(|longest| started.elapsed() >= longest);
    while taken.fetch_add(1, Ordering::Relaxed) < args.count && !is_over() {
        let attempt = match dial.connect(args.address) {
            Ok(attempt) => attempt,
            Err(error) => {
                report.errors.count(&crate::errno::name(&error));
                continue;
            }
        };
        if attempt.outcomes.first().is_some_and(|first| first != "ok") {
            report.attempts.count(&attempt.outcomes.join(","));
        }
        let Some(stream) = attempt.stream else {
            attempt
                .outcomes
                .last()
                .into_iter()
                .for_each(|last| report.errors.count(last));
            continue;
        };
        report.connect_ns.record(attempt.elapsed);
        match stream.peer_addr() {
            Ok(peer) => report.peers.count(&peer),
            // Reset since the connect; the read of the name says so too.
            Err(error) => report.peers.count(&crate::errno::name(&error)),
        }
        match tcp::read_name(&stream) {
            Ok(name) => {
                report.ok += 1;
                report.replicas.count(&name);
            }
            Err(error) => report.errors.count(&error),
        }
        if args.hold {
            held.push(stream);
        } else {
            tcp::close(stream, args.close)?;
        }
    }
    Ok((report, held))
}

impl Report {
    fn merge(&mut self, other: Self) {
        self.ok += other.ok;
        self.errors.merge(other.errors);
        self.replicas.merge(other.replicas);
        self.peers.merge(other.peers);
        self.attempts.merge(other.attempts);
        self.connect_ns.merge(&other.connect_ns);
    }
}
