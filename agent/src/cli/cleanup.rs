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
    datapath::{PinRoot, pins::DEFAULT_PIN_DIR},
    lock::AgentLock,
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
        let removed = pins
            .remove_all()
            .with_context(|| format!("remove {}", self.pin_dir.display()))?;
        match fs::remove_dir_all(run_dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", run_dir.display()));
            }
            _ => {}
        }
        drop(lock);
        table::print(&format!(
            "removed {removed} pinned maps and links below {} and {}; open connections live on, new ones are not placed",
            self.pin_dir.display(),
            run_dir.display()
        ))
    }
}
