// SPDX-License-Identifier: Apache-2.0
//! What the placement of connections counted, per backend and per service. Called on each scrape.
//!
//! Invariant: counters of one service and backend (two ports with the same backend) are added up, so that no series is given
//! twice.

use std::collections::BTreeMap;

use anyhow::Result;
use nodemesh_abi::{
    BackendState, ConnectFailure, Ejection, Refusal,
    backend::{CONNECT_BOUNDS_NS, PROBE},
};
use nodemesh_model::ResourceName;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::{
    family::{self, Family, PLACED},
    scrape::{Bounds, Labels, Scrape},
};
use crate::{
    admin::{Node, report},
    datapath::clock::monotonic_ns,
    reconcile::view::View,
};

/// With more backends than this on a node, those that it has never used have no counters: a scrape must not grow with the
/// cluster.
const MOST_UNUSED: usize = 2_000;

const CONNECT: Bounds = Bounds {
    bounds: &CONNECT_BOUNDS_NS,
    scale: 1e9,
};

/// A family with one number per backend.
type Number = (&'static Family, fn(&BackendState) -> u64);

static NUMBERS: [Number; 3] = [
    (&family::OPENED, |state| state.opened),
    (&family::CLOSED, |state| state.closed),
    (&family::ACTIVE, |state| state.active),
];

/// A service and the address of one of its backends.
type Subject<'a> = (&'a ResourceName, String);

/// What was counted of each backend of each service.
type States<'a> = BTreeMap<Subject<'a>, BackendState>;

#[derive(Default)]
struct Counted<'a> {
    states: States<'a>,
    weights: BTreeMap<(Subject<'a>, &'static str), u64>,
    ejected: BTreeMap<Subject<'a>, Standing>,
}

/// Where an ejected backend is on its way back, by any of its ports.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    waits: bool,
    is_probed: bool,
}

impl Standing {
    fn add(&mut self, state: &BackendState, now: u64) {
        let until = state.ejected_until_ns;
        let is_probed = until & PROBE != 0 && until > now;
        self.is_probed |= is_probed;
        self.waits |= until != 0 && !is_probed;
    }
}

/// Writes the families of backends and services.
pub(super) fn write(scrape: &mut Scrape, node: &Node, view: &View) -> Result<()> {
    let counted = count(node, view)?;
    write_states(scrape, &counted.states)?;
    scrape.family(&family::EJECTED, |samples| {
        for (subject, standing) in &counted.ejected {
            let labels = labels(subject);
            samples.number(&labels, &["waiting"], f64::from(u8::from(standing.waits)));
            samples.number(&labels, &["half_open"], f64::from(u8::from(standing.is_probed)));
        }
    })?;
    scrape.family(&family::BACKEND_WEIGHT, |samples| {
        for ((subject, state), weight) in &counted.weights {
            samples.number(&labels(subject), &[state], *weight as f64);
        }
    })?;
    write_refusals(scrape, node, view)
}

fn count<'a>(node: &Node, view: &'a View) -> Result<Counted<'a>> {
    let (mut counted, now) = (Counted::default(), monotonic_ns());
    let known: usize = view
        .frontends
        .iter()
        .map(|programmed| programmed.backends.len())
        .sum();
    for programmed in &view.frontends {
        let service = &programmed.frontend.service;
        for (backend, place) in programmed.frontend.backends.iter().zip(&programmed.backends) {
            let state = node.maps.backend_state(place.id)?;
            if known > MOST_UNUSED && state.opened == 0 {
                continue;
            }
            let subject = (service, report::endpoint(backend.addr, backend.port));
            add(counted.states.entry(subject.clone()).or_default(), &state);
            counted
                .ejected
                .entry(subject.clone())
                .or_default()
                .add(&state, now);
            let word = report::state(backend.state).word();
            *counted.weights.entry((subject, word)).or_default() += u64::from(backend.weight);
        }
    }
    for (id, retired) in &view.retired {
        let Some(service) = &retired.service else { continue };
        let subject = (service, report::endpoint(retired.row.addr, retired.row.port));
        add(
            counted.states.entry(subject).or_default(),
            &node.maps.backend_state(*id)?,
        );
    }
    Ok(counted)
}

/// A state is nothing but numbers that can be added.
fn add(sum: &mut BackendState, more: &BackendState) {
    let sums = <[u64]>::mut_from_bytes(sum.as_mut_bytes()).expect("a state is made of u64");
    let more = <[u64]>::ref_from_bytes(more.as_bytes()).expect("a state is made of u64");
    sums.iter_mut()
        .zip(more)
        .for_each(|(sum, more)| *sum = sum.wrapping_add(*more));
}

fn labels((service, backend): &Subject<'_>) -> Labels {
    Labels::new(PLACED, &[service.namespace(), service.name(), backend])
}

fn write_states(scrape: &mut Scrape, states: &States<'_>) -> prometheus::Result<()> {
    let states: Vec<(Labels, &BackendState)> = states
        .iter()
        .map(|(subject, state)| (labels(subject), state))
        .collect();
    for (family, number) in &NUMBERS {
        scrape.family(family, |samples| {
            for (labels, state) in &states {
                samples.number(labels, &[], number(state) as f64);
            }
        })?;
    }
    scrape.family(&family::FAILED, |samples| {
        for (labels, state) in &states {
            for (failure, count) in ConnectFailure::ALL.iter().zip(state.failed) {
                samples.number(labels, &[failure.label()], count as f64);
            }
        }
    })?;
    scrape.family(&family::EJECTIONS, |samples| {
        for (labels, state) in &states {
            for (ejection, count) in Ejection::ALL.iter().zip(state.ejected) {
                samples.number(labels, &[ejection.label()], count as f64);
            }
        }
    })?;
    scrape.family(&family::FAILURES, |samples| {
        for (labels, state) in &states {
            samples.number(labels, &["connect"], state.connect_failures as f64);
            samples.number(labels, &["request"], state.request_failures as f64);
        }
    })?;
    scrape.family(&family::CONNECT_DURATION, |samples| {
        for (labels, state) in &states {
            samples.histogram(labels, CONNECT, &state.connect_buckets, state.connect_ns);
        }
    })
}

fn write_refusals(scrape: &mut Scrape, node: &Node, view: &View) -> Result<()> {
    let mut refused: BTreeMap<&ResourceName, [u64; Refusal::COUNT]> = BTreeMap::new();
    for programmed in &view.frontends {
        let state = node.maps.service_state(programmed.service_id)?;
        if view.frontends.len() > MOST_UNUSED && state.refused.iter().all(|count| *count == 0) {
            continue;
        }
        let sums = refused.entry(&programmed.frontend.service).or_default();
        sums.iter_mut()
            .zip(state.refused)
            .for_each(|(sum, more)| *sum += more);
    }
    scrape.family(&family::REFUSALS, |samples| {
        for (service, counts) in refused {
            let labels = Labels::new(&PLACED[..2], &[service.namespace(), service.name()]);
            for (refusal, count) in Refusal::ALL.iter().zip(counts) {
                samples.number(&labels, &[refusal.label()], count as f64);
            }
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ports_of_a_backend_are_one_series() {
        let mut state = BackendState {
            opened: 4,
            closed: 3,
            active: 1,
            connect_ns: 5_000_000,
            ..BackendState::default()
        };
        state.failed[ConnectFailure::Timeout as usize] = 2;
        state.connect_buckets[1] = 4;
        let mut sum = BackendState::default();
        add(&mut sum, &state);
        add(&mut sum, &state);
        let mut scrape = Scrape::default();
        let service = ResourceName::new("prod", "chat").unwrap();
        let subject = (&service, "10.0.0.1:8000".to_owned());
        write_states(&mut scrape, &States::from([(subject, sum)])).unwrap();
        let text = scrape.finish();
        let labels = "namespace=\"prod\",service=\"chat\",backend=\"10.0.0.1:8000\"";
        for line in [
            format!("nodemesh_connections_opened_total{{{labels}}} 8"),
            format!("nodemesh_connections_failed_total{{{labels},reason=\"timeout\"}} 4"),
            format!("nodemesh_connect_duration_seconds_bucket{{{labels},le=\"0.0005\"}} 8"),
            format!("nodemesh_connect_duration_seconds_bucket{{{labels},le=\"0.0001\"}} 0"),
            format!("nodemesh_connect_duration_seconds_sum{{{labels}}} 0.01"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
    }
}
