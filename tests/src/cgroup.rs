// SPDX-License-Identifier: Apache-2.0
//! Cgroups: a private subtree per topology, a cgroup per node and pod below it. Removed when dropped, with every process
//! that is still in it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::eventually::wait_until;

/// A cgroup of version 2.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Creates the cgroup `name` below `parent`.
    pub fn create(parent: &Path, name: &str) -> Result<Self> {
        let path = parent.join(name);
        fs::create_dir(&path).with_context(|| format!("create the cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("cannot remove the cgroup {}: {error:#}", self.path.display());
        }
    }
}

/// Ends every process in the subtree `path` and removes it.
pub(crate) fn remove(path: &Path) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    if !path.exists() {
        return Ok(());
    }
    // Linux 5.14: kills the subtree as a whole, so that nothing can fork away.
    fs::write(path.join("cgroup.kill"), "1").context("kill its processes")?;
    let empty =
        || fs::read_to_string(path.join("cgroup.events")).is_ok_and(|events| events.contains("populated 0"));
    wait_until(PATIENCE, empty).context("wait for its processes to end")?;
    remove_folders(path)
}

fn remove_folders(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_folders(&entry.path())?;
        }
    }
    fs::remove_dir(path).with_context(|| format!("remove {}", path.display()))
}
