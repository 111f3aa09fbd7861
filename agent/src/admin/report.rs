// SPDX-License-Identifier: Apache-2.0
//! Puts together what is desired (`SourceStatus`), what is programmed (`View`) and what the programs count (`MapReader`).
//! Called by the routes, for the CLI, the probes and the metrics.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, mpsc},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use aya::Ebpf;
use nodemesh_abi::{
    BackendState as Counters, ConnectFailure, ConnectionState, InternalError, Ip16, Port, Protocol, Refusal,
    names::map,
};
use nodemesh_model::{BackendState, Frontend, Keyword as _};
use tokio::sync::watch;

use crate::{
    api,
    config::{AgentConfig, ProgramLogLevel, VERSION},
    datapath::{MapReader, attach, listing::ConnectionLister},
    logging::LogFilter,
    metrics::Metrics,
    reconcile::{ledger::Programmed, thread::Command, view::View},
    source::SourceStatus,
};

/// Everything that can be asked about this node.
pub struct Node {
    /// The agent's settings.
    pub config: AgentConfig,
    /// The cgroup that the programs are attached to.
    pub cgroup: std::path::PathBuf,
    /// When the agent started.
    pub started: Instant,
    /// The programs; never locked across an await.
    pub ebpf: Mutex<Ebpf>,
    /// Counters.
    pub maps: MapReader,
    /// Connections.
    pub lister: ConnectionLister,
    /// The configuration.
    pub source: watch::Receiver<Arc<SourceStatus>>,
    /// What is programmed.
    pub view: watch::Receiver<Arc<View>>,
    /// The agent's log.
    pub log: LogFilter,
    /// Level of the programs' log.
    pub program_log: Mutex<ProgramLogLevel>,
    /// The reconciler.
    pub commands: mpsc::Sender<Command>,
    /// The metric families.
    pub metrics: Metrics,
}

impl Node {
    /// The configuration's state.
    pub fn source(&self) -> Arc<SourceStatus> {
        self.source.borrow().clone()
    }

    /// What is programmed.
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// The metrics, in Prometheus' text format.
    pub fn metrics(&self) -> Result<String> {
        self.metrics.render(self)
    }

    /// Why the node is not ready; empty if it is. An invalid reload does not make a node unready: it still serves.
    pub fn not_ready(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.view().generation == 0 {
            problems.push("the configuration has not reached the kernel yet".to_owned());
        }
        match self.attached() {
            Ok(programs) => {
                let missing = programs
                    .iter()
                    .filter(|(_, effective)| !**effective)
                    .map(|(name, _)| name.as_str());
                problems.extend(missing.map(|name| format!("the kernel does not run {name} for the cgroup")));
            }
            Err(error) => problems.push(format!(
                "cannot tell whether the programs are attached: {error:#}"
            )),
        }
        problems
    }

    fn attached(&self) -> Result<BTreeMap<String, bool>> {
        let root = File::open(&self.cgroup).with_context(|| format!("open {}", self.cgroup.display()))?;
        let ebpf = self.ebpf.lock().expect("no holder panics");
        let programs = attach::effective(&ebpf, &root)?;
        Ok(programs
            .into_iter()
            .map(|(name, effective)| (name.to_owned(), effective))
            .collect())
    }

    /// Answer of `GET /v1/status`.
    pub fn status(&self) -> api::Status {
        let (source, view) = (self.source(), self.view());
        let mut problems = self.not_ready();
        let ready = problems.is_empty();
        if !source.errors.is_empty() {
            problems.push(
                "the last reload of the configuration was refused; the one before it is in force".to_owned(),
            );
        }
        api::Status {
            version: VERSION.to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            ready,
            problems,
            config: config_status(&source, &view),
            datapath: self.datapath_status(&view),
            log: self.log_status(),
        }
    }

    fn datapath_status(&self, view: &View) -> api::DatapathStatus {
        let uts = nix::sys::utsname::uname();
        let rejected = view.rejected.iter().map(|rejected| {
            (
                rejected.frontend.to_string(),
                format!("no room in {}: {} entries", rejected.map, rejected.capacity),
            )
        });
        let failed = view
            .failed
            .iter()
            .map(|(name, error)| (name.to_string(), error.clone()));
        api::DatapathStatus {
            kernel: uts.map_or_else(
                |_| "unknown".into(),
                |uts| uts.release().to_string_lossy().into_owned(),
            ),
            cgroup: self.cgroup.display().to_string(),
            pin_dir: self.config.pin_dir.display().to_string(),
            programs: self.attached().unwrap_or_default(),
            maps: self.map_usage(view),
            internal_errors: self.internal_errors(),
            frontends_not_programmed: rejected.chain(failed).collect(),
            cgroups_missing: view.cgroups_missing.clone(),
        }
    }

    /// Fill of the maps.
    pub fn map_usage(&self, view: &View) -> BTreeMap<String, api::MapUsage> {
        let [services, backends] = view.usage;
        let counted = [(map::SERVICES, services), (map::BACKENDS, backends)]
            .map(|(name, (entries, capacity))| (name, (u64::from(entries), u64::from(capacity))));
        let listed = self.maps.dynamic_usage();
        counted
            .into_iter()
            .chain(listed)
            .map(|(name, (entries, capacity))| (name.to_owned(), api::MapUsage { entries, capacity }))
            .collect()
    }

    /// Internal errors by reason.
    pub fn internal_errors(&self) -> BTreeMap<String, u64> {
        let counts = self.maps.internal_errors().unwrap_or_default();
        InternalError::ALL
            .iter()
            .zip(counts)
            .map(|(error, count)| (error.label().to_owned(), count))
            .collect()
    }

    fn log_status(&self) -> api::LogStatus {
        let programs = *self.program_log.lock().expect("no holder panics");
        api::LogStatus {
            agent: Some(self.log.current()),
            programs: Some(programs),
        }
    }

    /// Changes log levels; what is absent stays.
    pub fn change_log(&self, wanted: &api::LogStatus) -> Result<api::LogStatus> {
        if let Some(filter) = &wanted.agent {
            self.log.set(filter)?;
        }
        if let Some(level) = wanted.programs {
            self.commands
                .send(Command::LogLevel(level.into()))
                .context("the reconciler has ended")?;
            *self.program_log.lock().expect("no holder panics") = level;
        }
        Ok(self.log_status())
    }

    /// Answer of `GET /v1/services`.
    pub fn services(&self) -> Result<Vec<api::Service>> {
        self.view()
            .frontends
            .iter()
            .map(|programmed| self.service(programmed))
            .collect()
    }

    fn service(&self, programmed: &Programmed) -> Result<api::Service> {
        let frontend = &programmed.frontend;
        let mut states = BTreeMap::new();
        let (mut active, mut total) = (0, 0);
        for (backend, place) in frontend.backends.iter().zip(&programmed.backends) {
            *states.entry(state(backend.state)).or_default() += 1;
            let counters = self.maps.backend_state(place.id)?;
            active += counters.active;
            total += counters.opened;
        }
        let counters = self.maps.service_state(programmed.service_id)?;
        Ok(api::Service {
            service: frontend.service.to_string(),
            model: frontend.model.as_deref().map(str::to_owned),
            address: endpoint(frontend.key.addr, frontend.key.port),
            protocol: protocol(frontend.key.protocol),
            algorithm: frontend.algorithm.word().to_owned(),
            session_affinity_seconds: frontend.affinity_timeout_s,
            backends: states,
            active_connections: active,
            connections_total: total,
            refused: Refusal::ALL
                .iter()
                .zip(counters.refused)
                .map(|(why, count)| (why.label().to_owned(), count))
                .collect(),
        })
    }

    /// Answer of `GET /v1/backends`.
    pub fn backends(&self) -> Result<Vec<api::Backend>> {
        let view = self.view();
        let mut backends = Vec::new();
        for programmed in &view.frontends {
            let service = programmed.frontend.service.to_string();
            for (backend, place) in programmed.frontend.backends.iter().zip(&programmed.backends) {
                backends.push(api::Backend {
                    service: service.clone(),
                    address: endpoint(backend.addr, backend.port),
                    workload: backend.workload.as_ref().map(ToString::to_string),
                    weight: backend.weight,
                    state: state(backend.state),
                    ..counted(&self.maps.backend_state(place.id)?)
                });
            }
        }
        for (id, retired) in &view.retired {
            backends.push(api::Backend {
                service: retired
                    .service
                    .as_ref()
                    .map_or_else(|| "unknown".to_owned(), ToString::to_string),
                address: endpoint(retired.row.addr, retired.row.port),
                weight: retired.row.weight,
                state: api::BackendState::Draining,
                ..counted(&self.maps.backend_state(*id)?)
            });
        }
        Ok(backends)
    }

    /// Answer of `GET /v1/connections`.
    pub fn connections(&self) -> Result<Vec<api::Connection>> {
        let view = self.view();
        let services: HashMap<u32, &Arc<Frontend>> = view
            .frontends
            .iter()
            .map(|programmed| (programmed.service_id, &programmed.frontend))
            .collect();
        let now = monotonic_ns()?;
        let records = self.lister.list()?;
        let describe = |record: &nodemesh_abi::Connection| {
            let dialled = endpoint(record.service_addr, record.service_port);
            let known = services
                .get(&record.service)
                .filter(|frontend| frontend.key.addr == record.service_addr);
            let connecting = ConnectionState::from_raw(record.state) == ConnectionState::Connecting;
            api::Connection {
                service: known.map_or_else(|| dialled.clone(), |frontend| frontend.service.to_string()),
                protocol: protocol(record.protocol as u8),
                client: (record.client_port.get() != 0)
                    .then(|| endpoint(record.client_addr, record.client_port)),
                client_workload: view.workloads.get(&record.workload).map(ToString::to_string),
                client_cgroup: record.cgroup,
                client_pid: record.tgid,
                service_address: dialled,
                backend: endpoint(record.backend_addr, record.backend_port),
                state: if connecting { "connecting" } else { "established" }.to_owned(),
                age_seconds: now.saturating_sub(record.opened_ns) as f64 / 1e9,
            }
        };
        Ok(records.iter().map(describe).collect())
    }
}

fn config_status(source: &SourceStatus, view: &View) -> api::ConfigStatus {
    api::ConfigStatus {
        path: source.path.display().to_string(),
        state: if source.errors.is_empty() {
            api::ConfigState::Ok
        } else {
            api::ConfigState::Invalid
        },
        generation: source.generation,
        applied_generation: view.generation,
        loaded_at: unix_seconds(source.loaded_at),
        errors: source.errors.clone(),
        warnings: source.warnings.clone(),
    }
}

/// A backend of which only the counters are known.
fn counted(counters: &Counters) -> api::Backend {
    let established: u64 = counters.connect_buckets.iter().sum();
    api::Backend {
        service: String::new(),
        address: String::new(),
        workload: None,
        weight: 0,
        state: api::BackendState::Active,
        active_connections: counters.active,
        connections_total: counters.opened,
        connections_closed: counters.closed,
        connections_failed: ConnectFailure::ALL
            .iter()
            .zip(counters.failed)
            .map(|(why, count)| (why.label().to_owned(), count))
            .collect(),
        connect_seconds_mean: (established > 0)
            .then(|| counters.connect_ns as f64 / established as f64 / 1e9),
    }
}

/// `ip:port`, with brackets around IPv6.
pub fn endpoint(addr: Ip16, port: Port) -> String {
    SocketAddr::new(IpAddr::from(addr), port.get()).to_string()
}

fn protocol(number: u8) -> String {
    if number == Protocol::Udp as u8 {
        "UDP".to_owned()
    } else {
        "TCP".to_owned()
    }
}

/// The state in the words of the API.
pub fn state(state: BackendState) -> api::BackendState {
    match state {
        BackendState::Active => api::BackendState::Active,
        BackendState::Draining => api::BackendState::Draining,
        BackendState::Unhealthy => api::BackendState::Unhealthy,
    }
}

/// Seconds since the epoch.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The clock of `bpf_ktime_get_ns`.
fn monotonic_ns() -> Result<u64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn an_invalid_reload_shows_what_is_in_force_and_why() {
        let source = SourceStatus {
            path: PathBuf::from("/etc/mesh.yaml"),
            generation: 4,
            loaded_at: UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000),
            tried_at: SystemTime::now(),
            errors: vec!["wrong".to_owned()],
            warnings: vec!["odd".to_owned()],
            reloads_ok: 4,
            reloads_failed: 1,
        };
        let view = View {
            generation: 3,
            ..View::default()
        };
        let status = config_status(&source, &view);
        assert_eq!(
            (status.generation, status.applied_generation, status.loaded_at),
            (4, 3, 1_700_000_000)
        );
        assert_eq!(
            (status.state, status.errors, status.warnings),
            (
                api::ConfigState::Invalid,
                source.errors.clone(),
                source.warnings.clone()
            )
        );
        let good = SourceStatus {
            errors: Vec::new(),
            ..source
        };
        assert_eq!(config_status(&good, &view).state, api::ConfigState::Ok);
    }

    #[test]
    fn the_mean_is_over_established_connections_only() {
        let mut counters = Counters {
            active: 1,
            opened: 9,
            closed: 3,
            connect_ns: 6_000_000,
            ..Counters::default()
        };
        assert_eq!(counted(&counters).connect_seconds_mean, None);
        counters.connect_buckets[0] = 1;
        counters.connect_buckets[2] = 3;
        counters.failed[ConnectFailure::Timeout as usize] = 5;
        let backend = counted(&counters);
        assert_eq!(backend.connect_seconds_mean, Some(0.0015));
        assert_eq!(
            (
                backend.active_connections,
                backend.connections_total,
                backend.connections_closed
            ),
            (1, 9, 3)
        );
        let failed = &backend.connections_failed;
        assert_eq!(
            (failed["timeout"], failed["refused"], failed.len()),
            (5, 0, ConnectFailure::COUNT)
        );
    }

    #[test]
    fn an_endpoint_is_what_a_client_would_dial() {
        let port = Port::new(8000);
        let show = |addr: &str| endpoint(addr.parse::<IpAddr>().unwrap().into(), port);
        assert_eq!(show("10.0.0.1"), "10.0.0.1:8000");
        assert_eq!(show("fd00::1"), "[fd00::1]:8000");
        assert_eq!([protocol(6), protocol(17)], ["TCP", "UDP"]);
    }
}
