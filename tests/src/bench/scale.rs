// SPDX-License-Identifier: Apache-2.0
//! Case `scale`: a node with 10,000 services and 100,000 backends from 100 files: how long a start takes, how soon a change of
//! one file reaches a client's connection, and what the agent takes meanwhile.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    Run,
    inside::{Seen, monotonic_ns},
    lab::{Cpus, Lab, Side, service, virtual_address},
    markdown::Table,
    process_use,
    series::Series,
};
use crate::eventually::pause;

const FILES: u32 = 100;
const SERVICES: u32 = 10_000;
const BACKENDS: u32 = 10;
/// Milliseconds that a change may take to reach a connection.
const TARGET_MS: f64 = 10.0;
/// The file that changes. It begins with the service whose backend is switched.
const CHANGED: u32 = 0;
const SERVERS: [&str; 2] = ["one", "two"];

pub(super) fn run(run: &Run) -> Result<String> {
    let mut lab = Lab::new()?;
    let _servers = [lab.serve(SERVERS[0], &[0], Cpus::All)?, lab.serve(SERVERS[1], &[1], Cpus::All)?];
    let folder = lab.agent.config();
    fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
    for file in 0..FILES {
        fs::write(path(&folder, file), text(&lab, file, 0))?;
    }
    run.step()?;
    let began = Instant::now();
    lab.start_agent(false)?;
    let start = began.elapsed();
    let pid = lab.agent.process().pid();
    let changes = changes(run, &lab, &folder)?;
    let seconds = run.scaled(2.0, 10.0);
    let ((), idle) = process_use::cpu_share(pid, || Ok(pause(Duration::from_secs_f64(seconds))))?;
    let (resident, peak) = process_use::resident(pid)?;
    let (scrape, scraped) = scrape(&lab)?;
    let (_, after_scrape) = process_use::resident(pid)?;
    let began = Instant::now();
    lab.restart(false)?;
    let again = began.elapsed();
    let mut table = Table::new(["10,000 services, 100,000 backends, 100 files", ""]);
    table.row(["first start, process to ready".to_owned(), format!("{:.2} s", start.as_secs_f64())]);
    table.row(["stop and start again, maps adopted".to_owned(), format!("{:.2} s", again.as_secs_f64())]);
    table.row([
        "rename of one changed file to the first connection that follows it".to_owned(),
        format!("{} ms", changes.seen_ms.shown(1.0, 2)),
    ]);
    table.row([
        "of which the reconciler (diff and kernel writes)".to_owned(),
        format!("{} ms", changes.reconciled_ms.shown(1.0, 2)),
    ]);
    table.row(["agent's memory: resident, peak".to_owned(), format!("{} MiB, {} MiB", resident / 1024, peak / 1024)]);
    table.row(["agent's CPU while idle".to_owned(), format!("{:.1} % of one CPU", idle * 100.0)]);
    table.row(["one scrape of /metrics".to_owned(), format!("{} MiB in {:.2} s", scraped >> 20, scrape.as_secs_f64())]);
    table.row(["agent's peak memory after it".to_owned(), format!("{} MiB", after_scrape / 1024)]);
    let met = if changes.seen_ms.median() < TARGET_MS { "met" } else { "**not met**" };
    Ok(format!("{table}\nTarget: a change reaches a connection in less than {TARGET_MS} ms: {met}.\n"))
}

/// How long a scrape takes, and its bytes.
fn scrape(lab: &Lab) -> Result<(Duration, usize)> {
    let began = Instant::now();
    let text = lab.metrics()?;
    Ok((began.elapsed(), text.len()))
}

/// What changes took, in milliseconds.
#[derive(Default)]
struct Changes {
    seen_ms: Series,
    reconciled_ms: Series,
}

/// Switches the backend of a service again and again while a client connects to it in a loop.
fn changes(run: &Run, lab: &Lab, folder: &Path) -> Result<Changes> {
    let mut changes = Changes::default();
    for round in 1..=run.scaled(9, 25) {
        run.step()?;
        let next = round % SERVERS.len();
        let arguments = ["watch".to_owned(), virtual_address(1).to_string(), SERVERS[next].to_owned()];
        let watcher = lab.client(Side::Mesh, Cpus::All, "bench", &arguments)?;
        watcher.wait_for_line(|line| line == "watching")?;
        let staged = folder.join("staged");
        fs::write(&staged, text(lab, CHANGED, next as u16))?;
        let renamed = monotonic_ns()?;
        fs::rename(&staged, path(folder, CHANGED))?;
        let (seen, _): (Seen, _) = watcher.report()?;
        // What a connection in progress at the rename has to say comes too early by its own duration at most.
        changes.seen_ms.push(seen.connected_ns.saturating_sub(renamed) as f64 / 1e6);
        changes.reconciled_ms.push(last_reconciled(lab, round + 1)?.as_secs_f64() * 1e3);
    }
    Ok(changes)
}

/// What the agent's log says about the configuration `generation`.
fn last_reconciled(lab: &Lab, generation: usize) -> Result<Duration> {
    let mark = format!("generation={generation} ");
    let line = lab
        .agent
        .process()
        .wait_for_log(|line| line.contains("reconciled") && line.contains(&mark))?;
    let (_, rest) = line.split_once("elapsed_us=").context("elapsed_us in the log")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Ok(Duration::from_micros(digits.parse()?))
}

fn path(folder: &Path, file: u32) -> std::path::PathBuf {
    folder.join(format!("{file:03}.yaml"))
}

/// Manifest `file`: every hundredth service; the first one also has the service that is switched to server `server`.
fn text(lab: &Lab, file: u32, server: u16) -> String {
    let mut text = String::new();
    if file == CHANGED {
        text += &service("switched", virtual_address(1), "TCP", "random", [(lab.direct(server), 1)]);
    }
    for index in (file..SERVICES).step_by(FILES as usize) {
        let address = Ipv4Addr::from(0x0a61_0000 + index);
        let _ = write!(
            text,
            "---\napiVersion: nodemesh.io/v1alpha1\nkind: Service\nmetadata: {{name: s{index}, namespace: n{file}}}\n\
             spec:\n  addresses: [{address}]\n  ports: [{{port: 8000}}]\n  backends:\n"
        );
        for replica in 0..BACKENDS {
            let backend = SocketAddr::from((Ipv4Addr::from(0x0a80_0000 + index * BACKENDS + replica), 8000));
            let _ = writeln!(text, "  - {{address: {}, port: {}}}", backend.ip(), backend.port());
        }
    }
    text
}
