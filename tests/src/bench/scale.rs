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
    let _servers = [
        lab.serve(SERVERS[0], &[0], Cpus::All)?,
        lab.serve(SERVERS[1], &[1], Cpus::All)?,
    ];
    let folder = lab.agent.config();
    fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
    for file in 0..FILES {
        fs::write(path(&folder, file), text(&lab, file, 0))?;
    }
    run.step()?;
    let mut table = Table::new(&["10,000 services, 100,000 backends, 100 files", ""]);
    let mut fact = |what: &str, value: String| table.row(&[what.to_owned(), value]);
    let began = Instant::now();
    lab.start_agent(false)?;
    fact("first start, process to ready", seconds(began.elapsed()));
    let changes = changes(run, &lab, &folder)?;
    fact(
        "rename of one changed file to the first connection that follows it",
        format!("{} ms", changes.seen_ms.shown(1.0, 2)),
    );
    fact(
        "the reconciler's round for it, whose end waits for programs that may use the former table",
        format!("{} ms", changes.reconciled_ms.shown(1.0, 2)),
    );
    let pid = lab.agent.process().pid();
    let idle = process_use::idle_share(run, pid, Duration::from_secs(run.scaled(2, 10)))?;
    fact(
        "agent's CPU while idle",
        format!("{:.1} % of one CPU", idle * 100.0),
    );
    fact("agent's memory", memory(pid)?);
    let (took, bytes) = scrape(&lab)?;
    fact(
        "one scrape of /metrics",
        format!("{} KiB in {}", bytes >> 10, seconds(took)),
    );
    fact("agent's memory after the scrape", memory(pid)?);
    let began = Instant::now();
    lab.restart(false)?;
    fact("stop and start again, maps adopted", seconds(began.elapsed()));
    let met = if changes.seen_ms.median() < TARGET_MS {
        "met"
    } else {
        "**not met**"
    };
    Ok(format!(
        "{table}\nTarget: a change reaches a connection in less than {TARGET_MS} ms: {met}.\n"
    ))
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn memory(pid: u32) -> Result<String> {
    let (resident, peak) = process_use::resident(pid)?;
    Ok(format!(
        "{} MiB resident, peak {} MiB",
        resident / 1024,
        peak / 1024
    ))
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
        let arguments = [
            "watch".to_owned(),
            virtual_address(1).to_string(),
            SERVERS[next].to_owned(),
        ];
        let watcher = lab.client(Side::Mesh, Cpus::All, "bench", &arguments)?;
        watcher.wait_for_line(|line| line == "watching")?;
        let staged = folder.join("staged");
        fs::write(&staged, text(lab, CHANGED, next as u16))?;
        let renamed = monotonic_ns()?;
        fs::rename(&staged, path(folder, CHANGED))?;
        let (seen, _): (Seen, _) = watcher.report()?;
        // What a connection in progress at the rename has to say comes too early by its own duration at most.
        changes
            .seen_ms
            .push(seen.connected_ns.saturating_sub(renamed) as f64 / 1e6);
        changes
            .reconciled_ms
            .push(last_reconciled(lab, round + 1)?.as_secs_f64() * 1e3);
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
        text += &service(
            "switched",
            virtual_address(1),
            "TCP",
            "random",
            [(lab.direct(server), 1)],
        );
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
            let _ = writeln!(
                text,
                "  - {{address: {}, port: {}}}",
                backend.ip(),
                backend.port()
            );
        }
    }
    text
}
