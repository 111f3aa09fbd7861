// SPDX-License-Identifier: Apache-2.0
//! One agent per run directory: a lock file that holds the pid of its owner.
//!
//! The kernel drops the lock when the process ends, however it ends. Invariant: the file is never removed, so nobody can
//! hold a lock on a file that others do not see.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// The lock, held until it is dropped.
#[derive(Debug)]
pub struct AgentLock {
    _file: Flock<File>,
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
    #[error("{op} {path}: {source}; --run-dir must name a folder that the agent may write to")]
    Io {
        /// What was done.
        op: &'static str,
        /// To what.
        path: PathBuf,
        /// With which result.
        source: io::Error,
    },
}

impl AgentLock {
    /// Takes the lock of `run_dir`, which is created if it is not there.
    pub fn acquire(run_dir: &Path) -> Result<Self, LockError> {
        let path = run_dir.join("agent.lock");
        let failed = |op| {
            let path = path.clone();
            move |source| LockError::Io { op, path, source }
        };
        fs::create_dir_all(run_dir).map_err(failed("create the folder of"))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let mut file = file.map_err(failed("open"))?;
        let mut lock = match Flock::lock(
            file.try_clone().map_err(failed("open"))?,
            FlockArg::LockExclusiveNonblock,
        ) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(failed("read"))?;
                return Err(LockError::Held {
                    pid: pid.trim().to_owned(),
                    path,
                });
            }
            Err((_, errno)) => return Err(failed("lock")(errno.into())),
        };
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .map_err(failed("write"))?;
        writeln!(lock, "{}", std::process::id()).map_err(failed("write"))?;
        Ok(Self { _file: lock })
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
}
