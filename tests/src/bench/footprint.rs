// SPDX-License-Identifier: Apache-2.0
//! Case `footprint`: memory and CPU of the agent with one service, idle and while connections are made; memory of its maps.

use std::{cmp::Reverse, time::Duration};

use anyhow::Result;

use super::{
    Run,
    lab::{Cpus, Lab, Side, service, virtual_address},
    markdown::Table,
    process_use,
};

/// Maps that are listed by name.
const LARGEST: usize = 4;

pub(super) fn run(run: &Run) -> Result<String> {
    let mut lab = Lab::new()?;
    let address = virtual_address(1);
    let _server = lab.serve("server", &[0], Cpus::All)?;
    lab.start(
        &service("tcp", address, "TCP", "least-request", [(lab.direct(0), 1)]),
        false,
    )?;
    let pid = lab.agent.process().pid();
    let seconds = Duration::from_secs(run.scaled(3, 10));
    let idle = process_use::idle_share(run, pid, seconds)?;
    let (resident_idle, _) = process_use::resident(pid)?;
    let count = run.scaled(10_000, 50_000);
    run.step()?;
    let busy = process_use::cpu_share(pid, || {
        lab.bench_connect(Side::Mesh, Cpus::All, &[address], &["--exchange"], count)
            .map(drop)
    })?;
    let (resident, peak) = process_use::resident(pid)?;
    let mut maps: Vec<(String, u64)> = process_use::map_memory(pid)?.into_iter().collect();
    maps.sort_by_key(|(_, bytes)| Reverse(*bytes));
    let all: u64 = maps.iter().map(|(_, bytes)| bytes).sum();
    let largest: Vec<String> = maps
        .iter()
        .take(LARGEST)
        .map(|(name, bytes)| format!("{name} {}", mib(*bytes)))
        .collect();
    let mut table = Table::new(&["agent with one service", "memory, resident", "CPU, of one"]);
    table.row(&[
        "idle".into(),
        format!("{:.1} MiB", resident_idle as f64 / 1024.0),
        percent(idle),
    ]);
    table.row(&[
        format!("during {count} connections"),
        format!(
            "{:.1} MiB (peak {:.1})",
            resident as f64 / 1024.0,
            peak as f64 / 1024.0
        ),
        percent(busy),
    ]);
    Ok(format!(
        "{table}\nMaps at their default capacities, in the kernel: {} ({}). Slot tables are not in it: 16 bytes for each backend \
         of a service.\n",
        mib(all),
        largest.join(", ")
    ))
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}
