// SPDX-License-Identifier: Apache-2.0
//! The file source: reads resources from a YAML file or a directory of them, and again when they change.
//!
//! ```text
//! inotify ─► watch ─► files (parse what changed) ─► Resources ─► Desired ─► reconciler
//!                          └── invalid: the last good state stays, the errors are published
//! ```
//!
//! Owned by one task. Invariant: a reload either takes effect as a whole or not at all.

pub mod files;
pub mod watch;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Instant, SystemTime},
};

use nodemesh_model::{Desired, Locality, Resources};
use tokio::sync::watch as channel;
use tracing::{debug, error, info, warn};

use files::ManifestFiles;

/// What became of the configuration.
#[derive(Clone, Debug)]
pub struct SourceStatus {
    /// Where it comes from.
    pub path: PathBuf,
    /// Number of configurations that took effect.
    pub generation: u64,
    /// When the one in force was loaded.
    pub loaded_at: SystemTime,
    /// When a reload was last tried, with whatever outcome.
    pub tried_at: SystemTime,
    /// Errors of the last reload; empty if it took effect.
    pub errors: Vec<String>,
    /// What is odd about the configuration in force.
    pub warnings: Vec<String>,
    /// Reloads that took effect.
    pub reloads_ok: u64,
    /// Reloads that did not.
    pub reloads_failed: u64,
}

/// The source.
#[derive(Debug)]
pub struct Source {
    files: ManifestFiles,
    resources: Resources,
    desired: Arc<Desired>,
    status: SourceStatus,
    published: channel::Sender<Arc<SourceStatus>>,
}

impl Source {
    /// Loads `path` for the first time; an invalid one is an error with a line for each problem.
    pub fn load(path: &Path) -> Result<(Self, channel::Receiver<Arc<SourceStatus>>), Vec<String>> {
        let mut files = ManifestFiles::new(path);
        let resources = files.read(&BTreeSet::new())?.unwrap_or_default();
        let desired = Arc::new(
            Desired::compile(&resources, &Locality::default(), None)
                .map_err(|error| vec![error.to_string()])?,
        );
        let now = SystemTime::now();
        let status = SourceStatus {
            path: path.into(),
            generation: 1,
            loaded_at: now,
            tried_at: now,
            errors: Vec::new(),
            warnings: warnings(&resources),
            reloads_ok: 1,
            reloads_failed: 0,
        };
        let (published, receiver) = channel::channel(Arc::new(status.clone()));
        Ok((
            Self {
                files,
                resources,
                desired,
                status,
                published,
            },
            receiver,
        ))
    }

    /// What is desired now, and its generation.
    pub fn desired(&self) -> (Arc<Desired>, u64) {
        (self.desired.clone(), self.status.generation)
    }

    /// Where the configuration comes from.
    pub fn path(&self) -> &Path {
        &self.status.path
    }

    /// Reads what changed, except what is `unfinished`; true if there is a new [`Source::desired`].
    pub fn reload(&mut self, unfinished: &BTreeSet<PathBuf>) -> bool {
        let tried_at = SystemTime::now();
        let started = Instant::now();
        let outcome = match self.files.read(unfinished) {
            Ok(None) => return false,
            Ok(Some(resources)) => {
                debug!(
                    elapsed_us = started.elapsed().as_micros() as u64,
                    "read what changed"
                );
                let previous = Some((&self.resources, &*self.desired));
                Desired::compile(&resources, &Locality::default(), previous)
                    .map(|desired| (resources, desired))
                    .map_err(|error| vec![error.to_string()])
            }
            Err(errors) => Err(errors),
        };
        debug!(elapsed_us = started.elapsed().as_micros() as u64, "compiled");
        self.status.tried_at = tried_at;
        match outcome {
            Ok((resources, desired)) => self.accept(resources, desired),
            Err(errors) => self.refuse(errors),
        }
        self.published.send_replace(Arc::new(self.status.clone()));
        self.status.errors.is_empty()
    }

    fn accept(&mut self, resources: Resources, desired: Desired) {
        self.status.warnings = warnings(&resources);
        self.resources = resources;
        self.desired = Arc::new(desired);
        self.status.generation += 1;
        self.status.loaded_at = self.status.tried_at;
        self.status.reloads_ok += 1;
        self.status.errors.clear();
        info!(
            generation = self.status.generation,
            frontends = self.desired.frontends.len(),
            "configuration loaded"
        );
        for warning in &self.status.warnings {
            warn!("{warning}");
        }
    }

    fn refuse(&mut self, errors: Vec<String>) {
        self.status.reloads_failed += 1;
        error!(
            generation = self.status.generation,
            errors = errors.len(),
            "configuration is invalid; the last good one stays in force"
        );
        for line in &errors {
            error!("{line}");
        }
        self.status.errors = errors;
    }
}

fn warnings(resources: &Resources) -> Vec<String> {
    resources.warnings().iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests;
