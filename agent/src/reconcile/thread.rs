// SPDX-License-Identifier: Apache-2.0
//! The reconciler's thread: the only writer of the kernel's rows and of the ledger.
//!
//! Its own thread because a swap of slot tables waits, in the kernel, for the programs that still use the old ones.
//! Invariant: a newer configuration replaces a waiting older one; none is applied twice.

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    time::Duration,
};

use nodemesh_abi::{LogLevel, Settings};
use nodemesh_model::Desired;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::{
    apply::{Failures, apply, sweep},
    clients::{self, CgroupTable},
    ledger::Ledger,
    plan::Rejected,
    view::View,
};
use crate::datapath::{MapWriter, maps::MapOpError};

/// How often retired backends and missing cgroups are looked at.
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
    /// Change the level of the programs' log.
    LogLevel(LogLevel),
}

/// The thread's state.
pub struct Reconciler {
    maps: MapWriter,
    ledger: Ledger,
    settings: Settings,
    cgroup_root: PathBuf,
    excluded: Vec<PathBuf>,
    desired: Arc<Desired>,
    /// What was written of the cgroups; `None` before the first time.
    cgroups: Option<CgroupTable>,
    view: View,
    published: watch::Sender<Arc<View>>,
}

impl Reconciler {
    /// Takes over the rows in `maps`, whoever wrote them.
    pub fn new(
        maps: MapWriter,
        agent_tgid: u32,
        cgroup_root: PathBuf,
        excluded: Vec<PathBuf>,
    ) -> Result<(Self, watch::Receiver<Arc<View>>), MapOpError> {
        let backends = (0..maps.backend_capacity())
            .map(|id| maps.backend(id).map(|row| (id, row)))
            .filter(|row| !matches!(row, Ok((_, row)) if row.generation == 0))
            .collect::<Result<Vec<_>, _>>()?;
        let services = maps.services()?;
        if !services.is_empty() {
            info!(
                services = services.len(),
                backends = backends.len(),
                "adopted the rows of a former agent"
            );
        }
        let ledger = Ledger::adopt(
            maps.service_capacity(),
            maps.backend_capacity(),
            services,
            backends,
        );
        let (published, receiver) = watch::channel(Arc::default());
        let reconciler = Self {
            maps,
            ledger,
            settings: Settings {
                agent_tgid,
                log_level: LogLevel::Error as u32,
                ..Settings::default()
            },
            cgroup_root,
            excluded,
            desired: Arc::default(),
            cgroups: None,
            view: View::default(),
            published,
        };
        Ok((reconciler, receiver))
    }

    /// Applies the first configuration, before the programs are attached.
    pub fn start(&mut self, desired: Arc<Desired>, generation: u64, log_level: LogLevel) {
        self.settings.log_level = log_level as u32;
        self.desired = desired;
        self.view.generation = generation;
        self.reconcile();
    }

    /// Serves commands until the sender is gone.
    pub fn run(mut self, commands: &mpsc::Receiver<Command>) {
        loop {
            match commands.recv_timeout(SWEEP_INTERVAL) {
                Ok(command) => self.serve(command, commands),
                Err(mpsc::RecvTimeoutError::Timeout) => self.sweep(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.finish(),
            }
        }
    }

    /// Serves a command and those behind it, skipping configurations that are already superseded.
    fn serve(&mut self, command: Command, commands: &mpsc::Receiver<Command>) {
        let mut newest = None;
        let waiting = std::iter::once(command).chain(std::iter::from_fn(|| commands.try_recv().ok()));
        for command in waiting.collect::<Vec<_>>() {
            match command {
                Command::Apply { desired, generation } => newest = Some((desired, generation)),
                Command::LogLevel(level) => self.change_log_level(level),
            }
        }
        if let Some((desired, generation)) = newest {
            self.desired = desired;
            self.view.generation = generation;
            self.reconcile();
        }
    }

    fn reconcile(&mut self) {
        let started = std::time::Instant::now();
        self.sync_clients();
        let desired = self.desired.clone();
        let mut plan = self.ledger.plan(&desired);
        let rejected = std::mem::take(&mut plan.rejected);
        let writes = plan.backends.len() + plan.tables.len() + plan.services.len();
        let removals = plan.deleted.len() + plan.retired.len();
        let failures = apply(plan, &mut self.ledger, &mut self.maps);
        report(&rejected, &failures);
        info!(
            generation = self.view.generation,
            writes,
            removals,
            elapsed_us = started.elapsed().as_micros() as u64,
            "reconciled"
        );
        self.publish(rejected, &failures);
    }

    fn publish(&mut self, rejected: Vec<Rejected>, failures: &Failures) {
        self.view = View {
            generation: self.view.generation,
            rejected,
            failed: failures
                .iter()
                .map(|(name, error)| (name.clone(), error.to_string()))
                .collect(),
            workloads: self
                .desired
                .clients
                .iter()
                .map(|(name, client)| (client.workload, name.clone()))
                .collect(),
            cgroups_missing: self
                .cgroups
                .as_ref()
                .map_or_else(Vec::new, |table| table.missing.clone()),
            ..View::of(&self.ledger)
        };
        self.published.send_replace(Arc::new(self.view.clone()));
    }

    /// Frees what has become idle, and tries again what failed or found no room.
    fn sweep(&mut self) {
        let freed = sweep(&mut self.ledger, &mut self.maps);
        if freed > 0 {
            debug!(freed, "freed backends without sockets");
        }
        let retry = !self.view.failed.is_empty() || (freed > 0 && !self.view.rejected.is_empty());
        if retry {
            self.reconcile();
        } else if self.sync_clients() || freed > 0 {
            let rejected = std::mem::take(&mut self.view.rejected);
            self.publish(rejected, &Failures::new());
        }
    }

    /// Writes the differences of the `cgroups` map and the settings that depend on it; true if there were any.
    fn sync_clients(&mut self) -> bool {
        let table = clients::resolve(&self.cgroup_root, &self.desired, &self.excluded);
        let udp_services = self
            .desired
            .frontends
            .values()
            .filter(|frontend| frontend.key.protocol == 17)
            .count() as u32;
        let settings = Settings {
            cgroup_depths: table.depths,
            udp_services,
            ..self.settings
        };
        if self.cgroups.as_ref() == Some(&table) && settings == self.settings {
            return false;
        }
        self.settings = settings;
        if let Err(error) = self.write_clients(&table) {
            error!(%error, "could not write what is configured for cgroups");
        }
        self.cgroups = Some(table);
        true
    }

    fn write_clients(&mut self, table: &CgroupTable) -> Result<(), MapOpError> {
        let former = self.maps.cgroups()?;
        for (id, entry) in &table.entries {
            self.maps.put_cgroup(*id, entry)?;
        }
        self.maps.put_settings(&self.settings)?;
        for (id, _) in former.iter().filter(|(id, _)| !table.entries.contains_key(id)) {
            self.maps.delete_cgroup(*id)?;
        }
        Ok(())
    }

    fn change_log_level(&mut self, level: LogLevel) {
        self.settings.log_level = level as u32;
        if let Err(error) = self.maps.put_settings(&self.settings) {
            error!(%error, "could not change the level of the programs' log");
        }
    }

    /// The agent goes: its process id means nothing any more and nobody reads the programs' log.
    fn finish(mut self) {
        self.settings.agent_tgid = 0;
        self.settings.log_level = LogLevel::Off as u32;
        if let Err(error) = self.maps.put_settings(&self.settings) {
            warn!(%error, "could not write the settings for the time without an agent");
        }
    }
}

fn report(rejected: &[Rejected], failures: &Failures) {
    for Rejected {
        frontend,
        map,
        capacity,
    } in rejected
    {
        warn!(%frontend, map, capacity, "no room: the frontend stays as it was; raise the capacity with --max-{map}");
    }
    for (frontend, error) in failures {
        error!(%frontend, %error, "could not program a frontend; trying again");
    }
}
