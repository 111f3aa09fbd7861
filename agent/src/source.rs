// SPDX-License-Identifier: Apache-2.0
//! Where the configuration comes from: YAML files of this node, or a control plane. Either way it becomes resources, these become
//! what is desired, and that goes to the reconciler.
//!
//! ```text
//! local   (inotify ─► watch ─► files) ──┐
//!                                       ├─► Resources ─► InForce ─► Desired ─► reconciler
//! control (snapshot file, xds::stream) ─┘                  └─► SourceStatus ─► admin, metrics
//! ```
//!
//! Owned by one task. Invariant: a change either takes effect as a whole or not at all; what is invalid leaves the last good
//! state in force.

pub mod control;
pub mod files;
pub mod host;
pub mod input;
pub mod local;
pub mod snapshot;
pub mod watch;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use nodemesh_model::{Desired, Locality, NodeAccess, Resources};
use tokio::sync::watch as channel;
use tracing::{error, info, warn};

pub use control::ControlStatus;

/// What became of the configuration.
#[derive(Clone, Debug)]
pub struct SourceStatus {
    /// Where it comes from: the path of the files, or the URLs of the control plane.
    pub origin: String,
    /// Number of configurations that took effect; 0 while there is none yet.
    pub generation: u64,
    /// When the one in force was loaded; the epoch before the first.
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
    /// The connection to the control plane; `None` with files.
    pub control: Option<ControlStatus>,
}

impl SourceStatus {
    /// Before anything was loaded from `origin`.
    pub fn new(origin: String) -> Self {
        Self {
            origin,
            generation: 0,
            loaded_at: UNIX_EPOCH,
            tried_at: UNIX_EPOCH,
            errors: Vec::new(),
            warnings: Vec::new(),
            reloads_ok: 0,
            reloads_failed: 0,
            control: None,
        }
    }

    /// Why the kernel has no configuration yet.
    pub fn why_not_yet(&self) -> String {
        match &self.control {
            Some(control) if self.generation == 0 => control.why_not_yet(&self.origin),
            _ => "the configuration has not reached the kernel yet".to_owned(),
        }
    }
}

/// What is sent to the reconciler: what is desired, and its generation.
pub type Version = (Arc<Desired>, u64);

/// The configuration in force, and its published status.
#[derive(Debug)]
struct InForce {
    /// Where this node is, as its operator says.
    node: Locality,
    /// Where it is, as `desired` was compiled for.
    place: Locality,
    /// The node as a client.
    access: NodeAccess,
    /// With `access`.
    resources: Resources,
    desired: Arc<Desired>,
    status: SourceStatus,
    published: channel::Sender<Arc<SourceStatus>>,
}

impl InForce {
    /// None yet.
    fn new(status: SourceStatus, node: Locality) -> Self {
        Self {
            place: node.clone(),
            node,
            access: NodeAccess::new(host::addresses()),
            resources: Resources::default(),
            desired: Arc::default(),
            published: channel::Sender::new(Arc::new(status.clone())),
            status,
        }
    }

    fn version(&self) -> Version {
        (self.desired.clone(), self.status.generation)
    }

    fn publish(&self) {
        self.published.send_replace(Arc::new(self.status.clone()));
    }

    /// What is in force, as it was configured.
    fn configured(&self) -> Resources {
        let mut resources = self.resources.clone();
        resources.remove_node(&self.access);
        resources
    }

    /// Where this node is: as its operator says, else as the workloads that run on it say, which a cluster knows of its nodes.
    fn place_in(&self, resources: &Resources) -> Locality {
        let own = &self.node;
        if own.region.is_some() || own.zone.is_some() {
            return own.clone();
        }
        let workloads = resources.workloads().values();
        workloads
            .filter_map(|workload| workload.locality.as_deref())
            .find(|place| place.node.is_some() && place.node == own.node && place.zone.is_some())
            .map_or_else(|| own.clone(), Locality::clone)
    }

    /// Compiles anew what is in force if this node has other addresses than before; whether it has.
    fn follow_addresses(&mut self) -> bool {
        let addresses = host::addresses();
        if self.access.addresses() == addresses {
            return false;
        }
        let mut resources = self.configured();
        let former = std::mem::replace(&mut self.access, NodeAccess::new(addresses));
        if resources.access_policies().is_empty() {
            return false;
        }
        resources.add_node(&self.access);
        let previous = (self.status.generation > 0).then_some((&self.resources, &*self.desired));
        match Desired::compile(&resources, &self.place, previous) {
            Ok(desired) if previous.is_some() => {
                self.desired = Arc::new(desired);
                self.resources = resources;
                self.status.generation += 1;
                info!(
                    generation = self.status.generation,
                    addresses = ?self.access.addresses(),
                    "the addresses of this node are others than before"
                );
                true
            }
            Ok(_) => false,
            Err(error) => {
                warn!(%error, "the policies do not know the new addresses of this node");
                self.access = former;
                false
            }
        }
    }

    /// Puts `resources` in force, with their own warnings after those of `warnings`.
    fn accept(&mut self, mut resources: Resources, mut warnings: Vec<String>) -> Result<(), Vec<String>> {
        let place = self.place_in(&resources);
        let is_comparable = self.status.generation > 0 && place == self.place;
        let previous = is_comparable.then_some((&self.resources, &*self.desired));
        resources.add_node(&self.access);
        let desired =
            Desired::compile(&resources, &place, previous).map_err(|error| vec![error.to_string()])?;
        if place != self.place {
            info!(region = ?place.region, zone = ?place.zone, "this node is where its workloads are");
            self.place = place;
        }
        warnings.extend(resources.warnings().iter().map(ToString::to_string));
        self.resources = resources;
        self.desired = Arc::new(desired);
        let status = &mut self.status;
        status.generation += 1;
        status.loaded_at = status.tried_at;
        status.reloads_ok += 1;
        status.errors.clear();
        info!(
            generation = status.generation,
            frontends = self.desired.frontends.len(),
            "configuration loaded"
        );
        for warning in warnings
            .iter()
            .filter(|warning| !status.warnings.contains(warning))
        {
            warn!("{warning}");
        }
        status.warnings = warnings;
        Ok(())
    }

    /// Notes why the configuration in force stays.
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
