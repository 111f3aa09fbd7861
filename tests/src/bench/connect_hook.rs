// SPDX-License-Identifier: Apache-2.0
//! Case `connect-hook`: what the programs add to `connect()`, by the wall clock of a loop of `connect()` on UDP sockets, which
//! send nothing, and by the kernel's own statistics of TCP connections.

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
fn wall(run: &Run, lab: &Lab, service: std::net::SocketAddr) -> Result<Table> {
    let count = run.scaled(20_000, 100_000);
    let (direct, twin) = (lab.direct(0), lab.direct(1));
    let plan: [(&str, Side, &[&str], [_; 2]); 4] = [
        ("same socket", Side::Outside, &["--udp"], [direct, twin]),
        ("same socket", Side::Mesh, &["--udp"], [direct, service]),
        ("new socket", Side::Outside, &["--udp", "--fresh"], [direct, twin]),
        ("new socket", Side::Mesh, &["--udp", "--fresh"], [direct, service]),
    ];
    let mut results: [[Series; 2]; 4] = Default::default();
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
                series.push(target.p50());
            }
        }
    }
    let mut table = Table::new(["`connect()` on UDP, one CPU", "socket", "ns", "more than outside, ns"]);
    for ((socket, side, ..), index) in plan.iter().zip(0..) {
        let base = &results[index / 2 * 2][0];
        let names = match side {
            Side::Outside => ["outside", "outside, A/A"],
            Side::Mesh => ["in the mesh, no service (miss)", "in the mesh, a service (hit)"],
        };
        for (name, series) in names.into_iter().zip(&results[index]) {
            table.row([
                name.to_owned(),
                (*socket).to_owned(),
                series.shown(1.0, 0),
                series.less(base).shown(1.0, 0),
            ]);
        }
    }
    Ok(table)
}

/// The kernel's statistics of TCP connections.
fn programs(run: &Run, lab: &Lab, service: std::net::SocketAddr) -> Result<String> {
    let count = run.scaled(2_000, 10_000);
    let mut table = Table::new(["program", "hit: runs", "hit: ns/run", "hit: ns", "miss: runs", "miss: ns/run", "miss: ns"]);
    let mut sums = [Series::default(), Series::default()];
    let mut rows: Vec<(String, [[Series; 3]; 2])> = Vec::new();
    for round in 0..run.scaled(3, 9) {
        for (case, address) in [service, lab.direct(0)].into_iter().enumerate() {
            run.step()?;
            let before = lab.programs()?;
            lab.bench_connect(Side::Mesh, Cpus::One, &[address], &["--exchange", "--round=1"], count)?;
            let after = lab.programs()?;
            // One operation more than is counted warms up.
            let connections = (count + 1) as f64;
            if round == 0 && case == 0 {
                rows = after.names().map(|name| (name.to_owned(), Default::default())).collect();
            }
            let mut sum = 0.0;
            for (name, cells) in &mut rows {
                let ran = after.since(&before, name);
                let ns = ran.seconds * 1e9 / connections;
                sum += ns;
                cells[case][0].push(ran.runs / connections);
                cells[case][1].push(ran.per_run());
                cells[case][2].push(ns);
            }
            sums[case].push(sum);
        }
    }
    for (name, cells) in &rows {
        if cells.iter().all(|case| case[0].median() < 0.01) {
            continue;
        }
        let [hit, miss] = cells;
        let show = |[runs, per_run, ns]: &[Series; 3]| {
            let ran = runs.median() >= 0.01;
            let or_none = |shown: String| if ran { shown } else { "-".to_owned() };
            [
                format!("{:.1}", runs.median()),
                or_none(per_run.shown(1.0, 0)),
                or_none(format!("{:.0}", ns.median())),
            ]
        };
        let ([a, b, c], [d, e, f]) = (show(hit), show(miss));
        table.row([name.clone(), a, b, c, d, e, f]);
    }
    let [hit, miss] = &sums;
    table.row(["all", "", "", &hit.shown(1.0, 0), "", "", &miss.shown(1.0, 0)]);
    let lookup = rows
        .iter()
        .find(|(name, _)| name == "connect4")
        .map_or(f64::NAN, |(_, cells)| cells[1][1].median());
    Ok(format!(
        "Per TCP connection (connect, name, 64 bytes each way, close), both ends and every TCP socket of the host:\n\n{table}\n\
         Targets: all programs of a connection to a service {:.0} ns, at most {HIT_TARGET:.0}: {}; `connect4` of a miss {lookup:.0} ns, \
         at most {MISS_TARGET:.0}: {}.\n",
        hit.median(),
        met(hit.median() <= HIT_TARGET),
        met(lookup <= MISS_TARGET),
    ))
}

/// In words.
fn met(target: bool) -> &'static str {
    if target { "met" } else { "**not met**" }
}
