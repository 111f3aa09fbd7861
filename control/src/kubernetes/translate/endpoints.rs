// SPDX-License-Identifier: Apache-2.0
//! The slices of a Service to its backends, by the rules by which kube-proxy uses them.
//!
//! Called by `service`. Source: Kubernetes documentation, "Endpoint Slices" (conditions, duplicates), KEP-1669 (proxying to
//! terminating endpoints) and "Topology Aware Routing" (hints). Invariant: each (address, port, port name) is one backend, however many slices have it.

use std::collections::BTreeMap;

use nodemesh_model::{BackendState, Family, Keyword as _};
use serde_json::{Map, Value, json};

use super::super::{
    finding::{Finding, Reason},
    object::{Endpoint, EndpointPort, EndpointSlice, Node, Service},
};

/// Where nodes are.
pub(crate) trait Topology {
    /// The node `name`, if it is known.
    fn node(&self, name: &str) -> Option<&Node>;
}

/// A backend: what it is and whether it takes new connections.
struct Candidate<'a> {
    endpoint: &'a Endpoint,
    /// `None` if the Service has one port without a name.
    port_name: Option<&'a str>,
    port: u16,
}

/// What the slices of a service come down to.
pub(crate) struct Backends {
    pub(crate) documents: Vec<Value>,
    /// Whether the cluster says of every ready endpoint for which zones it is.
    pub(crate) has_hints: bool,
}

/// The backends of `service`, of `families`.
pub(crate) fn backends<'a>(
    service: &Service,
    families: &[Family],
    slices: impl Iterator<Item = &'a EndpointSlice>,
    topology: &impl Topology,
    findings: &mut Vec<Finding>,
) -> Backends {
    let mut candidates: BTreeMap<_, Candidate<'a>> = BTreeMap::new();
    let mut unknown: Vec<&str> = Vec::new();
    for slice in slices {
        for port in &slice.ports {
            let Some((port_name, number)) = target(service, port) else {
                if !unknown.contains(&port.name.as_str()) {
                    unknown.push(&port.name);
                }
                continue;
            };
            for endpoint in slice
                .endpoints
                .iter()
                .filter(|endpoint| families.contains(&Family::of(endpoint.address)))
            {
                let key = (endpoint.address, number, port_name.map(str::to_owned));
                let candidate = Candidate {
                    endpoint,
                    port_name: slice_name(port),
                    port: number,
                };
                // A slice that is about to be deleted may still have an endpoint that another one has as ready.
                let is_better = candidates
                    .get(&key)
                    .is_none_or(|other| rank(endpoint) > rank(other.endpoint));
                if is_better {
                    candidates.insert(key, candidate);
                }
            }
        }
    }
    for name in unknown {
        findings.push(Finding::new(
            Reason::PortMismatch,
            format!("port {name:?} of its endpoints is none of the Service's; these endpoints are left out: give the port of the \
                     Service that name"),
        ));
    }
    let has_ready = candidates.values().any(|candidate| candidate.endpoint.is_ready);
    let mut ready = candidates
        .values()
        .filter(|candidate| candidate.endpoint.is_ready);
    // As with kube-proxy: hints of some of the endpoints only say nothing.
    let has_hints = has_ready && ready.all(|candidate| !candidate.endpoint.for_zones.is_empty());
    let has_names = service.ports.len() > 1 || service.ports.iter().any(|port| !port.name.is_empty());
    let documents = candidates.values().map(|candidate| {
        let state = state(candidate.endpoint, has_ready);
        let zone = zone(candidate.endpoint, has_hints);
        backend(candidate, state, zone, has_names, topology)
    });
    Backends {
        documents: documents.collect(),
        has_hints,
    }
}

/// The zone that an endpoint counts for: its own if it is meant for that too.
fn zone(endpoint: &Endpoint, has_hints: bool) -> Option<&str> {
    let own = endpoint.zone.as_deref();
    let mut hinted = endpoint.for_zones.iter().map(String::as_str);
    match hinted.clone().next() {
        Some(first) if has_hints => own.filter(|own| hinted.any(|zone| zone == *own)).or(Some(first)),
        _ => own,
    }
}

fn slice_name(port: &EndpointPort) -> Option<&str> {
    Some(port.name.as_str()).filter(|name| !name.is_empty())
}

/// The port of the Service that `port` stands for, and its number at the replica.
fn target<'a>(service: &Service, port: &'a EndpointPort) -> Option<(Option<&'a str>, u16)> {
    let of_service = service
        .ports
        .iter()
        .find(|own| own.name == port.name && own.protocol == port.protocol)?;
    let number = port.port.or(of_service.target)?;
    Some((
        slice_name(port),
        u16::try_from(number).ok().filter(|number| *number > 0)?,
    ))
}

fn rank(endpoint: &Endpoint) -> (bool, bool, bool) {
    (endpoint.is_ready, endpoint.is_serving, !endpoint.is_terminating)
}

/// One that is not ready keeps the connections it has. Where none is ready, those that are terminating and still serve take new
/// ones: better than nobody.
fn state(endpoint: &Endpoint, has_ready: bool) -> BackendState {
    let is_last_resort = !has_ready && endpoint.is_serving && endpoint.is_terminating;
    if endpoint.is_ready || is_last_resort {
        BackendState::Active
    } else {
        BackendState::Draining
    }
}

fn backend(
    candidate: &Candidate<'_>,
    state: BackendState,
    zone: Option<&str>,
    has_names: bool,
    topology: &impl Topology,
) -> Value {
    let endpoint = candidate.endpoint;
    let mut fields = Map::new();
    fields.insert("address".to_owned(), endpoint.address.to_string().into());
    fields.insert("port".to_owned(), candidate.port.into());
    if let Some(name) = candidate.port_name.filter(|_| has_names) {
        fields.insert("portName".to_owned(), name.into());
    }
    if state != BackendState::default() {
        fields.insert("state".to_owned(), state.word().into());
    }
    if let Some(pod) = &endpoint.pod {
        fields.insert("workload".to_owned(), pod.as_str().into());
    }
    if let Some(locality) = locality(endpoint.node.as_deref(), zone, topology) {
        fields.insert("locality".to_owned(), locality);
    }
    fields.into()
}

/// Where something on `node` is; `zone` if it is known from elsewhere.
pub(super) fn locality(node: Option<&str>, zone: Option<&str>, topology: &impl Topology) -> Option<Value> {
    let of_node = node.and_then(|name| topology.node(name));
    let zone = zone.or_else(|| of_node?.zone.as_deref());
    let region = of_node.and_then(|node| node.region.as_deref());
    let levels = [("region", region), ("zone", zone), ("node", node)];
    let known: Map<String, Value> = levels
        .into_iter()
        .filter_map(|(level, name)| Some((level.to_owned(), json!(name?))))
        .collect();
    (!known.is_empty()).then(|| known.into())
}
