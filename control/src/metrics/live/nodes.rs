// SPDX-License-Identifier: Apache-2.0
//! Who is connected, and how far they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::{Family, Lag};
use crate::{
    north::{Report, Sources},
    xds::{Node, Totals, TypeUrl, Variant},
};

pub(super) fn families(sources: &Sources, lag: &Lag, now: Instant) -> Vec<Family> {
    let nodes = sources.nodes.list();
    let mut families = streams(&nodes);
    families.extend(totals(&sources.nodes.totals()));
    families.extend(reports(&sources.reports.list(), lag, now));
    families
}

fn streams(nodes: &[Node]) -> Vec<Family> {
    let mut streams = Family::gauge("xds_streams", "Open xDS streams, by variant.", &["variant"]);
    for (variant, word) in [
        (Variant::Delta, "delta"),
        (Variant::StateOfTheWorld, "state_of_the_world"),
    ] {
        let count = nodes.iter().filter(|node| node.variant == variant).count();
        streams.add(&[word], count as f64);
    }
    let named = nodes.iter().filter(|node| !node.id.is_empty());
    let ids: BTreeSet<&str> = named.map(|node| node.id.as_str()).collect();
    let twice: BTreeSet<&str> = nodes
        .iter()
        .filter(|node| node.is_duplicate)
        .map(|node| node.id.as_str())
        .collect();
    vec![
        streams,
        Family::gauge("nodes", "Nodes with an xDS stream, by different ids.", &[]).with(ids.len() as f64),
        Family::gauge(
            "duplicate_nodes",
            "Node ids that several streams have. More than 0 for longer means two machines with one name.",
            &[],
        )
        .with(twice.len() as f64),
    ]
    .into_iter()
    .chain(progress(nodes))
    .collect()
}

/// Streams per type of resource: the known types, and all others as one.
fn progress(nodes: &[Node]) -> [Family; 3] {
    #[derive(Default)]
    struct Count {
        subscribed: u32,
        in_sync: u32,
        rejecting: u32,
    }
    let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
    for (type_url, progress) in nodes.iter().flat_map(|node| &node.types) {
        let count = counts.entry(word(type_url)).or_default();
        count.subscribed += 1;
        count.in_sync += u32::from(progress.in_sync);
        count.rejecting += u32::from(progress.nack.is_some());
    }
    let mut families = [
        Family::gauge(
            "xds_subscribed",
            "Streams that asked for a type of resource.",
            &["type"],
        ),
        Family::gauge(
            "xds_in_sync",
            "Streams that have and accepted all that there is for them, by type of resource.",
            &["type"],
        ),
        Family::gauge(
            "xds_rejecting",
            "Streams that rejected the last response, by type of resource.",
            &["type"],
        ),
    ];
    for (type_word, count) in counts {
        let numbers = [count.subscribed, count.in_sync, count.rejecting];
        for (family, number) in families.iter_mut().zip(numbers) {
            family.add(&[type_word], number.into());
        }
    }
    families
}

fn word(type_url: &TypeUrl) -> &'static str {
    match type_url {
        TypeUrl::Cluster => "cluster",
        TypeUrl::Endpoints => "endpoints",
        TypeUrl::Listener => "listener",
        TypeUrl::Route => "route",
        TypeUrl::Workloads => "workloads",
        TypeUrl::Policies => "policies",
        TypeUrl::Other(_) => "other",
    }
}

fn totals(totals: &Totals) -> Vec<Family> {
    [
        (
            "xds_streams_total",
            "xDS streams that were opened.",
            totals.streams,
        ),
        (
            "xds_violations_total",
            "xDS streams that were refused or ended because of a limit.",
            totals.violations,
        ),
        ("xds_requests_total", "Requests of xDS streams.", totals.requests),
        (
            "xds_responses_total",
            "Responses on xDS streams.",
            totals.responses,
        ),
        (
            "xds_resources_total",
            "Resources in those responses.",
            totals.resources,
        ),
        ("xds_nacks_total", "Responses that were rejected.", totals.nacks),
    ]
    .into_iter()
    .map(|(name, help, number)| Family::counter(name, help, &[]).with(number as f64))
    .collect()
}

/// From the newest report of each node.
fn reports(reports: &[Report], lag: &Lag, now: Instant) -> [Family; 2] {
    let mut lags = Family::gauge(
        "node_applied_lag_seconds",
        "Time since which there is something that the node's kernel does not have yet, by its last report.",
        &["node"],
    );
    let mut errors = Family::gauge(
        "node_errors",
        "Number of things that keep the node from applying everything, by its last report.",
        &["node"],
    );
    let newest: BTreeMap<&str, &Report> = reports
        .iter()
        .map(|report| (report.said.node.as_str(), report))
        .collect();
    for (node, report) in newest {
        errors.add(&[node], report.said.errors.len() as f64);
        if let Ok(applied) = report.said.applied_version.parse() {
            lags.add(&[node], lag.of(applied, now).as_secs_f64());
        }
    }
    [lags, errors]
}
