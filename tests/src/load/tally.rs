// SPDX-License-Identifier: Apache-2.0
//! Counts and distributions of a run. Workers write into shards, [`super::drive`] takes and merges them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::latency::Latency;

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The peer refused the connection.
    ConnectRefused,
    /// No connection within `--connect-timeout`, or the kernel gave up.
    ConnectTimeout,
    /// Another connect error; see `connect_errors`.
    ConnectOther,
    /// No TLS session: the certificate, the version or the peer is wrong.
    TlsHandshake,
    /// RST while the request was in progress.
    Reset,
    /// No byte within `--timeout`.
    Timeout,
    /// A status other than 200.
    HttpStatus,
    /// The connection ended before the answer did.
    Truncated,
    /// The answer is not what the protocol allows.
    Protocol,
}

impl Failure {
    /// Every kind; all of them appear in a report.
    pub const ALL: [Self; 9] = [
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::ConnectOther,
        Self::TlsHandshake,
        Self::Reset,
        Self::Timeout,
        Self::HttpStatus,
        Self::Truncated,
        Self::Protocol,
    ];
}

/// What happened in a span of time.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) ok: u64,
    pub(super) aborted: u64,
    pub(super) cancelled: u64,
    pub(super) failed: BTreeMap<Failure, u64>,
    pub(super) connect_errors: BTreeMap<String, u64>,
    pub(super) statuses: BTreeMap<u16, u64>,
    pub(super) connections: u64,
    pub(super) bytes: u64,
    pub(super) tokens: u64,
    pub(super) connect: Latency<3>,
    pub(super) ttfb: Latency<3>,
    pub(super) ttft: Latency<3>,
    pub(super) itl: Latency<3>,
    pub(super) e2e: Latency<3>,
    pub(super) start_lag: Latency<3>,
    pub(super) replicas: BTreeMap<String, ReplicaTally>,
    pub(super) peers: BTreeMap<SocketAddr, u64>,
}

/// The part of one replica, as named by `x-replica`. Two digits, since there may be hundreds.
#[derive(Default)]
pub(super) struct ReplicaTally {
    pub(super) requests: u64,
    pub(super) connections: u64,
    pub(super) tokens: u64,
    pub(super) failures: u64,
    pub(super) ttft: Latency<2>,
}

impl Tally {
    pub(super) fn replica(&mut self, name: &str) -> &mut ReplicaTally {
        if !self.replicas.contains_key(name) {
            self.replicas.insert(name.to_owned(), ReplicaTally::default());
        }
        self.replicas
            .get_mut(name)
            .expect("inserted above if it was missing")
    }

    /// Counts a connection that took `elapsed` to open.
    pub(super) fn connected(&mut self, peer: SocketAddr, elapsed: Duration) {
        self.connections += 1;
        *self.peers.entry(peer).or_default() += 1;
        self.connect.record(elapsed);
    }

    /// `replica` is the one that the connection is known to lead to.
    pub(super) fn failed(&mut self, failure: Failure, replica: Option<&str>) {
        *self.failed.entry(failure).or_default() += 1;
        if let Some(replica) = replica {
            self.replica(replica).failures += 1;
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.ok += other.ok;
        self.aborted += other.aborted;
        self.cancelled += other.cancelled;
        self.connections += other.connections;
        self.bytes += other.bytes;
        self.tokens += other.tokens;
        add(&mut self.failed, &other.failed);
        add(&mut self.connect_errors, &other.connect_errors);
        add(&mut self.statuses, &other.statuses);
        add(&mut self.peers, &other.peers);
        self.connect.merge(&other.connect);
        self.ttfb.merge(&other.ttfb);
        self.ttft.merge(&other.ttft);
        self.itl.merge(&other.itl);
        self.e2e.merge(&other.e2e);
        self.start_lag.merge(&other.start_lag);
        for (name, replica) in &other.replicas {
            self.replica(name).merge(replica);
        }
    }
}

impl ReplicaTally {
    fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.connections += other.connections;
        self.tokens += other.tokens;
        self.failures += other.failures;
        self.ttft.merge(&other.ttft);
    }
}

fn add<K: Ord + Clone>(counts: &mut BTreeMap<K, u64>, more: &BTreeMap<K, u64>) {
    for (key, count) in more {
        *counts.entry(key.clone()).or_default() += count;
    }
}
