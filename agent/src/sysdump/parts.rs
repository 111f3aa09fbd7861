// SPDX-License-Identifier: Apache-2.0
//! The parts of an archive: each is one text, from the host, from the kernel, from the agent or from its files.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::{
    maps::loaded_maps,
    programs::{loaded_links, loaded_programs},
};

use super::{Contents, redact::redact};
use crate::{
    check::Report,
    cli::AdminClient,
    config::{DEFAULT_STATE_DIR, VERSION},
    datapath::pins::DEFAULT_PIN_DIR,
};

/// Longest time that one answer of the agent may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of one file or answer that are taken: of a file its beginning.
const MAX_BYTES: usize = 16 << 20;
/// Lines of the journal that are taken.
const JOURNAL_LINES: &str = "5000";

/// One entry.
pub(super) struct Part {
    /// Path within the archive.
    pub(super) name: String,
    /// Its text, without secrets.
    pub(super) text: String,
}

/// What the agent is asked for, and under which name it is kept.
const ANSWERS: [(&str, &str); 10] = [
    ("agent/status.json", "/v1/status"),
    ("agent/settings.json", "/v1/settings"),
    ("agent/services.json", "/v1/services"),
    ("agent/backends.json", "/v1/backends"),
    ("agent/traffic.json", "/v1/traffic"),
    ("agent/drains.json", "/v1/drain"),
    ("agent/events.json", "/v1/events"),
    ("agent/log-levels.json", "/v1/log"),
    ("agent/log.txt", "/v1/log/recent"),
    ("agent/metrics.txt", "/v1/metrics"),
];

/// Files of the host.
const FILES: [(&str, &str); 9] = [
    ("host/os-release.txt", "/etc/os-release"),
    ("host/kernel.txt", "/proc/version"),
    ("host/mounts.txt", "/proc/self/mounts"),
    ("host/cgroups.txt", "/proc/cgroups"),
    ("host/memory.txt", "/proc/meminfo"),
    ("host/load.txt", "/proc/loadavg"),
    ("host/sockets.txt", "/proc/net/sockstat"),
    ("host/netstat.txt", "/proc/net/netstat"),
    ("host/lockdown.txt", "/sys/kernel/security/lockdown"),
];

/// Gathers everything.
pub(super) fn gather(contents: &Contents) -> Vec<Part> {
    let scene = &contents.scene;
    let client = AdminClient::patient(&contents.run_dir, PATIENCE);
    let mut raw: Vec<(String, Result<String>)> =
        vec![("version.txt".to_owned(), Ok(format!("nodemesh {VERSION}\n")))];
    let mut add = |name: &str, text: Result<String>| raw.push((name.to_owned(), text));
    add("check.json", check(contents));
    for (name, path) in ANSWERS {
        add(name, answer(&client, path));
    }
    let connections = format!("/v1/connections?limit={}", contents.connections);
    add("agent/connections.json", answer(&client, &connections));
    for (name, path) in FILES {
        add(name, file(Path::new(path)));
    }
    add("kernel/programs.txt", programs());
    add("kernel/maps.txt", maps());
    add("kernel/links.txt", links());
    let pin_dir = scene.pin_dir.clone().unwrap_or_else(|| DEFAULT_PIN_DIR.into());
    add("kernel/pins.txt", tree(&pin_dir));
    add("host/journal.txt", journal());
    let state_dir = scene
        .state_dir
        .clone()
        .unwrap_or_else(|| DEFAULT_STATE_DIR.into());
    let settings: std::collections::BTreeMap<String, String> = client.get("/v1/settings").unwrap_or_default();
    let told = |flag: &str| settings.get(flag).map(PathBuf::from);
    let state_dir = told("state-dir").unwrap_or(state_dir);
    add("agent/snapshot.jsonl", file(&state_dir.join("snapshot.jsonl")));
    if let Some(config) = scene.config.clone().or_else(|| told("config")) {
        for path in manifests(&config) {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            add(&format!("config/{name}"), file(&path));
        }
    }
    raw.into_iter().map(|(name, text)| part(name, text)).collect()
}

fn part(name: String, text: Result<String>) -> Part {
    let text = text.unwrap_or_else(|error| format!("not available: {error:#}\n"));
    Part {
        text: redact(&text),
        name,
    }
}

fn check(contents: &Contents) -> Result<String> {
    Ok(serde_json::to_string_pretty(&Report::make(&contents.scene))?)
}

fn answer(client: &AdminClient, path: &str) -> Result<String> {
    let mut answer = client.read(path)?;
    answer.truncate(MAX_BYTES);
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn file(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path)
        .and_then(|file| io::copy(&mut io::Read::take(file, MAX_BYTES as u64), &mut bytes));
    read.with_context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn manifests(config: &Path) -> Vec<PathBuf> {
    if !config.is_dir() {
        return vec![config.to_owned()];
    }
    let is_yaml = |path: &PathBuf| {
        path.extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml")
    };
    let entries = fs::read_dir(config).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_yaml).collect();
    paths.sort();
    paths
}

fn programs() -> Result<String> {
    let mut text = String::from("id\ttype\tname\tinstructions\tlocked bytes\truns\tns\n");
    for program in loaded_programs() {
        let program = program?;
        writeln!(
            text,
            "{}\t{}\t{}\t{}\t{}\t{}\t{}",
            program.id(),
            program.program_type() as u32,
            String::from_utf8_lossy(program.name()),
            program.size_translated().unwrap_or_default() / 8,
            program.memory_locked().unwrap_or_default(),
            program.run_count(),
            program.run_time().as_nanos()
        )?;
    }
    Ok(text)
}

fn maps() -> Result<String> {
    let mut text = String::from("id\tname\tkey bytes\tvalue bytes\tcapacity\n");
    for map in loaded_maps() {
        let map = map?;
        let name = map.name_as_str().unwrap_or("?").to_owned();
        writeln!(
            text,
            "{}\t{name}\t{}\t{}\t{}",
            map.id(),
            map.key_size(),
            map.value_size(),
            map.max_entries()
        )?;
    }
    Ok(text)
}

fn links() -> Result<String> {
    let mut text = String::from("id\tprogram\n");
    for link in loaded_links() {
        let link = link?;
        writeln!(text, "{}\t{}", link.id(), link.program_id())?;
    }
    Ok(text)
}

/// The paths below a folder of pins, which is never deeper than this.
fn tree(folder: &Path) -> Result<String> {
    const DEPTH: usize = 4;
    let mut text = String::new();
    let mut waiting = vec![(folder.to_owned(), 0)];
    while let Some((folder, depth)) = waiting.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            writeln!(text, "{}", path.display())?;
            if path.is_dir() && depth < DEPTH {
                waiting.push((path, depth + 1));
            }
        }
    }
    Ok(text)
}

/// What systemd kept of the agent's log, also of those that ended.
fn journal() -> Result<String> {
    let output = Command::new("journalctl")
        .args(["--unit", "nodemesh-agent", "--no-pager", "--lines", JOURNAL_LINES])
        .output()
        .context("run journalctl")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
