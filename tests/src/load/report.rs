// SPDX-License-Identifier: Apache-2.0
//! The JSON line of a run or of one interval of it. Its field names are an interface: tests, the demo and the
//! benchmarks read them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

pub use super::latency::Percentiles;
pub use super::tally::Failure;
use super::tally::Tally;

/// What a report covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The time since the last report of an interval.
    Interval,
    /// The whole run.
    Final,
}

/// One line of output. Times are in seconds and count from the start of a request, its connect included.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What it covers.
    pub kind: Kind,
    /// How long that was.
    pub duration: f64,
    /// Requests that ended, by outcome.
    pub requests: Requests,
    /// Requests in progress now.
    pub in_flight: usize,
    /// Connections that were opened.
    pub connections: u64,
    /// Bytes of response bodies.
    pub bytes: u64,
    /// Chunks with text; for answers that were not streamed, the tokens that they report.
    pub tokens: u64,
    /// Successful requests per second.
    pub requests_per_second: f64,
    /// Tokens per second.
    pub tokens_per_second: f64,
    /// Distributions.
    pub latency: Latencies,
    /// By the header `x-replica`.
    pub replicas: BTreeMap<String, Replica>,
    /// Connections by the address that `getpeername()` returned.
    pub peer_addresses: BTreeMap<String, u64>,
    /// Failed connects by errno name.
    pub connect_errors: BTreeMap<String, u64>,
    /// Answers by HTTP status.
    pub statuses: BTreeMap<u16, u64>,
}

/// Requests by outcome.
#[derive(Clone, Debug, Serialize)]
pub struct Requests {
    /// Complete and correct.
    pub ok: u64,
    /// Failed, by kind; every kind is listed.
    pub failed: BTreeMap<Failure, u64>,
    /// Cut by this client at the end of the run.
    pub aborted: u64,
    /// Given up on purpose, see `--cancel`.
    pub cancelled: u64,
}

/// Time spans in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latencies {
    /// `connect()`.
    pub connect: Option<Percentiles>,
    /// To the response headers.
    pub ttfb: Option<Percentiles>,
    /// To the first chunk with text.
    pub ttft: Option<Percentiles>,
    /// Between two chunks with text.
    pub itl: Option<Percentiles>,
    /// To the end of the answer.
    pub e2e: Option<Percentiles>,
    /// With `--rate`: how late requests were started for want of a free worker.
    pub start_lag: Option<Percentiles>,
}

/// What one replica did.
#[derive(Clone, Debug, Serialize)]
pub struct Replica {
    /// Requests that it answered, at least with headers.
    pub requests: u64,
    /// Connections that led to it.
    pub connections: u64,
    /// Chunks with text, or reported tokens.
    pub tokens: u64,
    /// Requests that failed on a connection to it.
    pub failures: u64,
    /// To the first chunk with text.
    pub ttft: Option<Percentiles>,
}

impl Report {
    pub(super) fn new(kind: Kind, tally: &Tally, duration: Duration, in_flight: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "rates have no 52 significant bits")]
        let per_second = |count: u64| count as f64 / duration.as_secs_f64().max(f64::MIN_POSITIVE);
        let failures = |failure| tally.failed.get(&failure).copied().unwrap_or_default();
        Self {
            kind,
            duration: duration.as_secs_f64(),
            requests: Requests {
                ok: tally.ok,
                failed: Failure::ALL
                    .into_iter()
                    .map(|failure| (failure, failures(failure)))
                    .collect(),
                aborted: tally.aborted,
                cancelled: tally.cancelled,
            },
            in_flight,
            connections: tally.connections,
            bytes: tally.bytes,
            tokens: tally.tokens,
            requests_per_second: per_second(tally.ok),
            tokens_per_second: per_second(tally.tokens),
            latency: Latencies {
                connect: tally.connect.percentiles(),
                ttfb: tally.ttfb.percentiles(),
                ttft: tally.ttft.percentiles(),
                itl: tally.itl.percentiles(),
                e2e: tally.e2e.percentiles(),
                start_lag: tally.start_lag.percentiles(),
            },
            replicas: tally
                .replicas
                .iter()
                .map(|(name, replica)| {
                    let replica = Replica {
                        requests: replica.requests,
                        connections: replica.connections,
                        tokens: replica.tokens,
                        failures: replica.failures,
                        ttft: replica.ttft.percentiles(),
                    };
                    (name.clone(), replica)
                })
                .collect(),
            peer_addresses: tally
                .peers
                .iter()
                .map(|(peer, &count)| (peer.to_string(), count))
                .collect(),
            connect_errors: tally.connect_errors.clone(),
            statuses: tally.statuses.clone(),
        }
    }

    /// Requests that failed in any way.
    pub fn failures(&self) -> u64 {
        self.requests.failed.values().sum()
    }
}
