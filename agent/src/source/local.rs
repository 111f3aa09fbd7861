// SPDX-License-Identifier: Apache-2.0
//! The file source: reads resources from a YAML file or a directory of them, and again when they change. Owned by `app`.
//!
//! Invariant: a reload either takes effect as a whole or not at all.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::Arc,
    time::{Instant, SystemTime},
};

use nodemesh_model::Locality;
use tokio::sync::watch as channel;
use tracing::debug;

use super::{InForce, SourceStatus, Version, files::ManifestFiles};

/// The source.
#[derive(Debug)]
pub struct FileSource {
    files: ManifestFiles,
    in_force: InForce,
}

impl FileSource {
    /// Loads `path` for the first time; an invalid one is an error with a line for each problem.
    pub fn load(path: &Path, node: Locality) -> Result<Self, Vec<String>> {
        let mut files = ManifestFiles::new(path);
        let resources = files.read(&BTreeSet::new())?.unwrap_or_default();
        let mut in_force = InForce::new(
            SourceStatus {
                tried_at: SystemTime::now(),
                ..SourceStatus::new(path.display().to_string())
            },
            node,
        );
        in_force.accept(resources, Vec::new())?;
        in_force.publish();
        Ok(Self { files, in_force })
    }

    /// What became of the configuration.
    pub fn status(&self) -> channel::Receiver<Arc<SourceStatus>> {
        self.in_force.published.subscribe()
    }

    /// What is desired now.
    pub fn desired(&self) -> Version {
        self.in_force.version()
    }

    /// Follows the addresses of this node; true if there is a new [`FileSource::desired`].
    pub fn follow_addresses(&mut self) -> bool {
        let is_new = self.in_force.follow_addresses();
        if is_new {
            self.in_force.publish();
        }
        is_new
    }

    /// Reads what changed, except what is `unfinished`; true if there is a new [`FileSource::desired`].
    pub fn reload(&mut self, unfinished: &BTreeSet<std::path::PathBuf>) -> bool {
        let tried_at = SystemTime::now();
        let started = Instant::now();
        let read = match self.files.read(unfinished) {
            Ok(None) => return false,
            Ok(Some(resources)) => Ok(resources),
            Err(errors) => Err(errors),
        };
        debug!(
            elapsed_us = started.elapsed().as_micros() as u64,
            "read what changed"
        );
        self.in_force.status.tried_at = tried_at;
        let outcome = read.and_then(|resources| self.in_force.accept(resources, Vec::new()));
        debug!(elapsed_us = started.elapsed().as_micros() as u64, "compiled");
        let is_new = outcome.is_ok();
        if let Err(errors) = outcome {
            self.in_force.refuse(errors);
        }
        self.in_force.publish();
        is_new
    }
}

#[cfg(test)]
mod tests;
