// SPDX-License-Identifier: Apache-2.0
//! `nodemesh status`.

use std::{fmt::Write as _, time::Duration};

use anyhow::Result;

use super::{Output, client::AdminClient, table};
use crate::api::{ConfigState, Status};

/// Prints the status; the result is whether there are no problems.
pub(super) fn run(agent: &AdminClient, output: Output) -> Result<bool> {
    let status: Status = agent.get("/v1/status")?;
    let well = status.problems.is_empty();
    if output == Output::Json {
        table::print_json(&status)?;
    } else {
        table::print(describe(&status)?.trim_end())?;
    }
    Ok(well)
}

fn describe(status: &Status) -> Result<String> {
    let mut text = String::new();
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_seconds));
    writeln!(
        text,
        "agent    {}, pid {}, up {uptime}",
        status.version, status.pid
    )?;
    writeln!(text, "ready    {}", if status.ready { "yes" } else { "no" })?;
    for problem in &status.problems {
        writeln!(text, "  ! {problem}")?;
    }
    describe_config(&mut text, status)?;
    describe_datapath(&mut text, status)?;
    Ok(text)
}

fn describe_config(text: &mut String, status: &Status) -> Result<()> {
    let config = &status.config;
    let state = match config.state {
        ConfigState::Ok => "ok",
        ConfigState::Invalid => "INVALID, the last good one stays in force",
    };
    writeln!(
        text,
        "config   {}: {state}, generation {} ({} in the kernel)",
        config.path, config.generation, config.applied_generation
    )?;
    for line in &config.errors {
        writeln!(text, "  ! {line}")?;
    }
    for line in &config.warnings {
        writeln!(text, "  - {line}")?;
    }
    Ok(())
}

fn describe_datapath(text: &mut String, status: &Status) -> Result<()> {
    let datapath = &status.datapath;
    let running = datapath.programs.values().filter(|effective| **effective).count();
    writeln!(
        text,
        "kernel   {}, {running} of {} cgroup programs run at {}",
        datapath.kernel,
        datapath.programs.len(),
        datapath.cgroup
    )?;
    writeln!(text, "pins     {}", datapath.pin_dir)?;
    let maps: Vec<String> = datapath
        .maps
        .iter()
        .map(|(name, usage)| format!("{name} {}/{}", usage.entries, usage.capacity))
        .collect();
    writeln!(text, "maps     {}", maps.join(", "))?;
    let errors: Vec<String> = datapath
        .internal_errors
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    writeln!(
        text,
        "errors   {}",
        if errors.is_empty() {
            "none".to_owned()
        } else {
            errors.join(", ")
        }
    )?;
    for (frontend, reason) in &datapath.frontends_not_programmed {
        writeln!(text, "  ! {frontend}: {reason}")?;
    }
    for cgroup in &datapath.cgroups_missing {
        writeln!(text, "  - the configured cgroup {cgroup} does not exist (yet)")?;
    }
    Ok(())
}
