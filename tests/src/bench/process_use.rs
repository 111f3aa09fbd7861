// SPDX-License-Identifier: Apache-2.0
//! What a process uses: resident memory and CPU time, and what the kernel allocated for the maps that it holds open.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::maps::loaded_maps;
use nix::unistd::{SysconfVar, sysconf};

use super::Run;
use crate::eventually::pause;

/// Resident memory now and at its peak, in KiB.
pub(super) fn resident(pid: u32) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let value = line.with_context(|| format!("{name} of process {pid}"))?;
        Ok(value.trim().trim_end_matches(" kB").parse()?)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

/// CPU time, user and system, so far.
pub(super) fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in brackets, may contain anything.
    let (_, fields) = stat.rsplit_once(") ").context("the fields of /proc/PID/stat")?;
    let ticks: u64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(str::parse::<u64>)
        .sum::<Result<u64, _>>()?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the clock tick")?;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Share of one CPU that the process uses while `work` runs.
pub(super) fn cpu_share(pid: u32, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let (started, before) = (Instant::now(), cpu(pid)?);
    work()?;
    let used = cpu(pid)?.saturating_sub(before);
    Ok(used.as_secs_f64() / started.elapsed().as_secs_f64())
}

/// Share of one CPU that the process uses while nothing happens for `time`.
pub(super) fn idle_share(run: &Run, pid: u32, time: Duration) -> Result<f64> {
    const PAUSE: Duration = Duration::from_millis(100);
    let began = Instant::now();
    cpu_share(pid, || {
        while began.elapsed() < time {
            run.step()?;
            pause(PAUSE);
        }
        Ok(())
    })
}

/// Bytes that the kernel allocated for each map that the process holds open, by name.
pub(super) fn map_memory(pid: u32) -> Result<BTreeMap<String, u64>> {
    let by_id: BTreeMap<u64, u64> = descriptors(pid)?
        .iter()
        .filter_map(|descriptor| Some((descriptor.number("map_id")?, descriptor.number("memlock")?)))
        .collect();
    let mut by_name: BTreeMap<String, u64> = BTreeMap::new();
    for info in loaded_maps().flatten() {
        if let Some(bytes) = by_id.get(&u64::from(info.id())) {
            *by_name
                .entry(info.name_as_str().unwrap_or("?").to_owned())
                .or_default() += bytes;
        }
    }
    Ok(by_name)
}

/// What the kernel says about an open descriptor.
pub(super) struct Descriptor(String);

impl Descriptor {
    /// The field `name`, if it is there and a number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        let mut values = self
            .0
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        values.find_map(|value| value.trim().parse().ok())
    }
}

/// The open descriptors of a process.
pub(super) fn descriptors(pid: u32) -> Result<Vec<Descriptor>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let entries = fs::read_dir(&folder).with_context(|| format!("list {folder}"))?;
    // One may be closed meanwhile.
    let texts = entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok());
    Ok(texts.map(Descriptor).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_told_apart_by_their_whole_name() {
        let descriptor = Descriptor("pos:\t0\nrun_time_ns:\t70\nrun_cnt:\t7\nprog_tag:\tab\n".into());
        assert_eq!(descriptor.number("run_cnt"), Some(7));
        assert_eq!(descriptor.number("run"), None);
        assert_eq!(descriptor.number("prog_tag"), None);
    }
}
