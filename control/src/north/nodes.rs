// SPDX-License-Identifier: Apache-2.0
//! The answer to `Nodes`: what the xDS server knows of each stream, with what the node reports about itself.

use std::{collections::BTreeMap, time::SystemTime};

use nodemesh_model::{AccessWarning, Kind, Manifest, Resources, Target, Warning};
use nodemesh_proto::v1;

use super::reports::{Report, Reports};
use crate::{
    registry::{Key, State},
    xds::{Node, Nodes, Progress, TypeUrl},
};

/// All that are connected in one way or the other, sorted by id.
pub(super) fn merged(nodes: &Nodes, reports: &Reports) -> Vec<v1::NodeState> {
    let mut by_id: BTreeMap<String, Vec<Report>> = BTreeMap::new();
    for report in reports.list() {
        by_id.entry(report.said.node.clone()).or_default().push(report);
    }
    let streams = nodes.list();
    let mut merged: Vec<_> = streams
        .iter()
        .map(|node| {
            let report = by_id.get(&node.id).and_then(|reports| report_of(node, reports));
            of_stream(node, report, &streams)
        })
        .collect();
    for node in &streams {
        by_id.remove(&node.id);
    }
    merged.extend(by_id.values().flatten().map(of_report));
    merged.sort_by(|a, b| (&a.id, &a.address).cmp(&(&b.id, &b.address)));
    merged
}

/// The report of the same machine, if the id is there twice; the newest of those.
fn report_of<'a>(node: &Node, reports: &'a [Report]) -> Option<&'a Report> {
    let ip = |report: &Report| report.address.map(|address| address.ip());
    let here = node.address.map(|address| address.ip());
    let same = reports.iter().rev().find(|report| ip(report) == here);
    same.or_else(|| reports.last().filter(|_| !node.is_duplicate))
}

fn of_stream(node: &Node, report: Option<&Report>, streams: &[Node]) -> v1::NodeState {
    let types = node
        .types
        .iter()
        .map(|(type_url, progress)| of_type(type_url, progress));
    let mut state = v1::NodeState {
        id: node.id.clone(),
        address: node
            .address
            .map(|address| address.to_string())
            .unwrap_or_default(),
        version: node.user_agent.clone(),
        connected_since_ms: millis(node.connected_since),
        types: types.collect(),
        ..v1::NodeState::default()
    };
    state.types.sort_by(|a, b| a.type_url.cmp(&b.type_url));
    if let Some(report) = report {
        take_in(&mut state, report);
    }
    if node.is_duplicate {
        let is_other = |other: &&Node| other.id == node.id && other.address != node.address;
        let others = streams.iter().filter(is_other).filter_map(|other| other.address);
        let others: Vec<_> = others.map(|address| address.to_string()).collect();
        state.errors.push(format!(
            "the node id is used by another stream too, from {}; give each node an id of its own",
            others.join(", ")
        ));
    }
    state
}

/// A node that reports but takes no resources from here.
fn of_report(report: &Report) -> v1::NodeState {
    let mut state = v1::NodeState {
        id: report.said.node.clone(),
        address: report
            .address
            .map(|address| address.to_string())
            .unwrap_or_default(),
        connected_since_ms: millis(report.connected_since),
        ..v1::NodeState::default()
    };
    take_in(&mut state, report);
    state
}

fn take_in(state: &mut v1::NodeState, report: &Report) {
    let said = &report.said;
    if state.version.is_empty() {
        state.version.clone_from(&said.version);
    }
    state.applied_version.clone_from(&said.applied_version);
    state.errors.clone_from(&said.errors);
    state.kernel.clone_from(&said.kernel);
    state.maps.clone_from(&said.maps);
}

fn of_type(type_url: &TypeUrl, progress: &Progress) -> v1::TypeState {
    v1::TypeState {
        type_url: type_url.to_string(),
        acked_version: progress
            .acked
            .map(|revision| revision.to_string())
            .unwrap_or_default(),
        nack_message: progress
            .nack
            .as_ref()
            .map(|nack| nack.message.clone())
            .unwrap_or_default(),
        ..v1::TypeState::default()
    }
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// What is valid but hardly meant about the resource `key`.
pub(super) fn warnings(state: &State, key: &Key) -> Vec<String> {
    if key.kind == Kind::AccessPolicy {
        return access_warnings(state, key);
    }
    let target = state
        .get(key)
        .and_then(|entry| entry.policy())
        .map(|policy| policy.target.clone());
    match target {
        Some(Target::Service(service)) if state.service(&service).is_none() => {
            let policy = key.name.clone();
            vec![Warning::NoSuchTarget { policy, service }.to_string()]
        }
        _ => Vec::new(),
    }
}

/// Those about the access policy `key`: what its rules match is told by all other resources.
fn access_warnings(state: &State, key: &Key) -> Vec<String> {
    let manifest = Manifest::from_resources(state.entries().map(|entry| entry.resource.clone()));
    let Ok(resources) = Resources::merge([("registry", &manifest)]) else {
        return Vec::new();
    };
    let warnings = resources.warnings().into_iter();
    let of_policy = warnings.filter(|warning| match warning {
        Warning::Access(AccessWarning::NoSuchService { policy, .. }) => *policy == key.name,
        Warning::Access(AccessWarning::Defaults { deny, allow }) => [deny, allow].contains(&&key.name),
        Warning::Access(
            AccessWarning::NoSuchWorkload { rule, .. }
            | AccessWarning::NoAddress { rule, .. }
            | AccessWarning::NoSuchPort { rule, .. }
            | AccessWarning::NoSuchClient { rule, .. },
        ) => rule.policy == key.name,
        Warning::Access(AccessWarning::Shadowed { rule, by, .. }) => {
            [&rule.policy, &by.policy].contains(&&key.name)
        }
        _ => false,
    });
    of_policy.map(|warning| warning.to_string()).collect()
}
