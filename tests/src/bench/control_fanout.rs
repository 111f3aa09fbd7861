// SPDX-License-Identifier: Apache-2.0
//! Case `control-fanout`: one endpoint changes, and 1,000 simulated agents are told: when the last of them has it, in how many messages
//! and bytes each, and what that costs the control plane.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use anyhow::{Result, ensure};

use super::{
    Run,
    control_agents::SimulatedAgents,
    control_lab::{ControlLab, SWITCHED, Writer, endpoint, service},
    markdown::Table,
    process_use,
    series::Series,
};

const AGENTS: usize = 1000;
const SERVICES: u32 = 100;
/// Backends of each, also of the one that changes.
const BACKENDS: u32 = 10;
/// Milliseconds until the last agent has a change.
const TARGET_MS: f64 = 1000.0;

/// What a change came to, per round.
#[derive(Default)]
struct Changes {
    last_ms: Series,
    since_sent_ms: Series,
    cpu_ms: Series,
    bytes: Series,
}

pub(super) fn run(run: &Run) -> Result<String> {
    let lab = ControlLab::new()?;
    let writer = lab.writer()?;
    let services = move |number: u32| service(&format!("s{number}"), number, backends(number));
    writer.apply_all((1..=SERVICES).map(services), 8)?;
    writer.apply(&service(SWITCHED, SERVICES + 1, backends(SERVICES + 1)))?;
    let pid = lab.control.process().pid();
    let (without, _) = process_use::resident(pid)?;
    let mut agents = SimulatedAgents::start(&lab.clients, &lab.control.url(), AGENTS)?;
    let (with, _) = process_use::resident(pid)?;
    let changes = measure(run, pid, &writer, &mut agents)?;
    let mut table = Table::new(&[
        "1,000 agents on this machine, one of 1,010 endpoints changes",
        "median",
        "most",
    ]);
    let mut row = |what: &str, series: &Series, unit: &str| {
        let shown = |value: f64| format!("{value:.0}{unit}");
        table.row(&[what.to_owned(), shown(series.median()), shown(series.largest())]);
    };
    row(
        "acknowledgement until the last agent has it",
        &changes.last_ms,
        " ms",
    );
    row(
        "the write was sent until the last agent has it",
        &changes.since_sent_ms,
        " ms",
    );
    row("CPU of the control plane for it", &changes.cpu_ms, " ms");
    row("bytes of an agent's message", &changes.bytes, "");
    let met = if changes.last_ms.largest() <= TARGET_MS {
        "met"
    } else {
        "**not met**"
    };
    Ok(format!(
        "{table}\nOne message per agent and change. Control plane: {} MiB resident without agents, {} MiB with 1,000 \
         ({:.0} KiB each).\nTarget: one small message each, the last after at most {TARGET_MS} ms: {met}.\n",
        without / 1024,
        with / 1024,
        with.saturating_sub(without) as f64 / AGENTS as f64
    ))
}

/// Endpoints of the `number`th service.
fn backends(number: u32) -> impl Iterator<Item = Ipv4Addr> {
    (0..BACKENDS).map(move |replica| endpoint(number * BACKENDS + replica))
}

/// Changes one endpoint again and again; more than one message to an agent is an error.
fn measure(run: &Run, pid: u32, writer: &Writer<'_>, agents: &mut SimulatedAgents) -> Result<Changes> {
    let mut changes = Changes::default();
    for round in 0..run.scaled(5, 25) {
        run.step()?;
        let address = endpoint(1_000_000 + round);
        let rest = backends(SERVICES + 1).skip(1);
        let before = process_use::cpu(pid)?;
        let written = writer.apply(&service(SWITCHED, SERVICES + 1, rest.chain([address])))?;
        let (at, arrived) = agents.change(IpAddr::V4(address))?;
        ensure!(
            arrived.len() == AGENTS,
            "{} messages to {AGENTS} agents",
            arrived.len()
        );
        changes
            .last_ms
            .push(ms(at.saturating_duration_since(written.acknowledged)));
        changes
            .since_sent_ms
            .push(ms(at.saturating_duration_since(written.sent)));
        changes
            .cpu_ms
            .push(ms(process_use::cpu(pid)?.saturating_sub(before)));
        let largest = arrived.iter().map(|arrival| arrival.bytes as f64);
        changes.bytes.push(largest.fold(0.0, f64::max));
    }
    Ok(changes)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
