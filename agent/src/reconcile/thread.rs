// SPDX-License-Identifier: Apache-2.0
//! The reconciler's thread: the only writer of the kernel's rows and of the ledger.
//!
//! Its own thread because a swap of slot tables waits, in the kernel, for the programs that still use the old ones.
//! Invariant: a newer configuration replaces a waiting older one; none is applied twice.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use nodemesh_abi::{
    LogLevel, Protocol, Settings,
    turn::{ANNOUNCED, SWITCHED},
};
use nodemesh_model::{Desired, access::PrincipalName};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::{
    admission::Admission,
    apply::sweep,
    clients::{self, CgroupTable, Excluded},
    ledger::{Ledger, Room},
    plan::Rejected,
    round::{self, Round},
    view::View,
};
use crate::{
    datapath::{MapWriter, clock, listing::ConnectionLister, maps::MapOpError},
    drain::{Targets, overridden},
};

/// How often retired backends and missing cgroups are looked at, and what failed is tried again.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What the thread is asked to do.
#[derive(Debug)]
pub enum Command {
    /// Make the kernel do this.
    Apply {
        /// What is desired.
        desired: Arc<Desired>,
        /// Number of this configuration.
        generation: u64,
    },
    /// Drain these backends, whatever the configuration says.
    Drain(Targets),
    /// Change the level of the programs' log.
    LogLevel(LogLevel),
    /// Write one of this many finished requests and connections to the access log; 0 for none.
    AccessSample(u32),
    /// Let messages take the shortcut, or not.
    Shortcut(bool),
}

/// The thread's state.
pub struct Reconciler {
    maps: MapWriter,
    ledger: Ledger,
    admission: Admission,
    settings: Settings,
    /// What was written of the settings; `None` if that is not known.
    settings_written: Option<Settings>,
    cgroup_root: PathBuf,
    excluded: Excluded,
    /// What the configuration says.
    configured: Arc<Desired>,
    drained: Targets,
    /// The same with what is drained.
    desired: Arc<Desired>,
    cgroups: CgroupTable,
    /// Whether `cgroups` is what the map holds.
    cgroups_written: bool,
    /// What became of the last configuration.
    round: Round,
    view: View,
    published: watch::Sender<Arc<View>>,
}

impl Reconciler {
    /// Takes over the rows in `maps`, whoever wrote them; `enlist` is the iterator that counts connections where caps are new. Of `settings`, what the configuration says is filled in later.
    pub fn new(
        maps: MapWriter,
        enlist: ConnectionLister,
        settings: Settings,
        cgroup_root: PathBuf,
        excluded: Excluded,
    ) -> Result<(Self, watch::Receiver<Arc<View>>), MapOpError> {
        let backends = maps.backends()?;
        let services = maps.services()?;
        if !services.is_empty() {
            info!(
                services = services.len(),
                backends = backends.len(),
                "adopted the rows of a former agent"
            );
        }
        let room = Room {
            services: maps.service_capacity(),
            backends: maps.backend_capacity(),
            traffic_pairs: maps.traffic_pairs(),
        };
        let endpoints = maps.endpoints()?;
        let flows = maps.flow_services()?;
        let policies = services.iter().map(|(_, row)| row.policy);
        let policies = policies.chain(flows.iter().map(|(_, row)| row.service.policy));
        let policies = policies.chain(endpoints.iter().map(|(_, row)| row.policy));
        let admission = Admission::adopt(&maps, enlist, policies)?;
        let is_first = services.is_empty() && flows.is_empty();
        let mut ledger = Ledger::adopt(room, services, backends, endpoints);
        let tabled = maps.flow_tables()?.unwrap_or_else(|| {
            // Any may have one: each is emptied with the next change of its service.
            let ids = if is_first { 0 } else { maps.service_capacity() };
            (0..ids).collect()
        });
        ledger.adopt_flows(flows, tabled);
        let (published, receiver) = watch::channel(Arc::default());
        let reconciler = Self {
            maps,
            ledger,
            admission,
            settings,
            settings_written: None,
            cgroup_root,
            excluded,
            configured: Arc::default(),
            drained: Targets::default(),
            desired: Arc::default(),
            cgroups: CgroupTable::default(),
            cgroups_written: false,
            round: Round::default(),
            view: View::default(),
            published,
        };
        Ok((reconciler, receiver))
    }

    /// Applies the first configuration, before the programs are attached.
    pub fn start(&mut self, desired: Arc<Desired>, generation: u64, log_level: LogLevel) {
        self.settings.log_level = log_level as u32;
        self.configured = desired;
        self.view.generation = generation;
        self.reconcile();
    }

    /// Drains `targets` from the first configuration on.
    pub fn drain(&mut self, targets: Targets) {
        self.drained = targets;
    }

    /// Waits for a first configuration that is yet to come: what a former agent left goes on as it is.
    pub fn wait(&mut self, log_level: LogLevel) {
        self.settings.log_level = log_level as u32;
        match self.maps.settings() {
            Ok(former) => {
                self.settings.udp_services = former.udp_services;
                self.settings.cgroup_depths = former.cgroup_depths;
            }
            Err(error) => warn!(%error, "could not read the settings of a former agent"),
        }
        self.sync_settings();
    }

    /// Tells the programs at tracepoints that others are about to be put in force, so that no event is counted by both.
    pub fn announce_switch(&mut self) -> Result<(), String> {
        self.put_epoch(self.settings.epoch | ANNOUNCED)?;
        self.maps.await_programs();
        Ok(())
    }

    /// Puts the programs of this epoch at tracepoints in force, in one step.
    pub fn put_in_force(&mut self, epoch: u32) -> Result<(), String> {
        if self.settings.epoch & ANNOUNCED != 0 {
            self.put_epoch(epoch | SWITCHED)?;
            self.maps.await_programs();
        }
        self.put_epoch(epoch)
    }

    fn put_epoch(&mut self, epoch: u32) -> Result<(), String> {
        self.settings.epoch = epoch;
        self.sync_settings();
        let is_written = self.settings_written.is_some();
        is_written
            .then_some(())
            .ok_or_else(|| "the settings could not be written".to_owned())
    }

    /// Serves commands until the sender is gone.
    pub fn run(mut self, commands: &mpsc::Receiver<Command>) {
        let mut next_sweep = Instant::now() + SWEEP_INTERVAL;
        loop {
            match commands.recv_timeout(next_sweep.saturating_duration_since(Instant::now())) {
                Ok(command) => self.serve(command, commands),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.finish(),
            }
            // By the clock, not when the commands pause: a configuration that changes all the time must not hold it up.
            if Instant::now() >= next_sweep {
                self.sweep();
                next_sweep = Instant::now() + SWEEP_INTERVAL;
            }
        }
    }

    /// Serves a command and those behind it, skipping configurations that are already superseded.
    fn serve(&mut self, command: Command, commands: &mpsc::Receiver<Command>) {
        let (mut newest, mut drained) = (None, None);
        let waiting = std::iter::once(command).chain(std::iter::from_fn(|| commands.try_recv().ok()));
        for command in waiting.collect::<Vec<_>>() {
            match command {
                Command::Apply { desired, generation } => newest = Some((desired, generation)),
                Command::Drain(targets) => drained = Some(targets),
                Command::LogLevel(level) => self.change_log_level(level),
                Command::AccessSample(sample) => {
                    self.settings.access_sample = sample;
                    self.sync_settings();
                }
                Command::Shortcut(on) => {
                    self.settings.shortcut = Settings::shortcut(on);
                    self.sync_settings();
                }
            }
        }
        let is_drained_anew = drained.is_some();
        if let Some(targets) = drained {
            self.drained = targets;
        }
        if let Some((desired, generation)) = newest {
            self.configured = desired;
            let is_first = self.view.generation == 0;
            self.view.generation = generation;
            self.reconcile();
            if is_first {
                info!(generation, "ready");
            }
        } else if is_drained_anew && self.view.generation != 0 {
            self.reconcile();
        }
    }

    fn reconcile(&mut self) {
        let started = Instant::now();
        self.desired = overridden(&self.configured, &self.drained);
        // The datagram hooks are switched on before the first UDP service is there and off after the last one is gone.
        let udp_services = udp_services(&self.desired);
        self.settings.udp_services = self.settings.udp_services.max(udp_services);
        let mut errors = self
            .admission
            .prepare(&self.desired, clock::monotonic_ns(), &mut self.maps);
        self.sync_cgroups();
        self.sync_settings();
        let assigned = self.admission.assigned();
        self.round = round::run(&mut self.ledger, &self.desired, assigned, &mut self.maps);
        if errors.is_empty() && !self.round.is_unfinished() {
            errors = self.admission.finish(&self.desired, &mut self.maps);
        }
        self.round.left_over.append(&mut errors);
        self.settings.udp_services = udp_services;
        self.sync_settings();
        report(&self.round);
        info!(
            generation = self.view.generation,
            writes = self.round.writes,
            removals = self.round.removals,
            elapsed_us = started.elapsed().as_micros() as u64,
            "reconciled"
        );
        self.publish();
    }

    fn publish(&mut self) {
        let (failures, clients) = (&self.round.failures, &self.desired.clients);
        self.view = View {
            generation: self.view.generation,
            rejected: self.round.rejected.clone(),
            failed: failures
                .iter()
                .map(|(name, error)| (name.clone(), error.to_string()))
                .collect(),
            workloads: clients
                .iter()
                .map(|(name, client)| (client.workload, name.clone()))
                .collect(),
            identities: self.identities(),
            principals: self
                .admission
                .identities()
                .map(|(number, name)| (number, name.clone()))
                .collect(),
            desired: Arc::clone(&self.desired),
            drained: Arc::clone(&self.drained),
            cgroups_missing: self.cgroups.missing.clone(),
            ..View::of(&self.ledger)
        };
        self.published.send_replace(Arc::new(self.view.clone()));
    }

    fn identities(&self) -> HashMap<u32, Arc<str>> {
        let name_of = |name: &PrincipalName| {
            let principal = self.desired.principals.get(name);
            let workload = principal.and_then(|principal| principal.workloads().next());
            match (name, workload) {
                (PrincipalName::Workload(_), Some(workload)) => Arc::clone(&workload.identity),
                _ => name.to_string().into(),
            }
        };
        let identities = self.admission.identities();
        identities.map(|(number, name)| (number, name_of(name))).collect()
    }

    /// Frees what has become idle, and tries again what failed or found no room.
    fn sweep(&mut self) {
        if self.view.generation == 0 {
            return self.sync_settings();
        }
        let freed = sweep(&mut self.ledger, &mut self.maps);
        if freed > 0 {
            debug!(freed, "freed backends and services without sockets");
        }
        let has_room = freed > 0 && !self.round.rejected.is_empty();
        if self.round.is_unfinished() || has_room {
            return self.reconcile();
        }
        let changed = self.sync_cgroups();
        self.sync_settings();
        if changed || freed > 0 {
            self.publish();
        }
    }

    /// Writes the differences of the `cgroups` map; true if there were any.
    fn sync_cgroups(&mut self) -> bool {
        let identity_of = |name: &PrincipalName| self.admission.identity(name);
        let table = clients::resolve(&self.cgroup_root, &self.desired, &self.excluded, identity_of);
        if self.cgroups_written && self.cgroups == table {
            return false;
        }
        self.cgroups = table;
        let written = self.write_cgroups();
        self.cgroups_written = written.is_ok();
        if let Err(error) = written {
            error!(%error, "could not write what is configured for cgroups; trying again");
        }
        true
    }

    /// Writes every entry before the settings that have it looked up; the first of several errors is the result.
    fn write_cgroups(&mut self) -> Result<(), MapOpError> {
        let former = self.maps.cgroups();
        let mut result = Ok(());
        for (id, entry) in &self.cgroups.entries {
            result = result.and(self.maps.put_cgroup(*id, entry));
        }
        self.settings.cgroup_depths = self.cgroups.depths;
        self.sync_settings();
        for (id, _) in former?
            .iter()
            .filter(|(id, _)| !self.cgroups.entries.contains_key(id))
        {
            result = result.and(self.maps.delete_cgroup(*id));
        }
        result
    }

    /// Writes the settings if they are not what the kernel has; a failure is tried again by the next sweep.
    fn sync_settings(&mut self) {
        if self.settings_written == Some(self.settings) {
            return;
        }
        let written = self.maps.put_settings(&self.settings);
        self.settings_written = written.is_ok().then_some(self.settings);
        if let Err(error) = written {
            error!(%error, "could not write the settings of the programs; trying again");
        }
    }

    fn change_log_level(&mut self, level: LogLevel) {
        self.settings.log_level = level as u32;
        self.sync_settings();
    }

    /// The agent goes: its process id means nothing any more and nobody reads the programs' logs.
    fn finish(mut self) {
        self.settings.agent_tgid = 0;
        self.settings.log_level = LogLevel::Off as u32;
        self.settings.access_sample = 0;
        if let Err(error) = self.maps.put_settings(&self.settings) {
            warn!(%error, "could not write the settings for the time without an agent");
        }
    }
}

fn udp_services(desired: &Desired) -> u32 {
    let udp = desired
        .frontends
        .keys()
        .filter(|name| name.protocol == Protocol::Udp);
    udp.count() as u32
}

fn report(round: &Round) {
    for Rejected {
        frontend,
        map,
        capacity,
    } in &round.rejected
    {
        warn!(%frontend, map, capacity, "no room: a new frontend is left out, another keeps the backends that it had; raise the capacity with --max-{map}");
    }
    for (frontend, error) in &round.failures {
        error!(%frontend, %error, "could not program a frontend; trying again");
    }
    for error in &round.left_over {
        warn!(%error, "a row is not up to date; trying again");
    }
}
