// SPDX-License-Identifier: Apache-2.0
//! What the clients on all nodes make of each backend: the sum of the last report of each node.
//!
//! Kept as sums, so that reading costs what there are backends, however many nodes report them. Invariant: what a node
//! contributes to the gauges is taken out again by its next report, when its stream ends, or when it has been silent for
//! [`SILENT_INTERVALS`] intervals; what it counted stays.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Intervals after which a node that does not report has no load any more.
const SILENT_INTERVALS: u32 = 4;
/// How long the counters of a backend stay that no node has.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// Backends in one report.
pub(super) const MAX_OF_NODE: usize = 65_536;
/// Backends in all.
const MAX_BACKENDS: usize = 262_144;

/// A backend of a port of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// Name of its cluster: `namespace/service/port` if it is one of ours.
    pub cluster: Arc<str>,
    /// Its address.
    pub address: SocketAddr,
}

/// What a node says about a backend since its last report.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Delta {
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) current: Current,
}

/// What holds until the next report.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Current {
    pub(super) in_flight: u64,
    pub(super) connections: u64,
    /// Requests per second.
    pub(super) rate: f64,
    pub(super) ttft_sum_s: f64,
    pub(super) ttft_count: u64,
}

/// What all nodes say about a backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Nodes that have something going on with it.
    pub nodes: u32,
    /// Requests in flight.
    pub in_flight: u64,
    /// Open connections.
    pub connections: u64,
    /// Requests since this table was made.
    pub requests: u64,
    /// Errors since then.
    pub errors: u64,
    /// Requests per second in the last interval.
    pub rate: f64,
    /// Sum of the times to first token in the last interval, seconds.
    pub ttft_sum_s: f64,
    /// How many those were.
    pub ttft_count: u64,
    last_seen: Instant,
}

#[derive(Debug)]
struct Row {
    current: HashMap<BackendKey, Current>,
    last_report: Instant,
}

#[derive(Debug, Default)]
struct Table {
    rows: HashMap<u64, Row>,
    sums: BTreeMap<BackendKey, Load>,
    next: u64,
    ignored: u64,
}

/// The table; a copy is the same table.
#[derive(Clone, Debug)]
pub struct Loads {
    table: Arc<Mutex<Table>>,
    limit: usize,
    /// How often nodes report.
    pub(super) interval: Duration,
}

impl Loads {
    /// Without load; of at most `limit` nodes at once, which report every `interval`.
    pub fn new(limit: usize, interval: Duration) -> Self {
        Self {
            table: Arc::default(),
            limit,
            interval,
        }
    }

    /// Every backend that a node told of, in the order of the keys.
    pub fn list(&self) -> Vec<(BackendKey, Load)> {
        let table = self.table();
        table
            .sums
            .iter()
            .map(|(key, load)| (key.clone(), *load))
            .collect()
    }

    /// Nodes that report load, and entries of reports that were ignored because there were too many, or they made no sense.
    pub fn counts(&self) -> (usize, u64) {
        let table = self.table();
        (table.rows.len(), table.ignored)
    }

    /// Drops what is too old; to be called now and then.
    pub fn tidy(&self, now: Instant) {
        let mut guard = self.table();
        let table = &mut *guard;
        let silent = self.interval * SILENT_INTERVALS;
        for row in table.rows.values_mut() {
            if now.duration_since(row.last_report) > silent {
                for (key, current) in row.current.drain() {
                    withdraw(&mut table.sums, &key, &current);
                }
            }
        }
        table
            .sums
            .retain(|_, load| load.nodes > 0 || now.duration_since(load.last_seen) < REMEMBERED);
    }

    /// A row for a new stream; `None` if there are too many.
    pub(super) fn admit(&self, now: Instant) -> Option<Seat> {
        let mut table = self.table();
        if table.rows.len() >= self.limit {
            return None;
        }
        table.next += 1;
        let row = table.next;
        let empty = Row {
            current: HashMap::new(),
            last_report: now,
        };
        table.rows.insert(row, empty);
        drop(table);
        Some(Seat {
            loads: self.clone(),
            row,
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The row of one stream; its load is gone when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    loads: Loads,
    row: u64,
}

impl Seat {
    /// Takes in a report, which is of all backends that have load; `ignored` entries of it made no sense.
    pub(super) fn update(&self, report: Vec<(BackendKey, Delta)>, ignored: u64, now: Instant) {
        let mut guard = self.loads.table();
        let table = &mut *guard;
        table.ignored += ignored;
        let Some(row) = table.rows.get_mut(&self.row) else {
            return;
        };
        row.last_report = now;
        for (key, current) in row.current.drain() {
            withdraw(&mut table.sums, &key, &current);
        }
        for (key, delta) in report {
            let is_room = table.sums.len() < MAX_BACKENDS || table.sums.contains_key(&key);
            if !is_room || row.current.contains_key(&key) {
                table.ignored += 1;
                continue;
            }
            add(&mut table.sums, &key, &delta, now);
            row.current.insert(key, delta.current);
        }
    }

    /// How often the node is to report.
    pub(super) fn interval(&self) -> Duration {
        self.loads.interval
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut guard = self.loads.table();
        let table = &mut *guard;
        if let Some(row) = table.rows.remove(&self.row) {
            for (key, current) in row.current {
                withdraw(&mut table.sums, &key, &current);
            }
        }
    }
}

fn add(sums: &mut BTreeMap<BackendKey, Load>, key: &BackendKey, delta: &Delta, now: Instant) {
    let load = sums.entry(key.clone()).or_insert(Load {
        nodes: 0,
        in_flight: 0,
        connections: 0,
        requests: 0,
        errors: 0,
        rate: 0.0,
        ttft_sum_s: 0.0,
        ttft_count: 0,
        last_seen: now,
    });
    let current = &delta.current;
    load.nodes += 1;
    load.in_flight = load.in_flight.wrapping_add(current.in_flight);
    load.connections = load.connections.wrapping_add(current.connections);
    load.requests = load.requests.wrapping_add(delta.requests);
    load.errors = load.errors.wrapping_add(delta.errors);
    load.rate += current.rate;
    load.ttft_sum_s += current.ttft_sum_s;
    load.ttft_count = load.ttft_count.wrapping_add(current.ttft_count);
    load.last_seen = now;
}

/// Takes out what was added. Sums wrap, so that what one node says never keeps the sum of the others from being right.
fn withdraw(sums: &mut BTreeMap<BackendKey, Load>, key: &BackendKey, current: &Current) {
    let Some(load) = sums.get_mut(key) else {
        return;
    };
    load.nodes = load.nodes.saturating_sub(1);
    load.in_flight = load.in_flight.wrapping_sub(current.in_flight);
    load.connections = load.connections.wrapping_sub(current.connections);
    load.ttft_count = load.ttft_count.wrapping_sub(current.ttft_count);
    if load.nodes == 0 {
        // What rounding left.
        (load.rate, load.ttft_sum_s) = (0.0, 0.0);
    } else {
        load.rate = (load.rate - current.rate).max(0.0);
        load.ttft_sum_s = (load.ttft_sum_s - current.ttft_sum_s).max(0.0);
    }
}
