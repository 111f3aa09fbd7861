// SPDX-License-Identifier: Apache-2.0
//! Case `connect-hook`: what the programs add to `connect()`, by the wall clock of a loop of `connect()` on UDP sockets, which
//! send nothing, and by the kernel's own statistics of TCP connections.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::Result;

use super::{
    Run,
    lab::{Cpus, Lab, Side, service, virtual_address},
    markdown::Table,
    series::Series,
};

/// Nanoseconds that the programs may take for a connection to a service, over all hooks.
const HIT_TARGET: f64 = 1500.0;
/// Nanoseconds that `connect4` may take for an address that is no service.
const MISS_TARGET: f64 = 200.0;
/// Runs per connection below which a program has no part in it.
const RARE: f64 = 0.01;
/// The program that looks the address up.
const CONNECT4: &str = "connect4";

pub(super) fn run(run: &Run) -> Result<String> {
    let mut lab = Lab::new()?;
    let _server = lab.serve("server", &[0, 1], Cpus::One)?;
    let (udp, tcp) = (virtual_address(1), virtual_address(2));
    let backend = [(lab.direct(0), 1)];
    let yaml = service("udp", udp, "UDP", "least-request", backend)
        + &service("tcp", tcp, "TCP", "least-request", backend);
    lab.start(&yaml, false)?;
    let wall = wall(run, &lab, udp)?;
    lab.restart(true)?;
    Ok(format!("{wall}\n{}", programs(run, &lab, tcp)?))
}

/// The loop by the wall clock.
fn wall(run: &Run, lab: &Lab, service: SocketAddr) -> Result<String> {
    let count = run.scaled(20_000, 100_000);
    let (direct, twin) = (lab.direct(0), lab.direct(1));
    let plan: [(&str, Side, &[&str], [_; 2]); 4] = [
        ("same socket", Side::Outside, &["--udp"], [direct, twin]),
        ("same socket", Side::Mesh, &["--udp"], [direct, service]),
        ("new socket", Side::Outside, &["--udp", "--fresh"], [direct, twin]),
        ("new socket", Side::Mesh, &["--udp", "--fresh"], [direct, service]),
    ];
    let mut results: [[Series; 2]; 4] = Default::default();
    let mut clock = Series::default();
    for round in 0..run.scaled(5, 15) {
        let mut order: Vec<usize> = (0..plan.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            run.step()?;
            let (_, side, flags, addresses) = &plan[index];
            let targets = lab.bench_connect(*side, Cpus::One, addresses, flags, count)?;
            for (series, target) in results[index].iter_mut().zip(targets) {
                clock.push(target.clock_ns);
                series.push(target.p50());
            }
        }
    }
    let mut table = Table::new(&[
        "`connect()` on UDP, one CPU",
        "socket",
        "ns",
        "more than outside, ns",
    ]);
    for ((socket, side, ..), index) in plan.iter().zip(0..) {
        let base = &results[index / 2 * 2][0];
        let names = match side {
            Side::Outside => ["outside", "outside, A/A"],
            Side::Mesh => ["in the mesh, no service (miss)", "in the mesh, a service (hit)"],
        };
        for (name, series) in names.into_iter().zip(&results[index]) {
            table.row(&[
                name.to_owned(),
                (*socket).to_owned(),
                series.shown(1.0, 0),
                series.less(base).shown(1.0, 0),
            ]);
        }
    }
    Ok(format!(
        "{table}\nReading the clock, which each of these numbers contains once: {} ns.\n",
        clock.shown(1.0, 0)
    ))
}

/// What a program did for a connection, per round.
#[derive(Default)]
struct Work {
    runs: Series,
    ns_per_run: Series,
    ns: Series,
}

/// What all programs did for connections to one address, by program.
#[derive(Default)]
struct Account {
    by_program: BTreeMap<String, Work>,
    all_ns: Series,
}

impl Account {
    /// Opens connections, one at a time, and adds what the programs did meanwhile.
    fn measure(&mut self, lab: &Lab, address: SocketAddr, count: u64) -> Result<()> {
        let before = lab.programs()?;
        lab.bench_connect(
            Side::Mesh,
            Cpus::One,
            &[address],
            &["--exchange", "--round=1"],
            count,
        )?;
        let after = lab.programs()?;
        // One operation more than is counted warms up.
        let connections = (count + 1) as f64;
        let mut sum = 0.0;
        for name in after.names() {
            let ran = after.since(&before, name);
            let ns = ran.seconds * 1e9 / connections;
            sum += ns;
            let work = self.by_program.entry(name.to_owned()).or_default();
            work.runs.push(ran.runs / connections);
            work.ns_per_run.push(ran.per_run());
            work.ns.push(ns);
        }
        self.all_ns.push(sum);
        Ok(())
    }

    /// Runs, nanoseconds per run and nanoseconds of a program.
    fn cells(&self, program: &str) -> [String; 3] {
        match self.by_program.get(program) {
            Some(work) if work.runs.median() >= RARE => [
                format!("{:.1}", work.runs.median()),
                work.ns_per_run.shown(1.0, 0),
                format!("{:.0}", work.ns.median()),
            ],
            _ => ["0", "-", "-"].map(str::to_owned),
        }
    }

    /// Programs that ran.
    fn programs(&self) -> impl Iterator<Item = &str> {
        let ran = self
            .by_program
            .iter()
            .filter(|(_, work)| work.runs.median() >= RARE);
        ran.map(|(name, _)| name.as_str())
    }
}

/// The kernel's statistics of TCP connections.
fn programs(run: &Run, lab: &Lab, service: SocketAddr) -> Result<String> {
    let count = run.scaled(2_000, 10_000);
    let [mut hit, mut miss] = <[Account; 2]>::default();
    for _ in 0..run.scaled(3, 9) {
        run.step()?;
        hit.measure(lab, service, count)?;
        miss.measure(lab, lab.direct(0), count)?;
    }
    let mut table = Table::new(&[
        "program",
        "hit: runs",
        "hit: ns/run",
        "hit: ns",
        "miss: runs",
        "miss: ns/run",
        "miss: ns",
    ]);
    for program in hit.programs() {
        let cells = [
            vec![program.to_owned()],
            hit.cells(program).into(),
            miss.cells(program).into(),
        ];
        table.row(&cells.concat());
    }
    let sums = [&hit, &miss].map(|account| account.all_ns.shown(1.0, 0));
    table.row(&["all", "", "", &sums[0], "", "", &sums[1]]);
    let all = hit.all_ns.median();
    let lookup = miss
        .by_program
        .get(CONNECT4)
        .map_or(f64::NAN, |work| work.ns_per_run.median());
    Ok(format!(
        "Per TCP connection (connect, name, 64 bytes each way, close), both ends and every TCP socket of the host:\n\n{table}\n\
         Targets: all programs of a connection to a service {all:.0} ns, at most {HIT_TARGET:.0}: {}; `connect4` of a miss \
         {lookup:.0} ns, at most {MISS_TARGET:.0}: {}.\n",
        met(all <= HIT_TARGET),
        met(lookup <= MISS_TARGET),
    ))
}

/// In words.
fn met(target: bool) -> &'static str {
    if target { "met" } else { "**not met**" }
}
