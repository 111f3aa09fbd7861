// SPDX-License-Identifier: Apache-2.0
//! What a topology leaves outside of its own lifetime: folders, and everything of a test process that was killed.
//!
//! Invariant: only names that begin with `nm<pid>-` are touched, and only if no process `<pid>` lives.

use std::{fs, io, path::Path};

use nodemesh_agent::datapath::PinRoot;

use crate::{cgroup, netns};

/// Removes a topology's scratch folder and pins.
pub(super) fn remove_folders(scratch: &Path, pins: &Path) {
    for node in fs::read_dir(pins).into_iter().flatten().flatten() {
        report(
            "pins",
            node.path().as_path(),
            PinRoot::new(node.path()).remove_all().map(drop),
        );
    }
    // A test may have put strangers beside the pins.
    report("pins", pins, gone(fs::remove_dir_all(pins)));
    report("scratch folder", scratch, gone(fs::remove_dir_all(scratch)));
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn report(what: &str, path: &Path, result: io::Result<()>) {
    if let Err(error) = result {
        eprintln!("cannot remove the {what} {}: {error}", path.display());
    }
}

/// Removes what dead test processes left.
pub(super) fn sweep(cgroup_mount: &Path, bpffs: &Path) {
    for name in names_in(cgroup_mount).into_iter().filter(|name| is_dead(name)) {
        let path = cgroup_mount.join(&name);
        if let Err(error) = cgroup::remove(&path) {
            eprintln!("cannot remove the leftover {}: {error:#}", path.display());
        }
    }
    for name in netns::names().into_iter().filter(|name| is_dead(name)) {
        if let Err(error) = netns::run_ip(&["netns", "del", &name]) {
            eprintln!("cannot remove a leftover: {error:#}");
        }
    }
    let temporary = std::env::temp_dir();
    let folders = names_in(bpffs).into_iter().chain(names_in(&temporary));
    for name in folders.filter(|name| is_dead(name)) {
        remove_folders(&temporary.join(&name), &bpffs.join(&name));
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Whether `name` is of a topology whose process has ended.
fn is_dead(name: &str) -> bool {
    let pid = name
        .strip_prefix("nm")
        .and_then(|rest| rest.split_once('-'))
        .map(|(pid, _)| pid);
    pid.and_then(|pid| pid.parse::<u32>().ok())
        .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_processes_are_leftovers() {
        assert!(!is_dead(&format!("nm{}-0", std::process::id())));
        assert!(is_dead("nm4294967295-3-node"));
        assert!(!is_dead("nmtest"));
        assert!(!is_dead("system.slice"));
    }
}
