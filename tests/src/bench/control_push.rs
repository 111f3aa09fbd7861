// SPDX-License-Identifier: Apache-2.0
//! Case `control-push`: how long a change takes from the acknowledgement of its write, when it is on the disk, to the row in the kernel
//! of a connected node, while 100 simulated agents are connected and take it too.

use anyhow::Result;

use super::{
    Run,
    control_agents::SimulatedAgents,
    control_lab::{ControlLab, SWITCHED, endpoint, selecting, service, workload},
    markdown::Table,
    series::Series,
};

const AGENTS: usize = 100;
/// Services that are there beside the one that changes.
const OTHERS: u32 = 100;
/// Milliseconds that 99 of 100 changes may take.
const TARGET_MS: f64 = 50.0;

pub(super) fn run(run: &Run) -> Result<String> {
    let mut lab = ControlLab::new()?;
    let writer = lab.writer()?;
    let others =
        (1..=OTHERS).map(|number| service(&format!("s{number}"), number, [endpoint(number)].into_iter()));
    writer.apply_all(others, 8)?;
    writer.apply(&selecting("selecting", OTHERS + 1))?;
    drop(writer);
    lab.start_agent()?;
    let mut agents = SimulatedAgents::start(&lab.clients, &lab.control.url(), AGENTS)?;
    let (writer, rows) = (lab.writer()?, lab.rows()?);
    let mut table = Table::new(&[
        "a write that changes one endpoint, 100 agents connected",
        "p50",
        "p99",
        "most",
    ]);
    let mut slowest = 0.0_f64;
    for (what, is_workload) in [
        ("a backend of a service", false),
        ("a workload of a service", true),
    ] {
        let (mut writing, mut reaching) = (Series::default(), Series::default());
        for round in 0..run.scaled(50, 500) {
            run.step()?;
            let address = endpoint(1_000_000 + round + u32::from(is_workload) * 100_000);
            let resource = if is_workload {
                workload("w0", "selecting", address)
            } else {
                service(SWITCHED, OTHERS + 2, [address].into_iter())
            };
            let (written, seen) = rows.appears(address, || writer.apply(&resource))?;
            writing.push((written.acknowledged - written.sent).as_secs_f64() * 1e3);
            // Zero: the row was there before the writer had its answer.
            reaching.push(seen.saturating_duration_since(written.acknowledged).as_secs_f64() * 1e3);
            agents.drain()?;
        }
        slowest = slowest.max(reaching.quantile(0.99));
        table.row(&row(&format!("{what}: written and acknowledged"), &writing));
        table.row(&row(
            &format!("{what}: acknowledgement to the row in the kernel"),
            &reaching,
        ));
    }
    let met = if slowest <= TARGET_MS {
        "met"
    } else {
        "**not met**"
    };
    Ok(format!(
        "{table}\nTarget: acknowledgement to the row in the kernel at most {TARGET_MS} ms for 99 of 100: {met}.\n"
    ))
}

fn row(what: &str, series: &Series) -> [String; 4] {
    let ms = |share| format!("{:.1} ms", series.quantile(share));
    [what.to_owned(), ms(0.5), ms(0.99), ms(1.0)]
}
