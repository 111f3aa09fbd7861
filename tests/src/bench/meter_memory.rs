// SPDX-License-Identifier: Apache-2.0
//! Case `meter-memory`: what a metered connection takes of the kernel's memory and of the agent's, by the kernel's own slab
//! statistics with many connections open, less what as many connections take that are not metered.

use std::{collections::BTreeMap, fs, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::{
    Run,
    lab::{Cpus, Lab, Side, service, virtual_address},
    markdown::Table,
    process_use,
    series::Series,
};
use crate::{
    eventually::{PATIENCE, pause, wait_until},
    process::Process,
    scrape::Scrape,
};

/// Bytes per metered socket that the rule for the table's default size assumes.
const TARGET: f64 = 512.0;
/// Port of the server that is no backend, counted from the lab's.
const STRANGER: u16 = 1;
/// Objects per socket below which a cache has no part in it.
const PART: f64 = 0.2;
/// Lets the kernel free what the sockets before had, and the agent sweep those that are open.
const SETTLE: Duration = Duration::from_secs(3);

/// Objects in use and their size, by slab cache.
type Slabs = BTreeMap<String, (f64, f64)>;

#[derive(Deserialize)]
struct Report {
    ok: u64,
}

pub(super) fn run(run: &Run) -> Result<String> {
    let mut lab = Lab::new()?;
    let address = virtual_address(1);
    let _server = lab.serve("server", &[0, STRANGER], Cpus::All)?;
    lab.start(
        &service("held", address, "TCP", "least-request", [(lab.direct(0), 1)]),
        false,
    )?;
    let count = run.scaled(5_000, 10_000);
    // Both ends are sockets of this node.
    let sockets = f64::from(count) * 2.0;
    let mut caches: BTreeMap<String, (f64, Series)> = BTreeMap::new();
    let mut agent = Series::default();
    for _ in 0..run.scaled(1, 3) {
        let (plain, _) = held(run, &lab, lab.direct(STRANGER), count, 0.0)?;
        let (metered, resident) = held(run, &lab, address, count, sockets)?;
        agent.push(resident / sockets);
        for (cache, (objects, size)) in metered {
            let plain = plain.get(&cache).map_or(0.0, |(objects, _)| *objects);
            let more = (objects - plain) / sockets;
            caches
                .entry(cache)
                .or_insert((size, Series::default()))
                .1
                .push(more);
        }
    }
    caches.retain(|_, (_, more)| more.median() >= PART);
    render(&lab, count, &caches, &agent)
}

/// Opens and holds connections; gives the slabs and the growth of the agent, in bytes, by which they differ from before.
fn held(run: &Run, lab: &Lab, address: SocketAddr, count: u32, records: f64) -> Result<(Slabs, f64)> {
    run.step()?;
    let pid = lab.agent.process().pid();
    await_records(lab, 0.0)?;
    pause(SETTLE);
    let (slabs, resident) = (slabs()?, process_use::resident(pid)?.0);
    let mut client = hold(lab, address, count)?;
    await_records(lab, records)?;
    pause(SETTLE);
    let grown = (process_use::resident(pid)?.0 as f64 - resident as f64) * 1024.0;
    let mut more = self::slabs()?;
    for (cache, (objects, _)) in &mut more {
        *objects -= slabs.get(cache).map_or(0.0, |(before, _)| *before);
    }
    client.close_stdin();
    client.wait()?;
    Ok((more, grown))
}

fn hold(lab: &Lab, address: SocketAddr, count: u32) -> Result<Process> {
    let arguments = [
        "connect".to_owned(),
        address.to_string(),
        format!("--count={count}"),
        "--concurrency=4".to_owned(),
        "--close=rst".to_owned(),
        "--hold".to_owned(),
    ];
    let client = lab.client(Side::Mesh, Cpus::All, "socket-probe", &arguments)?;
    let line = client.wait_for_line(|line| line.starts_with('{'))?;
    let report: Report = serde_json::from_str(&line).context("the report")?;
    ensure!(
        report.ok == u64::from(count),
        "only {} of {count} connections were established",
        report.ok
    );
    Ok(client)
}

/// Waits until the kernel has so many records.
fn await_records(lab: &Lab, records: f64) -> Result<()> {
    let are_there =
        || gauge(lab, "nodemesh_connection_table_entries").is_ok_and(|now| (now - records).abs() < 0.5);
    wait_until(PATIENCE, are_there).with_context(|| format!("wait for {records} records"))
}

fn gauge(lab: &Lab, name: &str) -> Result<f64> {
    Ok(Scrape::parse(&lab.metrics()?)?.sum(name, &[]))
}

/// The caches of `kmalloc()`, from which records are.
fn slabs() -> Result<Slabs> {
    let text = fs::read_to_string("/proc/slabinfo").context("read /proc/slabinfo")?;
    let caches = text.lines().filter(|line| line.starts_with("kmalloc-"));
    let parsed = caches.map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        let objects = words.next()?.parse().ok()?;
        let size = words.nth(1)?.parse().ok()?;
        Some((name, (objects, size)))
    });
    parsed
        .collect::<Option<Slabs>>()
        .context("the columns of /proc/slabinfo")
}

fn render(lab: &Lab, count: u32, caches: &BTreeMap<String, (f64, Series)>, agent: &Series) -> Result<String> {
    let mut table = Table::new(&["memory of a metered socket", "objects", "bytes"]);
    let mut sum = 0.0;
    for (cache, (size, objects)) in caches {
        let bytes = objects.median() * size;
        sum += bytes;
        table.row(&[
            format!("kernel, {cache}"),
            objects.shown(1.0, 2),
            format!("{bytes:.0}"),
        ]);
    }
    table.row(&["kernel, all", "", &format!("{sum:.0}")]);
    table.row(&["agent, resident", "", &agent.shown(1.0, 0)]);
    let limit = gauge(lab, "nodemesh_connection_table_limit")?;
    let word = if sum <= TARGET { "met" } else { "**not met**" };
    Ok(format!(
        "{count} connections held, both ends metered on this node, beside as many that are not metered.\n\n{table}\nThe table \
         holds {limit:.0} connections here by default. \
         At most {TARGET:.0} bytes of kernel memory: {word} with {sum:.0}; a full table takes {:.1} MiB.\n",
        limit * sum / f64::from(1 << 20)
    ))
}
