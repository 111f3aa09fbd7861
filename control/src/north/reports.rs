// SPDX-License-Identifier: Apache-2.0
//! What nodes say about themselves, as of their last report.
//!
//! Every report stream has a [`Seat`] for as long as it lives. Invariant: no report outlives its stream, and what a node can put
//! here is limited.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use nodemesh_proto::v1;

/// Characters of a text that are kept.
const MAX_TEXT: usize = 1024;
/// Errors of a node that are kept, and maps.
const MAX_LINES: usize = 64;

/// The last report of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What the node says.
    pub said: v1::NodeReport,
    /// Where it is connected from.
    pub address: Option<SocketAddr>,
    /// When its stream began.
    pub connected_since: SystemTime,
}

#[derive(Debug, Default)]
struct Table {
    rows: BTreeMap<u64, Report>,
    /// Streams, with and without a report.
    streams: usize,
    next: u64,
}

/// The reports; a copy is the same table.
#[derive(Clone, Debug)]
pub struct Reports {
    table: Arc<Mutex<Table>>,
    limit: usize,
}

impl Reports {
    /// Without reports; of at most `limit` streams at once.
    pub fn new(limit: usize) -> Self {
        Self {
            table: Arc::default(),
            limit,
        }
    }

    /// All reports, of the oldest stream first.
    pub fn list(&self) -> Vec<Report> {
        self.table().rows.values().cloned().collect()
    }

    /// A row for a new stream; `None` if there are too many.
    pub(super) fn admit(&self, address: Option<SocketAddr>) -> Option<Seat> {
        let mut table = self.table();
        if table.streams >= self.limit {
            return None;
        }
        table.streams += 1;
        table.next += 1;
        Some(Seat {
            row: table.next,
            reports: self.clone(),
            address,
            connected_since: SystemTime::now(),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The row of one stream; gone when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    reports: Reports,
    row: u64,
    address: Option<SocketAddr>,
    connected_since: SystemTime,
}

impl Seat {
    /// Takes in a report.
    pub(super) fn update(&self, said: v1::NodeReport) {
        let report = Report {
            said: shortened(said),
            address: self.address,
            connected_since: self.connected_since,
        };
        self.reports.table().rows.insert(self.row, report);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.reports.table();
        table.rows.remove(&self.row);
        table.streams = table.streams.saturating_sub(1);
    }
}

fn shortened(said: v1::NodeReport) -> v1::NodeReport {
    let short = |text: String| text.chars().take(MAX_TEXT).collect::<String>();
    let maps = said.maps.into_iter().take(MAX_LINES).map(|usage| v1::MapUsage {
        name: short(usage.name),
        ..usage
    });
    v1::NodeReport {
        node: short(said.node),
        version: short(said.version),
        kernel: short(said.kernel),
        applied_generation: said.applied_generation,
        applied_version: short(said.applied_version),
        errors: said.errors.into_iter().take(MAX_LINES).map(short).collect(),
        maps: maps.collect(),
    }
}
