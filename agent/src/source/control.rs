// SPDX-License-Identifier: Apache-2.0
//! The control plane as a source: what the xDS client took, assembled into resources; and the last good state on disk, from which
//! the agent starts without a control plane. Owned by the task of `xds::link`.
//!
//! Invariant: the state in force is replaced only by a complete one: not before the control plane has said which services there
//! are, and not, for [`PATIENCE`], while services wait for their endpoints.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nodemesh_model::{Kind, Locality, Manifest, Resource, ResourceName, Resources, Service};
use nodemesh_proto::{Assembled, Received, Rejected, type_url};
use tokio::sync::watch as channel;
use tracing::{info, warn};

use super::{
    InForce, SourceStatus, Version,
    snapshot::{SnapshotError, SnapshotFile},
};
use crate::xds::{
    saver::{SavedAt, Saver},
    session::{Session, Taken},
};

/// How long the first state may wait for endpoints that are announced and do not come; Envoy's default for the same.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// What is told while policies of the disk are in force.
const GUARDS_KEPT: &str = "the control plane has not said which access policies and workloads there are: those of the state on disk hold";
/// Most complaints of a kind that are kept as text; the others are counted.
const MOST_LISTED: usize = 50;
/// Generations whose version is remembered: more than can be on their way to the kernel.
const VERSIONS: usize = 64;

/// The connection to the control plane, and what came over it.
#[derive(Clone, Debug)]
pub struct ControlStatus {
    /// The control plane that this agent is connected to.
    pub connected: Option<String>,
    /// Since when it is connected, or not connected.
    pub since: SystemTime,
    /// Why the last connection ended, or why there is none.
    pub error: Option<String>,
    /// The control plane's version of the state in force.
    pub version: String,
    /// Whether the state in force is the one that was on disk at the start.
    pub is_snapshot: bool,
    /// When something was last received; the epoch before that.
    pub updated_at: SystemTime,
    /// When the state was last written to disk.
    pub saved_at: SavedAt,
    /// Connections that were opened.
    pub connections: u64,
    /// Responses that were refused, in part or as a whole.
    pub nacks: u64,
    /// What is refused at this time, at most `MOST_LISTED` and a line about the others.
    pub rejected: Complaints,
    /// Fields without effect, in the same way.
    pub unsupported: Complaints,
    /// Services that wait for something, in the same way.
    pub waiting: Complaints,
    /// The versions of the last generations.
    versions: VecDeque<(u64, String)>,
}

/// Lines about one thing, and how many there would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Complaints {
    /// The first of them.
    pub listed: Vec<String>,
    /// All of them.
    pub count: usize,
}

impl Complaints {
    fn collect<T: ToString>(all: impl IntoIterator<Item = T>) -> Self {
        let mut complaints = Self::default();
        for one in all {
            if complaints.listed.len() < MOST_LISTED {
                complaints.listed.push(one.to_string());
            }
            complaints.count += 1;
        }
        complaints
    }

    /// The lines, and one about those that are left out.
    pub fn lines(&self) -> impl Iterator<Item = String> + use<'_> {
        let more = self.count - self.listed.len();
        let rest = (more > 0).then(|| format!("and {more} more"));
        self.listed.iter().cloned().chain(rest)
    }
}

impl Default for ControlStatus {
    /// Not connected yet.
    fn default() -> Self {
        Self {
            connected: None,
            since: SystemTime::now(),
            error: None,
            version: String::new(),
            is_snapshot: false,
            updated_at: UNIX_EPOCH,
            saved_at: SavedAt::default(),
            connections: 0,
            nacks: 0,
            rejected: Complaints::default(),
            unsupported: Complaints::default(),
            waiting: Complaints::default(),
            versions: VecDeque::new(),
        }
    }
}

impl ControlStatus {
    /// Why there is no state of the control plane at `origin` yet.
    pub fn why_not_yet(&self, origin: &str) -> String {
        let why = match (&self.connected, &self.error) {
            (Some(url), _) if self.waiting.count > 0 => {
                let waiting: Vec<String> = self.waiting.lines().collect();
                format!("{url} has not sent everything yet: {}", waiting.join("; "))
            }
            (Some(url), _) => format!("{url} has not sent its state yet"),
            (None, Some(error)) => error.clone(),
            (None, None) => format!("connecting to {origin}"),
        };
        format!("no state of the control plane yet, and none on disk: {why}")
    }

    /// The control plane's version of generation `generation`.
    pub fn version_of(&self, generation: u64) -> &str {
        let mut newest_first = self.versions.iter().rev();
        newest_first
            .find(|(known, _)| *known <= generation)
            .map_or("", |(_, version)| version.as_str())
    }
}

impl Taken for Received {
    fn put(
        &mut self,
        type_url: &'static str,
        name: &str,
        resource: &nodemesh_proto::xds::google::protobuf::Any,
    ) -> Result<(), String> {
        Self::put(self, type_url, name, &resource.value).map_err(|Rejected { field, reason, .. }| {
            if field.is_empty() {
                reason
            } else {
                format!("{field}: {reason}")
            }
        })
    }

    fn remove(&mut self, type_url: &'static str, name: &str) {
        Self::remove(self, type_url, name);
    }

    fn wanted(&self, type_url: &'static str) -> BTreeSet<&str> {
        if type_url == type_url::CLUSTER {
            self.wanted_clusters()
        } else {
            self.wanted_assignments()
        }
    }
}

/// The source.
#[derive(Debug)]
pub struct ControlSource {
    in_force: InForce,
    file: SnapshotFile,
    /// Services of the state that was on disk, in force while the control plane's own wait for something.
    kept: BTreeMap<ResourceName, Arc<Service>>,
    /// The state that is to be on disk.
    to_save: channel::Sender<Option<Saved>>,
}

/// A state for the disk.
#[derive(Clone, Debug)]
pub struct Saved {
    /// The control plane's version of it.
    pub version: String,
    /// The state.
    pub resources: Arc<Resources>,
}

impl ControlSource {
    /// Starts from the state that is in `state_dir`, if there is one; `origin` names the control planes.
    pub fn open(origin: String, state_dir: &Path, node: Locality) -> Result<Self, SnapshotError> {
        let file = SnapshotFile::new(state_dir)?;
        let mut source = Self {
            in_force: InForce::new(
                SourceStatus {
                    control: Some(ControlStatus::default()),
                    ..SourceStatus::new(origin)
                },
                node,
            ),
            file,
            kept: BTreeMap::new(),
            to_save: channel::Sender::new(None),
        };
        source.restore()?;
        source.in_force.publish();
        Ok(source)
    }

    fn restore(&mut self) -> Result<(), SnapshotError> {
        let snapshot = match self.file.read() {
            Err(error @ SnapshotError::Unusable { .. }) => {
                let aside = self.file.set_aside()?;
                warn!(%error, aside = %aside.display(), "the state of the control plane on disk is not used; waiting for the control plane");
                return Ok(());
            }
            read => read?,
        };
        let Some(snapshot) = snapshot else { return Ok(()) };
        info!(
            version = snapshot.version,
            "starting from the control plane's state on disk"
        );
        self.in_force.status.tried_at = SystemTime::now();
        let outcome = self.in_force.accept(snapshot.resources, Vec::new());
        self.settle(outcome, snapshot.version);
        self.control().is_snapshot = true;
        Ok(())
    }

    /// What became of the configuration.
    pub fn status(&self) -> channel::Receiver<Arc<SourceStatus>> {
        self.in_force.published.subscribe()
    }

    /// What is desired now; `None` before the first state.
    pub fn desired(&self) -> Option<Version> {
        (self.in_force.status.generation > 0).then(|| self.in_force.version())
    }

    /// What writes states to disk, to be run by a task of its own.
    pub fn saver(&mut self) -> Saver {
        Saver {
            file: self.file.clone(),
            states: self.to_save.subscribe(),
            saved_at: self.control().saved_at.clone(),
        }
    }

    /// The status, to be changed by `change` and published.
    pub fn note(&mut self, change: impl FnOnce(&mut ControlStatus)) {
        change(self.control());
        self.in_force.publish();
    }

    fn control(&mut self) -> &mut ControlStatus {
        self.in_force.status.control.get_or_insert_default()
    }

    /// Whether the state in force came from the control plane and not from the disk.
    pub fn is_current(&self) -> bool {
        let status = &self.in_force.status;
        status.generation > 0 && !status.control.as_ref().is_some_and(|control| control.is_snapshot)
    }

    /// Puts what `session` holds in force; `None` if it is not complete, or nothing that can be. Unless it `must` be, services that
    /// wait for endpoints hold the first state up.
    pub fn apply(&mut self, session: &mut Session<Received>, must: bool) -> Option<Version> {
        let assembled = session.taken().assemble();
        let is_waiting = assembled
            .incomplete
            .iter()
            .any(|waiting| !session.is_missing(waiting.type_url, &waiting.resource));
        self.describe(session, &assembled);
        self.in_force.status.tried_at = SystemTime::now();
        if !session.is_answered() || (is_waiting && !self.is_current() && !must) {
            self.in_force.publish();
            return None;
        }
        let mut odd: Vec<String> = self.control().unsupported.lines().collect();
        let (services, guards) = (self.keep_services(&assembled), self.keep_guards(session));
        if !guards.is_empty() {
            odd.push(GUARDS_KEPT.to_owned());
        }
        let [services, guards] =
            [services, guards].map(|kept| Manifest::from_values(kept.iter().map(Resource::to_value)));
        let received = ("control plane", &assembled.manifest);
        let outcome = Resources::merge([received, ("disk", &guards), ("disk", &services)])
            .or_else(|_| Resources::merge([received, ("disk", &guards)]))
            .map_err(|invalid| invalid.to_string().lines().map(str::to_owned).collect())
            .and_then(|resources| self.in_force.accept(resources, odd));
        let is_new = outcome.is_ok();
        self.settle(outcome, session.version().to_owned());
        if is_new {
            self.control().is_snapshot = false;
            self.to_save.send_replace(Some(Saved {
                version: session.version().to_owned(),
                resources: Arc::new(self.in_force.configured()),
            }));
        }
        self.in_force.publish();
        is_new.then(|| self.in_force.version())
    }

    /// Follows the addresses of this node; what is desired if they are others than before.
    pub fn follow_addresses(&mut self) -> Option<Version> {
        let is_new = self.in_force.follow_addresses();
        if is_new {
            self.in_force.publish();
        }
        is_new.then(|| self.in_force.version())
    }

    /// Who may connect goes on as it was on disk while the control plane has not said which policies and workloads there are.
    fn keep_guards(&self, session: &Session<Received>) -> Vec<Resource> {
        let former = &self.in_force.resources;
        let is_untold = |type_url| !session.is_type_answered(type_url);
        let mut kept = Vec::new();
        if is_untold(type_url::POLICY_DOCUMENT) {
            let policies = former.access_policies().values().cloned();
            kept.extend(policies.map(Resource::AccessPolicy));
        }
        // Without policies nothing depends on who a client is.
        if is_untold(type_url::WORKLOAD_TABLE) && !former.access_policies().is_empty() {
            kept.extend(former.workloads().values().cloned().map(Resource::Workload));
        }
        kept
    }

    /// The services that go on as they were on disk, since the control plane has announced them and not said all of them.
    fn keep_services(&mut self, assembled: &Assembled) -> Vec<Resource> {
        if self.is_current() && self.kept.is_empty() {
            return Vec::new();
        }
        let waiting = assembled.incomplete.iter().filter_map(|waiting| {
            // As nodemesh's control plane names listeners; those of others are not known by their service.
            let mut parts = waiting.listener.split('/');
            ResourceName::new(parts.next()?, parts.next()?).ok()
        });
        let waiting: BTreeSet<ResourceName> = waiting.collect();
        if !self.is_current() {
            let former = self.in_force.resources.services();
            self.kept = former
                .iter()
                .map(|(name, service)| (name.clone(), Arc::clone(service)))
                .collect();
        }
        self.kept.retain(|name, _| waiting.contains(name));
        for resource in assembled
            .manifest
            .resources()
            .filter(|resource| resource.kind() == Kind::Service)
        {
            self.kept.remove(&resource.metadata().name);
        }
        self.kept.values().cloned().map(Resource::Service).collect()
    }

    fn describe(&mut self, session: &Session<Received>, assembled: &Assembled) {
        let refused = session
            .rejected()
            .map(|(name, reason)| format!("{name}: {reason}"));
        let rejected = Complaints::collect(refused.chain(assembled.rejected.iter().map(ToString::to_string)));
        let waiting = assembled.incomplete.iter();
        let waiting =
            waiting.map(|it| format!("{} waits for {} {:?}", it.listener, it.type_url, it.resource));
        let nacks = session.nacks();
        let control = self.control();
        control.updated_at = SystemTime::now();
        control.nacks = nacks;
        for line in rejected
            .listed
            .iter()
            .filter(|line| !control.rejected.listed.contains(line))
        {
            warn!("refused: {line}");
        }
        control.rejected = rejected;
        control.waiting = Complaints::collect(waiting);
        control.unsupported = Complaints::collect(&assembled.unsupported);
    }

    fn settle(&mut self, outcome: Result<(), Vec<String>>, version: String) {
        if let Err(errors) = outcome {
            return self.in_force.refuse(errors);
        }
        let generation = self.in_force.status.generation;
        let control = self.control();
        control.version.clone_from(&version);
        if control.versions.len() == VERSIONS {
            control.versions.pop_front();
        }
        control.versions.push_back((generation, version));
    }
}

#[cfg(test)]
mod tests;
