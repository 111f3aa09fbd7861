// SPDX-License-Identifier: Apache-2.0
//! Case `exchange`: a whole short connection (connect, name, 64 bytes each way, close) to a service and to the backend's own
//! address, on one CPU, where the length of the path shows, and on all, as in production.

use std::net::SocketAddr;

use anyhow::Result;

use super::{
    Run,
    lab::{Cpus, Lab, Side, service, virtual_address},
    markdown::Table,
    series::Series,
};

/// How much longer a connection to a service may take.
const TARGET: f64 = 1.05;

/// What is measured, in microseconds, per round.
#[derive(Default)]
struct Measured {
    outside: Series,
    twin: Series,
    miss: Series,
    hit: Series,
    outside_cpu: Series,
    miss_cpu: Series,
    hit_cpu: Series,
}

pub(super) fn run(run: &Run) -> Result<String> {
    let mut lab = Lab::new()?;
    let address = virtual_address(1);
    lab.start(
        &service("tcp", address, "TCP", "least-request", [(lab.direct(0), 1)]),
        false,
    )?;
    let mut table = Table::new(&[
        "CPUs",
        "outside, µs",
        "miss, µs",
        "hit, µs",
        "A/A",
        "hit / miss",
        "hit / outside",
        "client CPU, hit / outside",
    ]);
    let mut ratios = Vec::new();
    for (name, cpus) in [("one", Cpus::One), ("all", Cpus::All)] {
        let _server = lab.serve("server", &[0, 1], cpus)?;
        let measured = measure(run, &lab, address, cpus)?;
        let ratio = measured.hit.over(&measured.miss);
        table.row(&[
            name.to_owned(),
            measured.outside.shown(1.0, 1),
            measured.miss.shown(1.0, 1),
            measured.hit.shown(1.0, 1),
            measured.twin.over(&measured.outside).to_string(),
            ratio.to_string(),
            measured.hit.over(&measured.outside).to_string(),
            measured.hit_cpu.over(&measured.outside_cpu).to_string(),
        ]);
        ratios.push(format!(
            "{} on {name}, CPU {:.3}",
            verdict(ratio.median()),
            measured.hit_cpu.over(&measured.miss_cpu).median()
        ));
    }
    Ok(format!(
        "{table}\nTarget: hit / miss at most {TARGET}: {}.\n",
        ratios.join("; ")
    ))
}

fn verdict(ratio: f64) -> String {
    let word = if ratio <= TARGET { "met" } else { "**not met**" };
    format!("{word} with {ratio:.3}")
}

fn measure(run: &Run, lab: &Lab, address: SocketAddr, cpus: Cpus) -> Result<Measured> {
    let count = run.scaled(1_000, 3_000);
    let mut measured = Measured::default();
    for round in 0..run.scaled(8, 24) {
        let sides = [Side::Outside, Side::Mesh];
        for index in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            run.step()?;
            let second = [lab.direct(1), address][index];
            let targets = lab.bench_connect(
                sides[index],
                cpus,
                &[lab.direct(0), second],
                &["--exchange", "--round=50"],
                count,
            )?;
            let [first, second] = [&targets[0], &targets[1]].map(|target| target.p50() / 1e3);
            match sides[index] {
                Side::Outside => {
                    measured.outside.push(first);
                    measured.twin.push(second);
                    measured.outside_cpu.push(targets[0].cpu_ns_per_op);
                }
                Side::Mesh => {
                    measured.miss.push(first);
                    measured.hit.push(second);
                    measured.miss_cpu.push(targets[0].cpu_ns_per_op);
                    measured.hit_cpu.push(targets[1].cpu_ns_per_op);
                }
            }
        }
    }
    Ok(measured)
}
