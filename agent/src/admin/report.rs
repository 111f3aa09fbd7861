// SPDX-License-Identifier: Apache-2.0
//! Puts together what is desired (`SourceStatus`), what is programmed (`View`) and what the programs count (`MapReader`).
//! Called by the routes, for the CLI, the probes and the metrics.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, mpsc},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use aya::Ebpf;
use nodemesh_abi::{BackendState as Counters, ConnectFailure, Ip16, MeterPath, Port, Protocol, Refusal};
use nodemesh_model::{BackendState, Keyword as _};
use tokio::sync::watch;

use super::connections::{Describer, Selected};
use crate::{
    access_log::AccessLog,
    api,
    config::{AgentConfig, ProgramLogLevel},
    datapath::{
        MapReader, clock::monotonic_ns, ends::Ends, flow_maps::FlowReader, guard::Attachment,
        listing::ConnectionLister,
    },
    drain::Drains,
    events::Events,
    logging::LogFilter,
    metrics::Metrics,
    packet::PacketState,
    reconcile::{ledger::Programmed, thread::Command, view::View},
    shortcut::State,
    source::SourceStatus,
    sweep::Sweep,
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
    pub ebpf: Arc<Mutex<Ebpf>>,
    /// What the guard found.
    pub attachment: watch::Receiver<Arc<Attachment>>,
    /// Counters.
    pub maps: MapReader,
    /// Connections.
    pub lister: ConnectionLister,
    /// The configuration.
    pub source: watch::Receiver<Arc<SourceStatus>>,
    /// What is programmed.
    pub view: watch::Receiver<Arc<View>>,
    /// What the last pass over the open requests saw.
    pub sweep: watch::Receiver<Arc<Sweep>>,
    /// How the packet path is.
    pub packet: watch::Receiver<Arc<PacketState>>,
    /// What goes on on the packet path.
    pub flows: Arc<FlowReader>,
    /// The access log.
    pub access_log: Arc<AccessLog>,
    /// The events.
    pub events: Arc<Events>,
    /// What is drained on this node.
    pub drains: Drains,
    /// Where the meter's events come from.
    pub meter_path: MeterPath,
    /// Most connections that are tracked at once; 0 for no limit.
    pub connection_limit: u32,
    /// Connections that were adopted at the start.
    pub adopted: u64,
    /// Whether the shortcut may be taken.
    pub shortcut: watch::Receiver<Arc<State>>,
    /// The sockets that are enrolled in it.
    pub ends: Ends,
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

    /// Whether the shortcut may be taken.
    pub fn shortcut(&self) -> Arc<State> {
        self.shortcut.borrow().clone()
    }

    /// What the last pass over the open requests saw.
    pub fn sweep(&self) -> Arc<Sweep> {
        self.sweep.borrow().clone()
    }

    /// How the packet path is.
    pub fn packet(&self) -> Arc<PacketState> {
        self.packet.borrow().clone()
    }

    /// The metrics, in Prometheus' text format.
    pub fn metrics(&self) -> Result<String> {
        self.metrics.render(self)
    }

    /// Why the node is not ready; empty if it is. An invalid reload does not make a node unready: it still serves.
    pub fn not_ready(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.view().generation == 0 {
            problems.push(self.source().why_not_yet());
        }
        problems.extend(self.attachment().problems);
        problems
    }

    /// What is attached, as it was found within the last second.
    pub fn attachment(&self) -> Attachment {
        self.attachment.borrow().and(&self.packet.borrow().attachment)
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
                    state: match state(backend.state) {
                        api::BackendState::Active if self.is_ejected(place.id)? => api::BackendState::Ejected,
                        state => state,
                    },
                    ..self.counted(place.id, place.traffic)?
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
                ..self.counted(*id, retired.row.traffic)?
            });
        }
        Ok(backends)
    }

    fn is_ejected(&self, id: u32) -> Result<bool> {
        Ok(self.maps.backend_state(id)?.ejected_until_ns != 0)
    }

    /// A backend of which only the counters are known.
    fn counted(&self, id: u32, traffic: u32) -> Result<api::Backend> {
        let (requests_in_flight, time_to_first_token_seconds_p50) = self.pace(traffic)?;
        Ok(api::Backend {
            requests_in_flight,
            time_to_first_token_seconds_p50,
            ..counted(&self.maps.backend_state(id)?)
        })
    }

    /// Answer of `GET /v1/connections`.
    pub fn connections(&self, query: api::ConnectionQuery) -> Result<Selected> {
        let describer = Describer::new(query, self.view(), self.sweep(), monotonic_ns())?;
        Selected::list(describer, &self.lister, &self.flows)
    }
}

/// A backend of which only the counters of its connections are known.
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
        requests_in_flight: None,
        time_to_first_token_seconds_p50: None,
    }
}

/// `ip:port`, with brackets around IPv6.
pub fn endpoint(addr: Ip16, port: Port) -> String {
    SocketAddr::new(IpAddr::from(addr), port.get()).to_string()
}

/// `TCP` or `UDP`.
pub fn protocol(number: u8) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

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
