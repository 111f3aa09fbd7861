// SPDX-License-Identifier: Apache-2.0
//! Adoption: connections that backends of this node had accepted before there was a meter get their records. Called once by
//! `app`, after the programs are attached.
//!
//! ```text
//! cgroup is the root ─► iterator `adopt` over all processes
//! cgroup is a subtree ─► its cgroup.procs ─► iterator `adopt` over each process (Linux 6.1)
//! ```
//!
//! Invariant: what is adopted is what the attached programs would have seen being accepted, as far as the kernel lets the
//! iterator be narrowed.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::programs::ProgramFd;
use nix::errno::Errno;
use nodemesh_abi::{ListedConnection, Vantage, meter::MeterFlags};
use tracing::{info, warn};

use super::{
    clock::monotonic_ns,
    host::INITIAL_PID_NAMESPACE,
    listing::{self, ConnectionLister, ListError},
    sys,
};

/// Why connections could not be adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The processes of the cgroup could not be found.
    #[error("read the processes of the cgroup {path}: {cause}")]
    Processes {
        /// The cgroup.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// The iterator could not be run.
    #[error("iterate over the open files of {whose}: {cause}")]
    Files {
        /// Of which processes.
        whose: String,
        /// Why not.
        cause: io::Error,
    },
    /// What was adopted could not be counted.
    #[error(transparent)]
    Count(#[from] ListError),
}

/// Runs `program` over the open files of the processes in `cgroup` and below it, as far as this process can see them; returns
/// how many connections got a record.
pub fn adopt(program: &ProgramFd, cgroup: &Path, lister: &ConnectionLister) -> Result<u64, AdoptError> {
    let since = monotonic_ns();
    if fs::read_link("/proc/self/ns/pid").is_ok_and(|own| own != Path::new(INITIAL_PID_NAMESPACE)) {
        warn!(
            "connections of other containers cannot be adopted from within a pid namespace; run the agent with hostPID"
        );
    }
    if is_root(cgroup) {
        adopt_all(program.as_fd())?;
    } else {
        adopt_of(program.as_fd(), &processes(cgroup)?)?;
    }
    let mut adopted = 0;
    lister.scan(|listed| adopted += u64::from(is_adopted(listed, since)))?;
    Ok(adopted)
}

/// Whether [`adopt`] made this record, at `since` or later (nanoseconds of `CLOCK_MONOTONIC`).
fn is_adopted(listed: &ListedConnection, since: u64) -> bool {
    let connection = &listed.connection;
    connection.meter.vantage == Vantage::Server as u8
        && connection.opened_ns >= since
        // The first request that is seen turns the one flag into the other.
        && connection.meter.flags & (MeterFlags::ADOPTED | MeterFlags::UNTIMED) != 0
}

/// The root of the hierarchy is the only cgroup without a type.
fn is_root(cgroup: &Path) -> bool {
    !cgroup.join("cgroup.type").exists()
}

/// Process ids, in this process' namespace, in `cgroup` and everything below it.
fn processes(cgroup: &Path) -> Result<BTreeSet<u32>, AdoptError> {
    let mut found = BTreeSet::new();
    let mut folders = vec![cgroup.to_owned()];
    while let Some(folder) = folders.pop() {
        let listed = fs::read_to_string(folder.join("cgroup.procs")).and_then(|ids| {
            // A process of another pid namespace is listed as 0.
            found.extend(
                ids.lines()
                    .filter_map(|id| id.parse::<u32>().ok())
                    .filter(|id| *id != 0),
            );
            let entries = fs::read_dir(&folder)?;
            let below = entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            folders.extend(below.map(|entry| entry.path()));
            Ok(())
        });
        match listed {
            Err(cause) if folder == cgroup || !is_passed_over(&cause) => {
                return Err(AdoptError::Processes { path: folder, cause });
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Whether reading a cgroup failed because it has gone, or because it is threaded: its processes are listed above it.
fn is_passed_over(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP))
}

fn adopt_of(program: BorrowedFd<'_>, processes: &BTreeSet<u32>) -> Result<(), AdoptError> {
    for id in processes {
        match sys::iterate_process(program, *id).and_then(run) {
            Ok(()) => {}
            // What a kernel does not know of the iterator's parameters must be zero.
            Err(cause) if cause.raw_os_error() == Some(libc::E2BIG) => {
                info!("before Linux 6.1, connections outside the agent's cgroup are adopted too");
                return adopt_all(program);
            }
            Err(cause) => {
                let whose = format!("process {id}");
                return Err(AdoptError::Files { whose, cause });
            }
        }
    }
    Ok(())
}

fn adopt_all(program: BorrowedFd<'_>) -> Result<(), AdoptError> {
    let all = sys::iterate_all(program).and_then(run);
    all.map_err(|cause| AdoptError::Files {
        whose: "all processes".to_owned(),
        cause,
    })
}

/// Runs an iterator that writes nothing: its first read goes to the end.
fn run(mut output: File) -> io::Result<()> {
    while listing::read(&mut output, &mut [0; 64])? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_a_subtree_are_found_once_and_those_elsewhere_not_named() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("pod/container");
        fs::create_dir_all(&inner).unwrap();
        for (folder, ids) in [
            (root.path(), "7\n0\n"),
            (&*root.path().join("pod"), ""),
            (&*inner, "7\n31\n0\n"),
        ] {
            fs::write(folder.join("cgroup.procs"), ids).unwrap();
        }
        assert_eq!(processes(root.path()).unwrap(), BTreeSet::from([7, 31]));
        fs::remove_file(inner.join("cgroup.procs")).unwrap();
        assert_eq!(
            processes(root.path()).unwrap(),
            BTreeSet::from([7]),
            "a cgroup that has gone is no error"
        );
        let error = processes(&root.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("none: No such file"), "{error}");
    }

    #[test]
    fn only_the_root_of_the_hierarchy_has_no_type() {
        let folder = tempfile::tempdir().unwrap();
        assert!(is_root(folder.path()));
        fs::write(folder.path().join("cgroup.type"), "domain\n").unwrap();
        assert!(!is_root(folder.path()));
    }
}
