// SPDX-License-Identifier: Apache-2.0
//! Every metric family of the agent, declared once: name, help, kind and labels. Rendered on each scrape from the kernel's
//! counters, so there is no second copy of a number that could drift.
//!
//! Called by `/metrics`. Invariant: label values are service names, backend addresses and words of enums; nothing that a
//! client chooses becomes a label.

mod sample;

use anyhow::Result;
use nodemesh_abi::{BackendState, ConnectFailure, Refusal, backend::CONNECT_BOUNDS_NS};
use prometheus::{Encoder as _, TextEncoder, proto::MetricType};

use crate::{
    admin::{Node, report},
    reconcile::view::View,
};
use sample::{Samples, histogram};

/// One family.
#[derive(Debug)]
pub struct Family {
    /// Name, with the unit and `_total` as Prometheus' conventions ask.
    pub name: &'static str,
    /// Help text.
    pub help: &'static str,
    /// Kind.
    pub kind: MetricType,
    /// Names of the labels.
    pub labels: &'static [&'static str],
}

const BACKEND: &[&str] = &["namespace", "service", "backend"];

macro_rules! families {
    ($($const:ident: $kind:ident $name:literal $labels:expr, $help:literal;)+) => {
        $(const $const: Family = Family { name: $name, help: $help, kind: MetricType::$kind, labels: $labels };)+
        /// All of them, for the documentation.
        pub const FAMILIES: &[Family] = &[$($const),+];
    };
}

families! {
    OPENED: COUNTER "nodemesh_connections_opened_total" BACKEND,
        "Connections and UDP flows that the kernel placed on a backend.";
    CLOSED: COUNTER "nodemesh_connections_closed_total" BACKEND,
        "Connections that ended after they were established.";
    FAILED: COUNTER "nodemesh_connections_failed_total" &["namespace", "service", "backend", "reason"],
        "Connections that were never established.";
    ACTIVE: GAUGE "nodemesh_connections_active" BACKEND,
        "Sockets placed on a backend that are neither closed nor failed.";
    CONNECT_DURATION: HISTOGRAM "nodemesh_connect_duration_seconds" BACKEND,
        "Time from connect() to an established connection, measured in the kernel.";
    BACKEND_WEIGHT: GAUGE "nodemesh_backend_weight" &["namespace", "service", "backend", "state"],
        "Configured weight of a backend, with its state.";
    REFUSALS: COUNTER "nodemesh_refusals_total" &["namespace", "service", "reason"],
        "Connections and datagrams that the kernel refused with an errno.";
    MAP_ENTRIES: GAUGE "nodemesh_map_entries" &["map"],
        "Entries in use in a kernel map.";
    MAP_CAPACITY: GAUGE "nodemesh_map_capacity" &["map"],
        "Entries that a kernel map has room for.";
    NOT_PROGRAMMED: GAUGE "nodemesh_frontends_not_programmed" &["reason"],
        "Addresses of services that are not in the kernel as configured.";
    INTERNAL_ERRORS: COUNTER "nodemesh_datapath_errors_total" &["reason"],
        "Internal errors of the kernel programs.";
    PROGRAM_RUNS: COUNTER "nodemesh_program_runs_total" &["program"],
        "Runs of a kernel program while statistics are on.";
    PROGRAM_TIME: COUNTER "nodemesh_program_run_seconds_total" &["program"],
        "Time spent in a kernel program while statistics are on.";
    CONFIG_GENERATION: GAUGE "nodemesh_config_generation" &[],
        "Number of the configuration that the kernel has.";
    CONFIG_VALID: GAUGE "nodemesh_config_last_reload_successful" &[],
        "1 if the last reload took effect, 0 if an earlier configuration stays in force.";
    CONFIG_TIME: GAUGE "nodemesh_config_last_reload_success_timestamp_seconds" &[],
        "Unix time of the last reload that took effect.";
    CONFIG_RELOADS: COUNTER "nodemesh_config_reloads_total" &["outcome"],
        "Reloads of the configuration.";
    BUILD_INFO: GAUGE "nodemesh_build_info" &["version", "commit", "abi"],
        "1, labelled with what is running.";
}

/// Renders the families.
#[derive(Debug, Default)]
pub struct Metrics;

impl Metrics {
    /// All families, in Prometheus' text format.
    pub fn render(&self, node: &Node) -> Result<String> {
        let view = node.view();
        let mut samples = Samples::default();
        backends(&mut samples, node, &view)?;
        services(&mut samples, node, &view)?;
        maps(&mut samples, node, &view);
        programs(&mut samples, node);
        config(&mut samples, node, &view);
        let mut text = Vec::new();
        TextEncoder::new().encode(&samples.into_families(), &mut text)?;
        Ok(String::from_utf8(text)?)
    }
}

/// With more backends than this on a node, those that it has never used have no counters: a scrape must not grow with the
/// cluster.
const MOST_UNUSED: usize = 2_000;

fn backends(samples: &mut Samples, node: &Node, view: &View) -> Result<()> {
    let known: usize = view
        .frontends
        .iter()
        .map(|programmed| programmed.backends.len())
        .sum();
    for programmed in &view.frontends {
        let service = &programmed.frontend.service;
        for (backend, place) in programmed.frontend.backends.iter().zip(&programmed.backends) {
            let counted = node.maps.backend_state(place.id)?;
            if known > MOST_UNUSED && counted.opened == 0 {
                continue;
            }
            let address = report::endpoint(backend.addr, backend.port);
            let labels = [service.namespace(), service.name(), &address];
            let state = report::state(backend.state).word();
            samples.gauge(
                &BACKEND_WEIGHT,
                &[labels[0], labels[1], labels[2], state],
                f64::from(backend.weight),
            );
            counters(samples, labels, &counted);
        }
    }
    for (id, retired) in &view.retired {
        let Some(service) = &retired.service else { continue };
        let address = report::endpoint(retired.row.addr, retired.row.port);
        counters(
            samples,
            [service.namespace(), service.name(), &address],
            &node.maps.backend_state(*id)?,
        );
    }
    Ok(())
}

fn counters(samples: &mut Samples, labels: [&str; 3], state: &BackendState) {
    samples.counter(&OPENED, &labels, state.opened as f64);
    samples.counter(&CLOSED, &labels, state.closed as f64);
    samples.gauge(&ACTIVE, &labels, state.active as f64);
    for (failure, count) in ConnectFailure::ALL.iter().zip(state.failed) {
        samples.counter(
            &FAILED,
            &[labels[0], labels[1], labels[2], failure.label()],
            count as f64,
        );
    }
    let bounds = CONNECT_BOUNDS_NS.map(|ns| ns as f64 / 1e9);
    let sum = state.connect_ns as f64 / 1e9;
    samples.histogram(
        &CONNECT_DURATION,
        &labels,
        histogram(&bounds, &state.connect_buckets, sum),
    );
}

fn services(samples: &mut Samples, node: &Node, view: &View) -> Result<()> {
    for programmed in &view.frontends {
        let service = &programmed.frontend.service;
        let state = node.maps.service_state(programmed.service_id)?;
        if view.frontends.len() > MOST_UNUSED && state.refused.iter().all(|count| *count == 0) {
            continue;
        }
        for (refusal, count) in Refusal::ALL.iter().zip(state.refused) {
            let labels = [service.namespace(), service.name(), refusal.label()];
            samples.counter(&REFUSALS, &labels, count as f64);
        }
    }
    Ok(())
}

fn maps(samples: &mut Samples, node: &Node, view: &View) {
    for (map, usage) in node.map_usage(view) {
        samples.gauge(&MAP_ENTRIES, &[&map], usage.entries as f64);
        samples.gauge(&MAP_CAPACITY, &[&map], usage.capacity as f64);
    }
    samples.gauge(&NOT_PROGRAMMED, &["map_full"], view.rejected.len() as f64);
    samples.gauge(&NOT_PROGRAMMED, &["write_failed"], view.failed.len() as f64);
    for (reason, count) in node.internal_errors() {
        samples.counter(&INTERNAL_ERRORS, &[&reason], count as f64);
    }
}

fn programs(samples: &mut Samples, node: &Node) {
    if !node.config.program_stats {
        return;
    }
    let ebpf = node.ebpf.lock().expect("no holder panics");
    for (name, program) in ebpf.programs() {
        if let Ok(info) = program.info() {
            samples.counter(&PROGRAM_RUNS, &[name], info.run_count() as f64);
            samples.counter(&PROGRAM_TIME, &[name], info.run_time().as_secs_f64());
        }
    }
}

fn config(samples: &mut Samples, node: &Node, view: &View) {
    let source = node.source();
    samples.gauge(&CONFIG_GENERATION, &[], view.generation as f64);
    samples.gauge(
        &CONFIG_VALID,
        &[],
        if source.errors.is_empty() { 1.0 } else { 0.0 },
    );
    samples.gauge(&CONFIG_TIME, &[], report::unix_seconds(source.loaded_at) as f64);
    samples.counter(&CONFIG_RELOADS, &["ok"], source.reloads_ok as f64);
    samples.counter(&CONFIG_RELOADS, &["invalid"], source.reloads_failed as f64);
    let abi = nodemesh_abi::ABI_VERSION.to_string();
    samples.gauge(
        &BUILD_INFO,
        &[env!("CARGO_PKG_VERSION"), env!("NODEMESH_COMMIT"), &abi],
        1.0,
    );
}
