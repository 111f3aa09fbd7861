// SPDX-License-Identifier: Apache-2.0
//! What the meter counted, per backend and vantage. Called on each scrape.
//!
//! Invariant: a number is the kernel's own, or a sum of the kernel's own where a backend has several rows (two ports of its
//! service). Backends beyond the configured number share one row, which is the backend `other`.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use nodemesh_abi::{
    Cancel, Outcome, Traffic, Vantage,
    traffic::{DURATION_BOUNDS_NS, FIRST_BOUNDS_NS, GAP_BOUNDS_NS, RTT_BOUNDS_NS, SHARED_PAIR, SIZE_BOUNDS},
};
use nodemesh_model::ResourceName;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{
    family::{self, Family, METERED},
    scrape::{Bounds, Labels, Scrape},
};
use crate::{
    admin::{Node, report::endpoint},
    reconcile::view::View,
    sweep::RowActivity,
};

/// Service and backend of the row that many share. Its namespace is empty, as that of no service is.
const OTHER: &str = "other";

const NANOSECONDS: f64 = 1e9;
const BYTES: f64 = 1.0;

/// A family with one number per row.
type Number = (&'static Family, fn(&Row) -> f64);
/// A family with one histogram per row: its bounds, and its slots in the row, of which the last is the sum.
type Distribution = (&'static Family, Bounds, fn(&Traffic) -> &[u64]);

static NUMBERS: [Number; 11] = [
    (&family::IN_FLIGHT, |row| level(row.traffic.in_flight) as f64),
    (&family::BYTES_IN_FLIGHT, |row| {
        level(row.traffic.request_bytes_in_flight) as f64
    }),
    (&family::OPEN, |row| level(row.traffic.connections) as f64),
    (&family::STALLED, |row| row.stalled as f64),
    (&family::LAST_BYTE_AGE, |row| row.quiet_ns as f64 / NANOSECONDS),
    (&family::CHUNKS, |row| row.traffic.chunks as f64),
    (&family::TRUNCATED, |row| row.requests(Outcome::Truncated)),
    (&family::RACES, |row| row.requests(Outcome::KeepaliveRace)),
    (&family::AMBIGUOUS, |row| row.traffic.ambiguous as f64),
    (&family::METERED_CONNECTIONS, |row| {
        row.traffic.connections_opened as f64
    }),
    (&family::RETRANSMITS, |row| row.traffic.retransmits as f64),
];

static DISTRIBUTIONS: [Distribution; 7] = [
    (&family::FIRST_BYTE, times(&FIRST_BOUNDS_NS), |row| {
        &row.first_byte
    }),
    (&family::FIRST_TOKEN, times(&FIRST_BOUNDS_NS), |row| {
        &row.first_token
    }),
    (&family::GAP, times(&GAP_BOUNDS_NS), |row| &row.gap),
    (&family::DURATION, times(&DURATION_BOUNDS_NS), |row| &row.duration),
    (&family::REQUEST_SIZE, sizes(&SIZE_BOUNDS), |row| {
        &row.request_size
    }),
    (&family::RESPONSE_SIZE, sizes(&SIZE_BOUNDS), |row| {
        &row.response_size
    }),
    (&family::RTT, times(&RTT_BOUNDS_NS), |row| &row.rtt),
];

const fn times(bounds: &'static [u64]) -> Bounds {
    Bounds {
        bounds,
        scale: NANOSECONDS,
    }
}

const fn sizes(bounds: &'static [u64]) -> Bounds {
    Bounds { bounds, scale: BYTES }
}

/// Whom a row is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Subject {
    namespace: String,
    service: String,
    backend: String,
    model: String,
}

/// What is known of a subject from one vantage.
#[derive(Debug, Default)]
struct Row {
    traffic: Traffic,
    stalled: u64,
    quiet_ns: u64,
}

impl Row {
    fn add(&mut self, traffic: &Traffic, activity: RowActivity) {
        words_mut(&mut self.traffic)
            .iter_mut()
            .zip(words(traffic))
            .for_each(|(sum, more)| *sum = sum.wrapping_add(*more));
        self.stalled += activity.stalled;
        self.quiet_ns = self.quiet_ns.max(activity.quiet_ns);
    }

    fn requests(&self, outcome: Outcome) -> f64 {
        self.traffic.requests[outcome as usize] as f64
    }
}

/// Rows by subject and the word of their vantage.
type Rows = BTreeMap<(Subject, &'static str), Row>;

/// A row is nothing but numbers that can be added.
fn words(row: &Traffic) -> &[u64] {
    <[u64]>::ref_from_bytes(row.as_bytes()).expect("a row is made of u64")
}

fn words_mut(row: &mut Traffic) -> &mut [u64] {
    <[u64]>::mut_from_bytes(row.as_mut_bytes()).expect("a row is made of u64")
}

/// Writes every row that has had a connection.
pub(super) fn write(scrape: &mut Scrape, node: &Node, view: &View) -> Result<()> {
    let sweep = node.sweep();
    let mut rows = Rows::new();
    for (pair, subject) in subjects(view) {
        for vantage in Vantage::ALL {
            let index = vantage.row(pair);
            let traffic = node.maps.traffic(index)?;
            if traffic.connections_opened > 0 {
                let row = rows.entry((subject.clone(), vantage.label())).or_default();
                row.add(&traffic, sweep.row(index));
            }
        }
    }
    Ok(write_rows(scrape, &rows)?)
}

/// The pairs of rows in use, the shared one among them.
fn subjects(view: &View) -> Vec<(u32, Subject)> {
    let mut subjects = vec![(SHARED_PAIR, Subject::other())];
    let mut models: HashMap<&ResourceName, &str> = HashMap::new();
    for programmed in &view.frontends {
        let frontend = &programmed.frontend;
        let model = frontend.model.as_deref().unwrap_or_default();
        models.insert(&frontend.service, model);
        for (backend, place) in frontend.backends.iter().zip(&programmed.backends) {
            let address = endpoint(backend.addr, backend.port);
            if place.traffic != SHARED_PAIR {
                subjects.push((place.traffic, Subject::new(&frontend.service, address, model)));
            }
        }
    }
    for (_, retired) in &view.retired {
        let Some(service) = &retired.service else { continue };
        let address = endpoint(retired.row.addr, retired.row.port);
        if retired.row.traffic != SHARED_PAIR {
            // Its series go on under the name that they had, as long as the service is there.
            let model = models.get(service).copied().unwrap_or_default();
            subjects.push((retired.row.traffic, Subject::new(service, address, model)));
        }
    }
    subjects
}

impl Subject {
    fn new(service: &ResourceName, backend: String, model: &str) -> Self {
        Self {
            namespace: service.namespace().to_owned(),
            service: service.name().to_owned(),
            backend,
            model: model.to_owned(),
        }
    }

    fn other() -> Self {
        Self {
            namespace: String::new(),
            service: OTHER.to_owned(),
            backend: OTHER.to_owned(),
            model: String::new(),
        }
    }

    fn labels(&self, vantage: &str) -> Labels {
        let Self {
            namespace,
            service,
            backend,
            model,
        } = self;
        Labels::new(METERED, &[namespace, service, backend, vantage, model])
    }
}

fn write_rows(scrape: &mut Scrape, rows: &Rows) -> prometheus::Result<()> {
    let rows: Vec<(Labels, &Row)> = rows
        .iter()
        .map(|((subject, vantage), row)| (subject.labels(vantage), row))
        .collect();
    for (family, number) in &NUMBERS {
        scrape.family(family, |samples| {
            for (labels, row) in &rows {
                samples.number(labels, &[], number(row));
            }
        })?;
    }
    write_split(scrape, &rows)?;
    for (family, bounds, slots) in &DISTRIBUTIONS {
        scrape.family(family, |samples| {
            for (labels, row) in &rows {
                let (sum, counts) = slots(&row.traffic).split_last().expect("a histogram has a sum");
                samples.histogram(labels, *bounds, counts, *sum);
            }
        })?;
    }
    Ok(())
}

/// Writes the families that split a number of the row by more labels.
fn write_split(scrape: &mut Scrape, rows: &[(Labels, &Row)]) -> prometheus::Result<()> {
    scrape.family(&family::REQUESTS, |samples| {
        for (labels, row) in rows {
            for outcome in Outcome::ALL {
                samples.number(labels, &[outcome.label()], row.requests(*outcome));
            }
        }
    })?;
    scrape.family(&family::CANCELS, |samples| {
        for (labels, row) in rows {
            for (cancel, count) in Cancel::ALL.iter().zip(row.traffic.cancels) {
                let (phase, how) = cancel.label().split_once('/').expect("a cancel has two parts");
                samples.number(labels, &[phase, how], count as f64);
            }
        }
    })?;
    scrape.family(&family::BYTES, |samples| {
        for (labels, row) in rows {
            samples.number(labels, &["request"], row.traffic.bytes_up as f64);
            samples.number(labels, &["response"], row.traffic.bytes_down as f64);
        }
    })
}

/// A number that programs on several CPUs add to and subtract from: while an end has been counted and the beginning before it not
/// yet, it is below zero, which means zero.
fn level(number: u64) -> u64 {
    number.cast_signed().max(0).cast_unsigned()
}

#[cfg(test)]
mod tests;
