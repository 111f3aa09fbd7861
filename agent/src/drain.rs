// SPDX-License-Identifier: Apache-2.0
//! Drains that an operator asks of this node: the backend takes no new connections here, and whoever asked learns when its last byte has
//! left.
//!
//! ```text
//! CLI, HTTP ─► Drains ─► Command::Drain ─► reconciler: overrides (pure) ─► rows
//!                └─► file in the run folder, for the next agent
//! ```
//!
//! A drain is of this node: each node's own clients are told. Invariant: a backend stays drained until that is undone, whatever the
//! configuration says meanwhile and however often the agent restarts.

pub mod left;
pub mod target;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use anyhow::{Context as _, Result};
use nodemesh_model::{BackendState, Desired};
use tracing::warn;

pub use target::DrainTarget;

/// Name of the file in the run folder.
const FILE: &str = "drains.json";

/// What is drained here.
pub type Targets = Arc<BTreeSet<DrainTarget>>;

/// The drains of this node.
#[derive(Debug)]
pub struct Drains {
    path: PathBuf,
    targets: Mutex<Targets>,
}

impl Drains {
    /// Those that a former agent had in `run_dir`.
    pub fn open(run_dir: &Path) -> Self {
        let path = run_dir.join(FILE);
        let targets = read(&path).unwrap_or_else(|error| {
            warn!(
                error = format!("{error:#}"),
                "what was drained is not drained any more"
            );
            BTreeSet::new()
        });
        Self {
            path,
            targets: Mutex::new(Arc::new(targets)),
        }
    }

    /// What is drained.
    pub fn targets(&self) -> Targets {
        Arc::clone(&self.targets.lock().expect("no holder panics"))
    }

    /// Adds `target`, or takes it away if `undo`; returns what is drained now. It is on disk by then.
    pub fn change(&self, target: &DrainTarget, undo: bool) -> Result<Targets> {
        let mut targets = self.targets.lock().expect("no holder panics");
        let mut next = BTreeSet::clone(&targets);
        if undo {
            next.remove(target);
        } else {
            next.insert(target.clone());
        }
        write(&self.path, &next)?;
        *targets = Arc::new(next);
        Ok(Arc::clone(&targets))
    }
}

fn read(path: &Path) -> Result<BTreeSet<DrainTarget>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        text => text.with_context(|| format!("read {}", path.display()))?,
    };
    serde_json::from_str(&text).with_context(|| format!("{} is not what an agent wrote", path.display()))
}

/// Replaces the file as a whole.
fn write(path: &Path, targets: &BTreeSet<DrainTarget>) -> Result<()> {
    let next = path.with_extension("new");
    fs::write(&next, serde_json::to_vec(targets)?)
        .and_then(|()| fs::rename(&next, path))
        .with_context(|| format!("write {}", path.display()))
}

/// What is desired of this node if `targets` are drained. Frontends that have none of them keep their allocation.
pub fn overridden(desired: &Arc<Desired>, targets: &BTreeSet<DrainTarget>) -> Arc<Desired> {
    if targets.is_empty() {
        return Arc::clone(desired);
    }
    let mut next = None;
    for (name, frontend) in &desired.frontends {
        let drained = |backend: &&mut nodemesh_model::FrontendBackend| {
            backend.is_available()
                && targets
                    .iter()
                    .any(|target| target.is(&name.service, backend.into()))
        };
        let mut changed = nodemesh_model::Frontend::clone(frontend);
        let mut count = 0;
        for backend in changed.backends.iter_mut().filter(drained) {
            backend.state = BackendState::Draining;
            count += 1;
        }
        if count > 0 {
            let next = next.get_or_insert_with(|| Desired::clone(desired));
            next.frontends.insert(name.clone(), Arc::new(changed));
        }
    }
    next.map_or_else(|| Arc::clone(desired), Arc::new)
}

#[cfg(test)]
mod tests;
