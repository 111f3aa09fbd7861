// SPDX-License-Identifier: Apache-2.0
//! One agent per run directory: a lock file that holds the pid of its owner.
//!
//! The kernel drops the lock when the process ends, however it ends. Invariant: who holds the lock holds it on the file that
//! the path names; one that `cleanup` removed in between does not count.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// Name of the lock file in the run directory.
pub const LOCK_FILE: &str = "agent.lock";

/// The lock, held until it is dropped.
#[derive(Debug)]
pub struct AgentLock {
    file: Flock<File>,
    path: PathBuf,
}

/// Why the lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error(
        "another agent runs on this node with pid {pid} (lock {path}); stop it first, or give this one its own --run-dir, --pin-dir and --cgroup"
    )]
    Held {
        /// The other's pid, as it wrote it.
        pid: String,
        /// The lock file.
        path: PathBuf,
    },
    /// The file cannot be used.
    #[error("{op} {path}: {cause}; --run-dir must name a folder that the agent may write to")]
    Io {
        /// What was done.
        op: &'static str,
        /// To what.
        path: PathBuf,
        /// With which result.
        cause: io::Error,
    },
}

impl AgentLock {
    /// Takes the lock of `run_dir`, which is created if it is not there.
    pub fn acquire(run_dir: &Path) -> Result<Self, LockError> {
        let path = run_dir.join(LOCK_FILE);
        loop {
            fs::create_dir_all(run_dir).map_err(failed("create the folder of", &path))?;
            let mut file = lock(&path)?;
            if !is_at(&file, &path) {
                continue;
            }
            let pid = std::process::id();
            let written = file
                .set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| writeln!(file, "{pid}"));
            written.map_err(failed("write", &path))?;
            return Ok(Self { file, path });
        }
    }

    /// Removes the file and gives the lock up.
    pub fn remove(self) -> io::Result<()> {
        let Self { file, path } = self;
        fs::remove_file(path)?;
        drop(file);
        Ok(())
    }
}

fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LockError {
    let path = path.to_owned();
    move |cause| LockError::Io { op, path, cause }
}

fn lock(path: &Path) -> Result<Flock<File>, LockError> {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed("open", path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => Ok(file),
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(failed("read", path))?;
            Err(LockError::Held {
                pid: pid.trim().to_owned(),
                path: path.into(),
            })
        }
        Err((_, errno)) => Err(failed("lock", path)(errno.into())),
    }
}

/// Whether `path` still names `file`.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_learns_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = AgentLock::acquire(dir.path()).unwrap();
        let error = AgentLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        AgentLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn a_lock_on_a_removed_file_is_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.lock");
        AgentLock::acquire(dir.path()).unwrap().remove().unwrap();
        assert!(!path.exists());
        let stale = File::create(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!is_at(&stale, &path));
        let held = AgentLock::acquire(dir.path()).unwrap();
        assert!(is_at(&held.file, &path) && !is_at(&stale, &path));
    }
}
