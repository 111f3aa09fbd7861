// SPDX-License-Identifier: Apache-2.0
//! What the meter counted, per backend and vantage. Called on each scrape.
//!
//! Invariant: a number is the kernel's own, or a sum of the kernel's own where a backend has several rows (two ports of its
//! service). Backends beyond the configured number share one row, which is the backend `other`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use anyhow::Result;
use nodemesh_abi::{
    Cancel, Outcome, Traffic, Vantage,
    traffic::{DURATION_BOUNDS_NS, FIRST_BOUNDS_NS, GAP_BOUNDS_NS, RTT_BOUNDS_NS, SHARED_PAIR, SIZE_BOUNDS},
};
use nodemesh_model::ResourceName;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{
    family::{self, Family, METERED},
    text::{Bounds, Labels, Scrape},
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

static FIRST: LazyLock<Bounds> = LazyLock::new(|| Bounds::new(&FIRST_BOUNDS_NS, NANOSECONDS));
static GAP: LazyLock<Bounds> = LazyLock::new(|| Bounds::new(&GAP_BOUNDS_NS, NANOSECONDS));
static DURATION: LazyLock<Bounds> = LazyLock::new(|| Bounds::new(&DURATION_BOUNDS_NS, NANOSECONDS));
static SIZE: LazyLock<Bounds> = LazyLock::new(|| Bounds::new(&SIZE_BOUNDS, BYTES));
static RTT: LazyLock<Bounds> = LazyLock::new(|| Bounds::new(&RTT_BOUNDS_NS, NANOSECONDS));

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
}

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
    let mut rows: BTreeMap<(Subject, &str), Row> = BTreeMap::new();
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
    for ((subject, vantage), row) in &rows {
        write_row(scrape, subject, vantage, row);
    }
    Ok(())
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
}

fn write_row(scrape: &mut Scrape, subject: &Subject, vantage: &str, row: &Row) {
    let Subject {
        namespace,
        service,
        backend,
        model,
    } = subject;
    let labels = Labels::new(METERED, &[namespace, service, backend, vantage, model]);
    let traffic = &row.traffic;
    let mut sample = |family, value| scrape.sample(family, &labels, &[], value);
    sample(&family::IN_FLIGHT, level(traffic.in_flight));
    sample(&family::BYTES_IN_FLIGHT, level(traffic.request_bytes_in_flight));
    sample(&family::OPEN, level(traffic.connections));
    sample(&family::STALLED, row.stalled);
    sample(&family::CHUNKS, traffic.chunks);
    sample(&family::TRUNCATED, traffic.requests[Outcome::Truncated as usize]);
    sample(&family::RACES, traffic.requests[Outcome::KeepaliveRace as usize]);
    sample(&family::AMBIGUOUS, traffic.ambiguous);
    sample(&family::METERED_CONNECTIONS, traffic.connections_opened);
    sample(&family::RETRANSMITS, traffic.retransmits);
    scrape.sample(
        &family::LAST_BYTE_AGE,
        &labels,
        &[],
        row.quiet_ns as f64 / NANOSECONDS,
    );
    for (outcome, count) in Outcome::ALL.iter().zip(traffic.requests) {
        scrape.sample(&family::REQUESTS, &labels, &[outcome.label()], count);
    }
    for (cancel, count) in Cancel::ALL.iter().zip(traffic.cancels) {
        let (phase, how) = cancel.label().split_once('/').expect("a cancel has two parts");
        scrape.sample(&family::CANCELS, &labels, &[phase, how], count);
    }
    for (direction, bytes) in [("request", traffic.bytes_up), ("response", traffic.bytes_down)] {
        scrape.sample(&family::BYTES, &labels, &[direction], bytes);
    }
    let histograms: [(&'static Family, &Bounds, &[u64]); 7] = [
        (&family::FIRST_BYTE, &FIRST, &traffic.first_byte),
        (&family::FIRST_TOKEN, &FIRST, &traffic.first_token),
        (&family::GAP, &GAP, &traffic.gap),
        (&family::DURATION, &DURATION, &traffic.duration),
        (&family::REQUEST_SIZE, &SIZE, &traffic.request_size),
        (&family::RESPONSE_SIZE, &SIZE, &traffic.response_size),
        (&family::RTT, &RTT, &traffic.rtt),
    ];
    for (family, bounds, slots) in histograms {
        let (sum, counts) = slots.split_last().expect("a histogram has a sum");
        scrape.histogram(family, &labels, bounds, counts, *sum);
    }
}

/// A number that programs on several CPUs add to and subtract from: while an end has been counted and the beginning before it not
/// yet, it is below zero, which means zero.
fn level(number: u64) -> u64 {
    number.cast_signed().max(0).cast_unsigned()
}

#[cfg(test)]
mod tests;
