// SPDX-License-Identifier: Apache-2.0
//! The slices of a Service to its backends, by the rules by which kube-proxy uses them.
//!
//! Called by `service`. Source: Kubernetes documentation, "Endpoint Slices" (conditions, duplicates), KEP-1669 (proxying to
//! terminating endpoints) and "Topology Aware Routing" (hints). Invariant: each (address, port, port name) is one backend, however many slices have it.

use std::collections::{BTreeMap, BTreeSet};

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
    /// What hints of the cluster prefer.
    pub(crate) preferred: Preferred,
}

/// Of which levels the cluster says for whom every ready endpoint is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Preferred {
    pub(crate) nodes: bool,
    pub(crate) zones: bool,
}

impl Preferred {
    /// As with kube-proxy: hints of some of the endpoints only say nothing.
    fn of<'a>(ready: impl Iterator<Item = &'a Endpoint>) -> Self {
        let mut preferred = None;
        for endpoint in ready {
            let Self { nodes, zones } = preferred.unwrap_or(Self {
                nodes: true,
                zones: true,
            });
            preferred = Some(Self {
                nodes: nodes && !endpoint.for_nodes.is_empty(),
                zones: zones && !endpoint.for_zones.is_empty(),
            });
        }
        preferred.unwrap_or_default()
    }

    /// The tiers that this comes to.
    pub(crate) fn tiers(self) -> Option<&'static [&'static str]> {
        match (self.nodes, self.zones) {
            (true, true) => Some(&["node", "zone"]),
            (true, false) => Some(&["node"]),
            (false, true) => Some(&["zone"]),
            (false, false) => None,
        }
    }
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
    let endpoints = candidates.values().map(|candidate| candidate.endpoint);
    let ready = endpoints.filter(|endpoint| endpoint.is_ready);
    // Where clients see those of their node only, one of another node is no help.
    let scope = |endpoint: &'a Endpoint| endpoint.node.as_deref().filter(|_| service.is_local_only);
    let scopes: BTreeSet<Option<&str>> = ready.clone().map(scope).collect();
    let preferred = Preferred::of(ready);
    let has_names = service.ports.len() > 1 || service.ports.iter().any(|port| !port.name.is_empty());
    let documents = candidates.values().map(|candidate| {
        let endpoint = candidate.endpoint;
        let state = state(endpoint, scopes.contains(&scope(endpoint)));
        let zone = meant(endpoint.zone.as_deref(), &endpoint.for_zones, preferred.zones);
        // Where clients have to be on its node, it is the one that it is on.
        let is_hinted = preferred.nodes && !service.is_local_only;
        let node = meant(endpoint.node.as_deref(), &endpoint.for_nodes, is_hinted);
        // Meant for another node, it counts for where that is.
        let zone = zone.filter(|_| preferred.zones || node == endpoint.node.as_deref());
        backend(candidate, state, locality(node, zone, topology), has_names)
    });
    Backends {
        documents: documents.collect(),
        preferred,
    }
}

/// The zone or node that an endpoint counts for: its own if it is meant for that too.
fn meant<'a>(own: Option<&'a str>, hinted: &'a [String], has_hints: bool) -> Option<&'a str> {
    let mut hinted = hinted.iter().map(String::as_str);
    match hinted.clone().next() {
        Some(first) if has_hints => own.filter(|own| hinted.any(|name| name == *own)).or(Some(first)),
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
    locality: Option<Value>,
    has_names: bool,
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
    if let Some(locality) = locality {
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
