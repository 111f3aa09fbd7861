// SPDX-License-Identifier: Apache-2.0
//! Case `chaos`: the agent is killed and upgraded again and again under streams and connects; what clients and counters say.

use anyhow::Result;

use super::{Run, markdown::Table};
use crate::{
    chaos::{self, Plan},
    file_limit,
};

pub(super) fn run(run: &Run) -> Result<String> {
    file_limit::raise()?;
    let same = measure(run, run.scaled(10, 50), run.scaled(4, 10), false)?;
    let other = measure(run, 0, run.scaled(2, 8), true)?;
    Ok(format!(
        "{same}\nEvery other upgrade to an ABI whose records of connections have another layout, where what happens to a connection within \
         the milliseconds of a switch may be missed:\n\n{other}"
    ))
}

fn measure(run: &Run, kills: u32, upgrades: u32, other_abi: bool) -> Result<String> {
    run.step()?;
    let plan = Plan {
        other_abi,
        streams: run.scaled(200, 1_000),
        tokens: 75,
        connects_per_second: run.scaled(100, 500),
        kills,
        upgrades,
        placed_alone: run.scaled(1_000, 4_000),
        seed: fastrand::u64(..),
    };
    let outcome = chaos::run(&plan, |act| eprintln!("{act}"))?;
    let (seen, counted) = (&outcome.seen, &outcome.counted);
    let seconds = outcome.duration.as_secs_f64();
    let title = format!(
        "{} streams and {} connects/s for {seconds:.0} s",
        plan.streams, plan.connects_per_second
    );
    let mut table = Table::new(&[&title, ""]);
    let mut fact = |what: &str, value: String| table.row(&[what.to_owned(), value]);
    let [same, other] = outcome.upgrades;
    fact(
        "agent killed while it started, at a random moment",
        outcome.kills.to_string(),
    );
    fact(
        "agent replaced by another build of the same ABI, of another ABI",
        format!("{same}, {other}"),
    );
    fact("connections, as clients count them", seen.connections.to_string());
    fact(
        "requests that failed",
        format!("{} {:?}", seen.failed, seen.failures),
    );
    fact("streams that broke or did not end", seen.cut.to_string());
    fact(
        "connections counted by the agent: opened, closed, failed",
        format!("{}, {}, {}", counted.opened, counted.closed, counted.failed),
    );
    fact(
        "successful requests: by the clients, by the agent",
        format!("{}, {}", seen.ok, counted.requests),
    );
    fact(
        "share of the replica with 75 % of the weight while no agent ran",
        format!("{:.1} %", outcome.heavy_share * 100.0),
    );
    let faults = outcome.faults();
    let verdict = if faults.is_empty() && other_abi {
        "0 failed connects, 0 broken streams, weights followed while no agent runs: met; counts differ by what the rows say.\n".to_owned()
    } else if faults.is_empty() {
        "Target: 0 failed connects, 0 broken streams, 0 lost counts, weights followed while no agent runs: met.\n".to_owned()
    } else {
        format!("**Not met**: {}.\n", faults.join("; "))
    };
    Ok(format!("{table}\n{verdict}"))
}
