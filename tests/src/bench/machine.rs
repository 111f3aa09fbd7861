// SPDX-License-Identifier: Apache-2.0
//! What results depend on: the machine, the kernel, what else runs, and how was measured.

use std::{collections::BTreeSet, fs, process::Command, thread};

use anyhow::{Context as _, Result};

use super::markdown::Table;
use crate::process::binary;

const METHOD: &str = "\
Every case has a node of its own: a network namespace with an agent, a client pod and a server pod that are joined by a bridge.
What is compared runs in turns (A B B A ...) within one run; numbers are medians over rounds, with the smallest and the largest
in brackets. \"A/A\" is the same thing measured twice in the same way: what noise makes of 1. \"Outside\" is a process in the same
client pod whose cgroup is not in the mesh, so no program of a cgroup hook runs for it; the tracepoints are host-wide.
Program times are the kernel's own statistics (`bpf_stats`); an empty program shows 25 ns there, which is the measuring. They are
switched off where wall or CPU time is measured, as far as this host's other programs allow.
";

/// The section about the machine and the method.
pub(super) fn section(quick: bool) -> Result<String> {
    let mut table = Table::new(&["machine", ""]);
    table.row(&["kernel".into(), read("/proc/sys/kernel/osrelease")?]);
    table.row(&["CPU".into(), cpu_model()?]);
    table.row(&["CPUs".into(), thread::available_parallelism()?.to_string()]);
    table.row(&["BPF JIT".into(), read("/proc/sys/net/core/bpf_jit_enable")?]);
    table.row(&[
        "spectre v2".into(),
        read("/sys/devices/system/cpu/vulnerabilities/spectre_v2")?,
    ]);
    table.row(&["load average at the start".into(), load_average()?]);
    table.row(&[
        "other nodemesh agents on this host".into(),
        other_agents().to_string(),
    ]);
    table.row(&["agent".into(), agent_version()?]);
    let length = if quick { "quick" } else { "full" };
    Ok(format!("# Benchmark ({length} run)\n\n{table}\n{METHOD}"))
}

/// The first three numbers of `/proc/loadavg`.
pub(super) fn load_average() -> Result<String> {
    let text = read("/proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

fn read(path: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(text.trim().to_owned())
}

fn cpu_model() -> Result<String> {
    let cpus = read("/proc/cpuinfo")?;
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Ok(model.map_or_else(
        || std::env::consts::ARCH.to_owned(),
        |(_, model)| model.to_owned(),
    ))
}

/// Processes named `nodemesh-agent`: their tracepoints see the sockets of this host too.
fn other_agents() -> usize {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let agents: BTreeSet<String> = processes
        .filter(|entry| {
            // The kernel keeps 15 bytes of a name.
            fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.trim() == "nodemesh-agent")
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    agents.len()
}

fn agent_version() -> Result<String> {
    let output = Command::new(binary("nodemesh-agent"))
        .arg("--version")
        .output()
        .context("run nodemesh-agent")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
