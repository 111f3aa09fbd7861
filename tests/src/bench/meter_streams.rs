// SPDX-License-Identifier: Apache-2.0
//! Case `meter-streams`: CPU and memory of the agent while many streams run, with a scrape of /metrics every few seconds.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{
    Run,
    lab::{Cpus, Lab, service, virtual_address},
    markdown::Table,
    process_use,
    token_load::{Pace, Placement, Software, TokenServer},
};
use crate::{
    eventually::{PATIENCE, pause, wait_until},
    scrape::Scrape,
};

/// Share of one CPU that the agent may use.
const TARGET: f64 = 0.01;
const PACE: Pace = Pace {
    streams: 2_000,
    token: Duration::from_millis(50),
    tokens: 2_000,
};
/// Time between two scrapes.
const SCRAPES: Duration = Duration::from_secs(5);

pub(super) fn run(run: &Run) -> Result<String> {
    let mut lab = Lab::new()?;
    let address = virtual_address(1);
    let server = TokenServer::start(&lab, Placement::mesh(Cpus::All), &[0], Software::Hyper, PACE)?;
    lab.start(
        &service("tokens", address, "TCP", "least-request", [(lab.direct(0), 1)]),
        true,
    )?;
    let pid = lab.agent.process().pid();
    let (before, _) = process_use::resident(pid)?;
    let time = Duration::from_secs(run.scaled(5, 15));
    let clients = server.clients(&lab, address, PACE, time + PATIENCE)?;
    let in_flight = || -> Result<f64> {
        let scrape = Scrape::parse(&lab.metrics()?)?;
        Ok(scrape.sum("nodemesh_requests_in_flight", &[]))
    };
    // Client and server are on this node, so each stream is seen from both vantages.
    let all = f64::from(PACE.streams) * 2.0;
    wait_until(PATIENCE, || in_flight().is_ok_and(|seen| seen >= all))
        .context("wait until all streams run")?;
    let share = process_use::cpu_share(pid, || scrape_for(run, &lab, time))?;
    let still = in_flight()?;
    let (resident, peak) = process_use::resident(pid)?;
    drop(clients);
    let mut table = Table::new(&["agent", "CPU, of one", "memory, resident"]);
    table.row(&["before".to_owned(), String::new(), mib(before)]);
    table.row(&[
        format!(
            "{} streams, {still:.0} requests in flight at both vantages",
            PACE.streams
        ),
        format!("{:.2} %", share * 100.0),
        format!("{} (peak {})", mib(resident), mib(peak)),
    ]);
    let word = if share < TARGET { "met" } else { "**not met**" };
    Ok(format!(
        "A token every {} ms on each stream, a scrape every {} s, over {} s.\n\n{table}\nTarget: less than {:.0} % of one CPU: {word} \
         with {:.2} %.\n",
        PACE.token.as_millis(),
        SCRAPES.as_secs(),
        time.as_secs(),
        TARGET * 100.0,
        share * 100.0
    ))
}

/// Scrapes now and then until the time is over.
fn scrape_for(run: &Run, lab: &Lab, time: Duration) -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(100);
    let began = Instant::now();
    let mut next = SCRAPES / 2;
    while began.elapsed() < time {
        run.step()?;
        if began.elapsed() >= next {
            lab.metrics()?;
            next += SCRAPES;
        }
        pause(PAUSE);
    }
    Ok(())
}

fn mib(kib: u64) -> String {
    format!("{:.1} MiB", kib as f64 / 1024.0)
}
