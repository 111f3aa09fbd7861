// SPDX-License-Identifier: Apache-2.0
//! `nodemesh cleanup`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Args;

use super::table;
use crate::{
    config::ADMIN_SOCKET,
    datapath::{
        PinRoot,
        pins::{DEFAULT_PIN_DIR, remove_if_empty},
    },
    lock::AgentLock,
    shortcut::{gate, leave::leave},
};

/// Arguments of `nodemesh cleanup`.
#[derive(Args, Debug)]
pub(super) struct Cleanup {
    /// Folder of the agent's maps and links.
    #[arg(long, env = "NODEMESH_PIN_DIR", value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
    pin_dir: PathBuf,
}

impl Cleanup {
    pub(super) fn run(&self, run_dir: &Path) -> Result<()> {
        let lock = AgentLock::acquire(run_dir).context("cannot clean up")?;
        let pins = PinRoot::new(&self.pin_dir);
        match leave(&pins) {
            Ok(0) => {}
            Ok(left) => eprintln!(
                "{left} sockets have unread bytes from the shortcut: they keep the program and the map of these until they are closed"
            ),
            Err(error) => {
                eprintln!("connections may keep the programs of the shortcut until they are closed: {error}");
            }
        }
        let removed = pins
            .remove_all()
            .with_context(|| format!("remove {}", self.pin_dir.display()))?;
        remove_run_dir(run_dir, lock).with_context(|| format!("clean up {}", run_dir.display()))?;
        table::print(&format!(
            "removed {removed} pinned maps and links below {} and {}; open connections live on, new ones are not placed",
            self.pin_dir.display(),
            run_dir.display()
        ))
    }
}

/// Removes the agent's files, and the folder if it holds nothing else.
fn remove_run_dir(run_dir: &Path, lock: AgentLock) -> io::Result<()> {
    for name in [ADMIN_SOCKET, gate::FILE] {
        match fs::remove_file(run_dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    lock.remove()?;
    remove_if_empty(run_dir)
}
