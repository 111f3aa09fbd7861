// SPDX-License-Identifier: Apache-2.0
//! Whether the host has what the agent needs around the kernel: cgroups, the bpf file system, folders, a clock.

use nodemesh_abi::ABI_VERSION;

use crate::check::{
    Finding,
    facts::{CgroupFacts, ClockFacts, Facts, FolderFacts, PinFacts},
};

/// Before this moment (2025-01-01) no build of this program existed.
const PAST: u64 = 1_735_689_600;
/// Free space below which a folder is nearly full.
const NEARLY_FULL: u64 = 64 << 20;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![cgroup(&facts.cgroup), pins(&facts.pins), clock(&facts.clock)];
    findings.extend(facts.folders.iter().map(folder));
    findings.extend(facts.http.as_ref().map(http));
    findings
}

fn cgroup(cgroup: &CgroupFacts) -> Finding {
    let looked_at = "cgroup2 in /proc/self/mounts, --cgroup, /proc/cgroups";
    let root = match &cgroup.root {
        Ok(root) => root.display().to_string(),
        Err(error) => {
            return Finding::failure(
                "cgroup",
                looked_at,
                error,
                "mount cgroup v2 (`mount -t cgroup2 none /sys/fs/cgroup`), in a container the host's /sys/fs/cgroup; or name a folder of it with --cgroup",
            );
        }
    };
    if !cgroup.socket_controllers.is_empty() {
        let names = cgroup.socket_controllers.join(" and ");
        return Finding::warning(
            "cgroup",
            looked_at,
            format!(
                "{root}; {names} of version 1 have groups, and sockets in these may belong to none of version 2"
            ),
            format!(
                "boot with `cgroup_no_v1={}`, or remove the groups of {names}",
                cgroup.socket_controllers.join(",")
            ),
        );
    }
    let kind = if cgroup.hybrid {
        "beside version 1"
    } else {
        "version 2 alone"
    };
    Finding::ok("cgroup", looked_at, format!("{root}, {kind}"))
}

fn pins(pins: &PinFacts) -> Finding {
    let looked_at = format!("file system and content of {}", pins.folder.display());
    if !pins.on_bpffs && !pins.mountable {
        return Finding::failure(
            "bpffs",
            looked_at,
            format!("{} is not on a bpf file system", pins.folder.display()),
            "`mount -t bpf bpf /sys/fs/bpf`, in a container mount the host's /sys/fs/bpf; or name a folder on one with --pin-dir",
        );
    }
    if !pins.others.is_empty() {
        return Finding::warning(
            "bpffs",
            looked_at,
            format!(
                "there are pins of another ABI: {} (this is v{ABI_VERSION})",
                pins.others.join(", ")
            ),
            "the next start of an agent removes them; so does `nodemesh cleanup` while no agent runs",
        );
    }
    let found = match (pins.on_bpffs, pins.own) {
        (true, true) => "a bpf file system with pins of this ABI",
        (true, false) => "a bpf file system without pins",
        (false, _) => "there is none yet; the agent mounts one",
    };
    Finding::ok("bpffs", looked_at, found)
}

fn clock(clock: &ClockFacts) -> Finding {
    let looked_at = "time of day, and adjtimex(2)";
    if clock.now < PAST {
        return Finding::failure(
            "clock",
            looked_at,
            format!(
                "it is {} s after 1970, so that no certificate is valid yet",
                clock.now
            ),
            "set the clock, and keep it right with chrony or systemd-timesyncd",
        );
    }
    match clock.synchronized {
        Some(false) => Finding::ok(
            "clock",
            looked_at,
            "nothing keeps the clock right, as far as the kernel knows; nodemesh itself measures with the monotonic one",
        ),
        Some(true) => Finding::ok("clock", looked_at, "it is kept right"),
        None => Finding::ok(
            "clock",
            looked_at,
            "the kernel does not tell whether it is kept right",
        ),
    }
}

fn folder(folder: &FolderFacts) -> Finding {
    let path = folder.path.display();
    let looked_at = format!("rights and free space of {path} ({})", folder.flag);
    if let Some(error) = &folder.error {
        return Finding::failure(
            "folders",
            looked_at,
            format!("the agent cannot write to {path}: {error}"),
            format!("make it writable, or name another folder with {}", folder.flag),
        );
    }
    match folder.free {
        Some(free) if free < NEARLY_FULL => Finding::warning(
            "folders",
            looked_at,
            format!("{path} has {free} bytes left"),
            format!("make room, or name another folder with {}", folder.flag),
        ),
        _ => Finding::ok("folders", looked_at, format!("{path} can be written")),
    }
}

fn http((address, error): &(String, Option<String>)) -> Finding {
    let looked_at = format!("listening on {address} for a moment (--http)");
    match error {
        None => Finding::ok("http", looked_at, format!("{address} is free")),
        Some(error) => Finding::failure(
            "http",
            looked_at,
            format!("the agent could not listen on {address}: {error}"),
            format!(
                "`ss -ltnp` shows who has the port; end it, or choose another address with --http (or NODEMESH_HTTP) than {address}"
            ),
        ),
    }
}
