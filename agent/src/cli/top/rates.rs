// SPDX-License-Identifier: Apache-2.0
//! What happened between two readings of the kernel's counters. Pure.
//!
//! Quantiles are those of the interval, interpolated within the histograms' buckets. Invariant: a row whose counters went back was
//! given to another backend meanwhile; what it counts now all belongs to the interval.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::{
    api::{Histogram, Traffic, TrafficReport, Vantage},
    quantile::quantile,
};

/// The name of the sum over a service's backends.
pub(super) const ALL: &str = "*";

/// Outcomes that are a failure of the server.
const ERRORS: [&str; 3] = ["server_error", "truncated", "no_response"];

/// What one backend, or all of a service, did in the interval, as seen from one vantage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Rates {
    /// `namespace/name` of the service.
    pub(super) service: String,
    /// Address of the backend; [`ALL`] for their sum.
    pub(super) backend: String,
    /// Which end was observed.
    pub(super) vantage: Vantage,
    /// Requests that are open now.
    pub(super) requests_in_flight: u64,
    /// Finished requests per second.
    pub(super) requests_per_second: f64,
    /// Emissions of streamed responses per second.
    pub(super) chunks_per_second: f64,
    /// Median time to first token, seconds.
    pub(super) time_to_first_token_p50: Option<f64>,
    /// Its 99th percentile.
    pub(super) time_to_first_token_p99: Option<f64>,
    /// Median inter-token latency, seconds.
    pub(super) inter_token_latency_p50: Option<f64>,
    /// Its 99th percentile.
    pub(super) inter_token_latency_p99: Option<f64>,
    /// Requests per second that the server failed: status 500 or more, broken off, or unanswered.
    pub(super) errors_per_second: f64,
    /// Requests per second that the client gave up.
    pub(super) cancels_per_second: f64,
    /// Open requests that are silent for too long now.
    pub(super) stalled_streams: u64,
    /// Connections that are open now.
    pub(super) open_connections: u64,
}

/// What is added up before rates are made of it.
#[derive(Default)]
struct Sum {
    in_flight: u64,
    requests: u64,
    chunks: u64,
    errors: u64,
    cancels: u64,
    stalled: u64,
    connections: u64,
    first_token: Vec<u64>,
    gaps: Vec<u64>,
}

impl Sum {
    /// What `now` has more than `before`.
    fn between(before: Option<&Traffic>, now: &Traffic) -> Self {
        // The kernel's counters only rise, so one that fell is another backend's.
        let before = before.filter(|before| {
            before.connections_total <= now.connections_total && requests(before) <= requests(now)
        });
        let since = |count: fn(&Traffic) -> u64| count(now).saturating_sub(before.map_or(0, count));
        Self {
            in_flight: now.requests_in_flight,
            requests: since(requests),
            chunks: since(|row| row.chunks),
            errors: since(|row| ERRORS.iter().filter_map(|error| row.requests.get(*error)).sum()),
            cancels: since(|row| row.cancels.values().sum()),
            stalled: now.stalled_streams,
            connections: now.open_connections,
            first_token: observed(
                before.map(|row| &row.time_to_first_token),
                &now.time_to_first_token,
            ),
            gaps: observed(
                before.map(|row| &row.inter_token_latency),
                &now.inter_token_latency,
            ),
        }
    }

    fn add(&mut self, other: &Self) {
        self.in_flight += other.in_flight;
        self.requests += other.requests;
        self.chunks += other.chunks;
        self.errors += other.errors;
        self.cancels += other.cancels;
        self.stalled += other.stalled;
        self.connections += other.connections;
        for (sum, counts) in [
            (&mut self.first_token, &other.first_token),
            (&mut self.gaps, &other.gaps),
        ] {
            sum.resize(sum.len().max(counts.len()), 0);
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }

    fn rates(&self, name: (&str, &str, Vantage), report: &TrafficReport, seconds: f64) -> Rates {
        let per_second = |count: u64| count as f64 / seconds;
        let first = |q| quantile(&report.bounds.first_seconds, &self.first_token, q);
        let gap = |q| quantile(&report.bounds.gap_seconds, &self.gaps, q);
        Rates {
            service: name.0.to_owned(),
            backend: name.1.to_owned(),
            vantage: name.2,
            requests_in_flight: self.in_flight,
            requests_per_second: per_second(self.requests),
            chunks_per_second: per_second(self.chunks),
            time_to_first_token_p50: first(0.5),
            time_to_first_token_p99: first(0.99),
            inter_token_latency_p50: gap(0.5),
            inter_token_latency_p99: gap(0.99),
            errors_per_second: per_second(self.errors),
            cancels_per_second: per_second(self.cancels),
            stalled_streams: self.stalled,
            open_connections: self.connections,
        }
    }
}

fn requests(row: &Traffic) -> u64 {
    row.requests.values().sum()
}

/// The observations that `now` has more than `before`, per bucket.
fn observed(before: Option<&Histogram>, now: &Histogram) -> Vec<u64> {
    let earlier = before.map_or(&[][..], |before| &before.counts);
    let earlier = earlier.iter().chain(std::iter::repeat(&0));
    now.counts
        .iter()
        .zip(earlier)
        .map(|(now, earlier)| now.saturating_sub(*earlier))
        .collect()
}

type Name<'a> = (&'a str, &'a str, Vantage);

fn name(row: &Traffic) -> Name<'_> {
    (&row.service, &row.backend, row.vantage)
}

/// One line for each service and vantage, [`ALL`], followed by one for each of its backends; sorted by service and address.
pub(super) fn rates(before: &TrafficReport, now: &TrafficReport) -> Vec<Rates> {
    let seconds = (now.monotonic_ns.saturating_sub(before.monotonic_ns)).max(1) as f64 / 1e9;
    let earlier: HashMap<Name<'_>, &Traffic> = before.rows.iter().map(|row| (name(row), row)).collect();
    let mut services: BTreeMap<(&str, Vantage), BTreeMap<&str, Sum>> = BTreeMap::new();
    for row in &now.rows {
        let sum = Sum::between(earlier.get(&name(row)).copied(), row);
        let backends = services.entry((&row.service, row.vantage)).or_default();
        // A replica that serves several ports of a service has a row for each.
        backends.entry(&row.backend).or_default().add(&sum);
    }
    let mut lines = Vec::new();
    for ((service, vantage), backends) in &services {
        let mut all = Sum::default();
        for backend in backends.values() {
            all.add(backend);
        }
        lines.push(all.rates((service, ALL, *vantage), now, seconds));
        lines.extend(
            backends
                .iter()
                .map(|(backend, sum)| sum.rates((service, backend, *vantage), now, seconds)),
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::HistogramBounds;

    fn histogram(counts: [u64; 3]) -> Histogram {
        Histogram {
            counts: counts.into(),
            sum: 0.0,
        }
    }

    fn row(backend: &str, finished: u64, tokens: [u64; 3]) -> Traffic {
        Traffic {
            service: "prod/chat".into(),
            backend: backend.into(),
            vantage: Vantage::Server,
            model: None,
            requests_in_flight: 3,
            request_bytes_in_flight: 0,
            stalled_streams: 1,
            last_byte_age_seconds: 0.0,
            open_connections: 4,
            connections_total: finished,
            request_bytes_total: 0,
            response_bytes_total: 0,
            requests: [
                ("success".to_owned(), finished),
                ("truncated".to_owned(), finished / 10),
            ]
            .into(),
            cancels: [("decode/fin".to_owned(), finished / 5)].into(),
            chunks: finished * 100,
            ambiguous_sockets: 0,
            retransmits: 0,
            time_to_first_byte: histogram([0; 3]),
            time_to_first_token: histogram(tokens),
            inter_token_latency: histogram([0; 3]),
            stream_duration: histogram([0; 3]),
            request_size: histogram([0; 3]),
            response_size: histogram([0; 3]),
            rtt: histogram([0; 3]),
        }
    }

    fn report(second: u64, rows: Vec<Traffic>) -> TrafficReport {
        let bounds = vec![1.0, 2.0];
        TrafficReport {
            monotonic_ns: second * 1_000_000_000,
            bounds: HistogramBounds {
                first_seconds: bounds.clone(),
                gap_seconds: bounds.clone(),
                duration_seconds: bounds.clone(),
                size_bytes: bounds.clone(),
                rtt_seconds: bounds,
            },
            rows,
        }
    }

    #[test]
    fn only_the_interval_counts() {
        let before = report(10, vec![row("a", 100, [100, 0, 0])]);
        let now = report(12, vec![row("a", 140, [100, 40, 0])]);
        let [all, one] = &rates(&before, &now)[..] else {
            panic!("a service and its backend")
        };
        assert_eq!((&*one.backend, &*all.backend), ("a", ALL));
        // 40 successes and 4 truncated in two seconds.
        assert_eq!((one.requests_per_second, one.chunks_per_second), (22.0, 2_000.0));
        assert_eq!((one.errors_per_second, one.cancels_per_second), (2.0, 4.0));
        assert_eq!(one.time_to_first_token_p50, Some(1.5));
        assert_eq!(one.inter_token_latency_p50, None);
        assert_eq!(
            (one.requests_in_flight, one.stalled_streams, one.open_connections),
            (3, 1, 4)
        );
        let same = Rates {
            backend: ALL.to_owned(),
            ..one.clone()
        };
        assert_eq!(*all, same);
    }

    #[test]
    fn backends_add_up_to_their_service() {
        let before = report(0, vec![]);
        let now = report(1, vec![row("b", 10, [30, 0, 0]), row("a", 20, [0, 10, 0])]);
        let lines = rates(&before, &now);
        let backends: Vec<&str> = lines.iter().map(|line| &*line.backend).collect();
        assert_eq!(backends, [ALL, "a", "b"]);
        let all = (lines[0].requests_per_second, lines[0].requests_in_flight);
        assert_eq!(all, (33.0, 6));
        let p50 = lines[0].time_to_first_token_p50.expect("tokens");
        assert!((p50 - 20.0 / 30.0).abs() < 1e-9, "{p50}");
    }

    #[test]
    fn a_row_that_was_given_to_another_backend_starts_anew() {
        let before = report(0, vec![row("a", 1_000, [9, 9, 9])]);
        let now = report(1, vec![row("a", 10, [10, 0, 0])]);
        let lines = rates(&before, &now);
        assert_eq!(
            (lines[1].requests_per_second, lines[1].time_to_first_token_p99),
            (11.0, Some(0.99))
        );
    }

    #[test]
    fn vantages_are_not_added_up() {
        let client = Traffic {
            vantage: Vantage::Client,
            ..row("a", 5, [0; 3])
        };
        let now = report(1, vec![row("a", 10, [0; 3]), client]);
        let lines = rates(&report(0, vec![]), &now);
        let told: Vec<(Vantage, &str)> = lines.iter().map(|line| (line.vantage, &*line.backend)).collect();
        assert_eq!(
            told,
            [
                (Vantage::Client, ALL),
                (Vantage::Client, "a"),
                (Vantage::Server, ALL),
                (Vantage::Server, "a")
            ]
        );
    }
}
