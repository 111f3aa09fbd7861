// SPDX-License-Identifier: Apache-2.0
//! Case `listing`: how long `nodemesh connections` takes with 200,000 connections, from its start to the last byte of its output.
//!
//! Most connections are connected UDP sockets, which take one descriptor and no peer; what a TCP socket takes more (round-trip
//! time, retransmissions, both ends on the node) is measured beside them.

use std::{
    io::{self, BufRead as _},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    Run,
    lab::{Cpus, Lab, Side, service, virtual_address},
    markdown::Table,
    process_use,
    series::Series,
};
use crate::process::Process;

/// Seconds that a list of [`CONNECTIONS`] may take.
const TARGET: f64 = 1.0;
const CONNECTIONS: u64 = 200_000;
/// Sockets of one process, which hard limits on open files allow.
const OF_PROCESS: u64 = 15_000;
/// Longest time for the last of many sockets to open.
const OPENING: Duration = Duration::from_secs(60);

/// A form of the list, and what its output has beside a line for each connection.
struct Form {
    name: &'static str,
    flags: &'static [&'static str],
    /// Lines that are no connections.
    headers: u64,
    /// Most connections that are shown.
    limit: Option<u64>,
}

const FORMS: [Form; 4] = [
    Form {
        name: "`-o json`",
        flags: &["-o", "json"],
        headers: 0,
        limit: None,
    },
    Form {
        name: "table",
        flags: &[],
        headers: 1,
        limit: None,
    },
    Form {
        name: "table, `--wide --sort rtt`",
        flags: &["--wide", "--sort", "rtt"],
        headers: 1,
        limit: None,
    },
    Form {
        name: "table, `--sort bytes --limit 20`",
        flags: &["--sort", "bytes", "--limit", "20"],
        headers: 1,
        limit: Some(20),
    },
];

pub(super) fn run(run: &Run) -> Result<String> {
    let mut lab = Lab::new()?;
    let (udp, tcp) = (virtual_address(1), virtual_address(2));
    let _server = lab.serve("server", &[0], Cpus::All)?;
    let backend = [(lab.direct(0), 1)];
    let yaml = service("udp", udp, "UDP", "least-request", backend)
        + &service("tcp", tcp, "TCP", "least-request", backend);
    lab.start(&yaml, false)?;
    let mut table = Table::new(&["connections", "form", "seconds", "µs each", "MiB of output"]);
    let count = run.scaled(5_000, 15_000);
    let held = hold_tcp(&lab, tcp, count)?;
    // Both ends are on this node.
    measure(run, &lab, &format!("{} TCP", count * 2), count * 2, &mut table)?;
    end(held)?;
    let held = hold_udp(&lab, udp)?;
    let largest = measure(run, &lab, &format!("{CONNECTIONS} UDP"), CONNECTIONS, &mut table)?;
    let (resident, peak) = process_use::resident(lab.agent.process().pid())?;
    end(held)?;
    let met = if largest < TARGET { "met" } else { "**not met**" };
    Ok(format!(
        "{table}\nThe agent's memory with {CONNECTIONS} connections: {} MiB resident, peak {} MiB.\n\
         Target: a list of {CONNECTIONS} in less than {TARGET} s in every form: {met} (slowest median {largest:.2} s).\n",
        resident / 1024,
        peak / 1024
    ))
}

/// Lists in every form; returns the largest median, in seconds.
fn measure(run: &Run, lab: &Lab, what: &str, connections: u64, table: &mut Table) -> Result<f64> {
    let mut slowest = 0.0_f64;
    for form in &FORMS {
        let (mut seconds, mut bytes) = (Series::default(), 0);
        for _ in 0..run.scaled(3, 9) {
            run.step()?;
            let began = Instant::now();
            let output = lab.agent.cli(&[&["connections"], form.flags].concat())?;
            seconds.push(began.elapsed().as_secs_f64());
            bytes = output.stdout.len();
            let lines = output.stdout.split(|byte| *byte == b'\n').skip(1).count() as u64;
            let expected = form.limit.unwrap_or(connections) + form.headers;
            ensure!(lines == expected, "{}: {lines} lines, not {expected}", form.name);
        }
        slowest = slowest.max(seconds.median());
        table.row(&[
            what.to_owned(),
            form.name.to_owned(),
            seconds.shown(1.0, 3),
            format!("{:.2}", seconds.median() * 1e6 / connections as f64),
            format!("{:.1}", bytes as f64 / f64::from(1 << 20)),
        ]);
    }
    Ok(slowest)
}

fn hold_tcp(lab: &Lab, address: SocketAddr, count: u64) -> Result<Vec<Process>> {
    let arguments = [
        "connect".to_owned(),
        address.to_string(),
        format!("--count={count}"),
        "--concurrency=4".to_owned(),
        "--hold".to_owned(),
    ];
    let process = lab.client(Side::Mesh, Cpus::All, "socket-probe", &arguments)?;
    let ok = format!("\"ok\":{count},");
    process.wait_for_line(|line| line.contains(&ok))?;
    Ok(vec![process])
}

fn hold_udp(lab: &Lab, address: SocketAddr) -> Result<Vec<Process>> {
    let mut processes = Vec::new();
    let mut left = CONNECTIONS;
    while left > 0 {
        let count = left.min(OF_PROCESS);
        let arguments = ["hold".to_owned(), address.to_string(), count.to_string()];
        let process = lab.client(Side::Mesh, Cpus::All, "bench", &arguments)?;
        process.wait_for_line(|line| line == "holding")?;
        processes.push(process);
        left -= count;
    }
    Ok(processes)
}

fn end(processes: Vec<Process>) -> Result<()> {
    processes.into_iter().try_for_each(|mut process| {
        process.close_stdin();
        process.wait().map(drop)
    })
}

/// The verb `hold`: connects UDP sockets to `address` and keeps them until standard input ends. Many share a local port, which
/// connected sockets may.
pub(super) fn hold(address: SocketAddr, count: u64) -> Result<()> {
    crate::file_limit::raise()?;
    let began = Instant::now();
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.connect(&address.into())?;
        io::Result::Ok(socket)
    };
    let mut sockets = Vec::new();
    while (sockets.len() as u64) < count {
        sockets.push(open().with_context(|| format!("open socket {}", sockets.len()))?);
        ensure!(
            began.elapsed() < OPENING,
            "{} sockets took {OPENING:?}",
            sockets.len()
        );
    }
    super::inside::say("holding")?;
    io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}
