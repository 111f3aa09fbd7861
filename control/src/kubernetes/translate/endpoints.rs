// SPDX-License-Identifier: Apache-2.0
//! The slices of a Service to its backends, by the rules by which kube-proxy uses them.
//!
//! Called by `service`. Source: Kubernetes documentation, "Endpoint Slices" (conditions, duplicates) and KEP-1669 (proxying to
//! terminating endpoints). Invariant: each (address, port, port name) is one backend, however many slices have it.

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

/// The backends of `service`, of `families`.
pub(crate) fn backends<'a>(
    service: &Service,
    families: &[Family],
    slices: impl Iterator<Item = &'a EndpointSlice>,
    topology: &impl Topology,
    findings: &mut Vec<Finding>,
) -> Vec<Value> {
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
    let has_names = service.ports.len() > 1 || service.ports.iter().any(|port| !port.name.is_empty());
    candidates
        .values()
        .map(|candidate| backend(candidate, has_ready, has_names, topology))
        .collect()
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

fn backend(candidate: &Candidate<'_>, has_ready: bool, has_names: bool, topology: &impl Topology) -> Value {
    let endpoint = candidate.endpoint;
    let mut fields = Map::new();
    fields.insert("address".to_owned(), endpoint.address.to_string().into());
    fields.insert("port".to_owned(), candidate.port.into());
    if let Some(name) = candidate.port_name.filter(|_| has_names) {
        fields.insert("portName".to_owned(), name.into());
    }
    let state = state(endpoint, has_ready);
    if state != BackendState::default() {
        fields.insert("state".to_owned(), state.word().into());
    }
    if let Some(pod) = &endpoint.pod {
        fields.insert("workload".to_owned(), pod.as_str().into());
    }
    if let Some(locality) = locality(endpoint.node.as_deref(), endpoint.zone.as_deref(), topology) {
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
