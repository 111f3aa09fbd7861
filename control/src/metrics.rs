// SPDX-License-Identifier: Apache-2.0
//! What the control plane measures. Counters and times are kept here as things happen; what there is at the moment is read when a
//! scrape asks ([`live`]).
//!
//! Made by `app` and handed to everything that counts. Invariant: the values of labels are words of this program, but for node ids
//! and backends, whose number is limited where they come in.

#[cfg(test)]
mod document;
mod lag;
pub mod live;
mod store;

#[cfg(test)]
mod tests;

use std::time::Duration;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};
use tonic::Code;

pub use lag::Lag;
pub use live::Live;
pub use store::MeasuredStore;

use crate::{
    config::VERSION,
    security::{Method, Reloaded},
};

/// Bounds of times, seconds: from a read of memory to a disk that is about to fail.
const TIMES_S: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// Why a connection was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// There are as many as allowed.
    Full,
    /// The TLS handshake failed.
    Handshake,
    /// It broke.
    Broken,
    /// It speaks something else.
    Protocol,
    /// It said nothing.
    Silent,
}

/// The counters of one control plane.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Open connections.
    pub connections: IntGauge,
    /// Renewals of leases, by outcome.
    pub renewals: IntCounterVec,
    /// DNS queries, by transport and response code.
    pub dns_queries: IntCounterVec,
    turned_away: IntCounterVec,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    calls: IntGaugeVec,
    store_duration: HistogramVec,
    store_errors: IntCounterVec,
    reloads: IntCounterVec,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        tell_build(&registry)?;
        let connections = IntGauge::with_opts(opts("connections", "Open connections of clients."))?;
        let counters = |name, help, labels| counters(&registry, name, help, labels);
        let histograms = |name, help, labels| histograms(&registry, name, help, labels);
        Ok(Self {
            connections: registered(&registry, connections)?,
            turned_away: counters(
                "connections_refused_total",
                "Connections that were closed before their first call, by reason.",
                &["reason"],
            )?,
            requests: counters(
                "requests_total",
                "Calls that ended, by method and gRPC code; of a stream, how it ended.",
                &["method", "code"],
            )?,
            request_duration: histograms(
                "request_duration_seconds",
                "Time that calls which are no streams took.",
                &["method"],
            )?,
            calls: gauges(
                &registry,
                "calls",
                "Calls that are going on, with streams.",
                &["method"],
            )?,
            renewals: counters(
                "lease_renewals_total",
                "Renewals of leases, by outcome: renewed, gone (the server has to register again), failed.",
                &["outcome"],
            )?,
            store_duration: histograms(
                "store_duration_seconds",
                "Time that operations of the store took, until a write was durable.",
                &["op"],
            )?,
            store_errors: counters(
                "store_errors_total",
                "Operations that the store did not do, by reason. Conflicts are repeated, and no cause for concern.",
                &["op", "reason"],
            )?,
            dns_queries: counters(
                "dns_queries_total",
                "DNS queries that were answered, by transport and response code.",
                &["transport", "code"],
            )?,
            reloads: counters(
                "reloads_total",
                "Changes of certificates and of the access file, by outcome: done, refused (the former stays).",
                &["what", "outcome"],
            )?,
            registry,
        })
    }

    /// The counter of connections that were turned away for this reason.
    pub fn turned_away(&self, turned: Turned) -> IntCounter {
        self.turned_away.with_label_values(&[match turned {
            Turned::Full => "full",
            Turned::Handshake => "handshake",
            Turned::Broken => "broken",
            Turned::Protocol => "protocol",
            Turned::Silent => "silent",
        }])
    }

    /// Counts a call that begins.
    pub fn call_began(&self, method: Method) {
        self.calls.with_label_values(&[method.name]).inc();
    }

    /// Counts the end of a call that began.
    pub fn call_ended(&self, method: Method, code: Code, took: Duration) {
        self.calls.with_label_values(&[method.name]).dec();
        self.requests.with_label_values(&[method.name, word(code)]).inc();
        if !method.is_stream {
            let durations = self.request_duration.with_label_values(&[method.name]);
            durations.observe(took.as_secs_f64());
        }
    }

    /// Counts a change of a file.
    pub fn reloaded(&self, what: &str, reloaded: Reloaded) {
        let outcome = match reloaded {
            Reloaded::Done => "done",
            Reloaded::Refused => "refused",
        };
        self.reloads.with_label_values(&[what, outcome]).inc();
    }
}

fn tell_build(registry: &Registry) -> prometheus::Result<()> {
    let help = "1, labelled with what is running.";
    let build = gauges(registry, "build_info", help, &["version"])?;
    build.with_label_values(&[VERSION]).set(1);
    Ok(())
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("nodemesh_control_{name}"), help)
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    registered(registry, IntCounterVec::new(opts(name, help), labels)?)
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    registered(registry, IntGaugeVec::new(opts(name, help), labels)?)
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<HistogramVec> {
    let opts = HistogramOpts::from(opts(name, help)).buckets(TIMES_S.to_vec());
    registered(registry, HistogramVec::new(opts, labels)?)
}

/// A code as the specification of gRPC spells it.
fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
