// SPDX-License-Identifier: Apache-2.0
//! The agent: whether one runs, and what it answers. Invariant: the lock is looked at, never taken, so that an agent can start meanwhile.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    api::{Service, Status},
    check::facts::{AgentFacts, Answers},
    cli::AdminClient,
    config::ADMIN_SOCKET,
    lock::LOCK_FILE,
};

/// Longest time that an answer may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Name of the agent's process, as the kernel keeps it.
const COMM: &str = "nodemesh-agent";

pub(super) fn ask(client: &AdminClient, run_dir: &Path) -> AgentFacts {
    let socket = run_dir.join(ADMIN_SOCKET);
    let error = match client.get::<Status>("/v1/status") {
        Ok(status) => {
            let memory = memory(status.pid);
            return AgentFacts::Here(Box::new(Answers {
                services: client
                    .get::<Vec<Service>>("/v1/services")
                    .map_err(|error| format!("{error:#}")),
                status,
                memory,
            }));
        }
        Err(error) => error,
    };
    let cause = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    if cause.is_some_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied) {
        return AgentFacts::Forbidden(socket);
    }
    let lock = run_dir.join(LOCK_FILE);
    if !is_locked(&lock) {
        return AgentFacts::Absent;
    }
    let pid = fs::read_to_string(&lock).unwrap_or_default().trim().to_owned();
    AgentFacts::Silent {
        socket,
        state: state(&pid),
        pid,
        error: format!("{error:#}"),
    }
}

fn is_locked(lock: &Path) -> bool {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    fs::metadata(lock).is_ok_and(|found| names_inode(&locks, found.ino()))
}

/// Whether a line such as `1: FLOCK  ADVISORY  WRITE 811 fe:00:4711 0 EOF` is about the inode.
fn names_inode(locks: &str, inode: u64) -> bool {
    let inode = inode.to_string();
    locks.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1) == Some(&"FLOCK")
            && fields.get(5).and_then(|place| place.rsplit(':').next()) == Some(inode.as_str())
    })
}

/// State of the agent's process, unless the number is that of another one.
fn state(pid: &str) -> Option<String> {
    let status = fs::read_to_string(process(pid)?.join("status")).ok()?;
    let state = status.lines().find_map(|line| line.strip_prefix("State:"))?;
    Some(state.trim().to_owned())
}

fn process(pid: &str) -> Option<PathBuf> {
    let folder = Path::new("/proc").join(pid.parse::<u32>().ok()?.to_string());
    let comm = fs::read_to_string(folder.join("comm")).ok()?;
    (comm.trim() == COMM).then_some(folder)
}

/// Limit and use of the memory of the agent's cgroup, the maps that it created included.
fn memory(pid: u32) -> Option<(u64, u64)> {
    let groups = fs::read_to_string(process(&pid.to_string())?.join("cgroup")).ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let folder = crate::datapath::host::cgroup_root(None).ok()?.join(group);
    let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok();
    Some((number("memory.max")?, number("memory.current")?))
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{Flock, FlockArg};

    use super::*;

    #[test]
    fn a_lock_is_seen_while_it_is_held() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let file = fs::File::create(&path).unwrap();
        assert!(!is_locked(&path));
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
        assert!(is_locked(&path));
        drop(held);
        assert!(!is_locked(&path) && !is_locked(Path::new("/nonexistent")));
    }

    #[test]
    fn locks_of_another_kind_or_file_do_not_count() {
        let locks =
            "1: POSIX  ADVISORY  WRITE 1 fe:00:7 0 EOF\n2: FLOCK  ADVISORY  WRITE 811 fe:00:47 0 EOF\n";
        assert!(names_inode(locks, 47));
        assert!(!names_inode(locks, 7));
    }

    #[test]
    fn a_number_that_another_process_has_is_not_the_agents() {
        assert_eq!(process(&std::process::id().to_string()), None);
        assert_eq!(process("x"), None);
    }
}
