// SPDX-License-Identifier: Apache-2.0
//! One service from its listeners, their clusters and assignments. Called by `assemble` when any of them changed.
//!
//! Invariant: the result depends on nothing but the arguments; of listeners that contradict each other the first by name wins.

use std::{collections::BTreeMap, net::IpAddr};

use nodemesh_abi::Protocol;
use nodemesh_model::{BackendState, Family, Keyword, Kind, ResourceName, ServiceRules, document::document};
use serde_json::{Map, Value, json};

use super::{
    Rejected, Unsupported, Waiting,
    assignment::Assignment,
    cluster::Cluster,
    listener::{Listener, Target},
    share::{Branch, Replica, replicas},
};
use crate::type_url;

mod packet;
mod settings;
mod upstream;

use settings::Settings;
use upstream::Upstream;

/// What a service is made of.
pub(super) trait Sources {
    /// The cluster of this name.
    fn cluster(&self, name: &str) -> Option<&Cluster>;
    /// The assignment of this name.
    fn assignment(&self, name: &str) -> Option<&Assignment>;
    /// The rules of the document of this name.
    fn rules(&self, name: &str) -> Option<&ServiceRules>;
}

/// What the listeners of a service come to.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// The documents of the service and its policy, if they can be told: see `waiting`.
    pub(super) documents: Vec<Value>,
    pub(super) waiting: Vec<Waiting>,
    pub(super) rejected: Vec<Rejected>,
    pub(super) unsupported: Vec<Unsupported>,
}

/// A port of a service.
struct Port<'a> {
    /// Name of the listener that decides.
    listener: &'a str,
    name: Option<&'a str>,
    target: &'a Target,
    listeners: usize,
}

type Ports<'a> = BTreeMap<(u16, Protocol), Port<'a>>;

/// Puts the service `name` together from `listeners`, which are in the order of their names.
pub(super) fn draft(name: &ResourceName, listeners: &[(&str, &Listener)], sources: &impl Sources) -> Draft {
    let mut draft = Draft::default();
    let (addresses, ports) = frontends(listeners, &mut draft);
    if addresses.len() * ports.len() != ports.values().map(|port| port.listeners).sum::<usize>() {
        let listener = ports.values().next().map_or("", |port| port.listener);
        draft.note_listener(listener, "the ports of a service are open on all its addresses");
    }
    let mut written = Vec::new();
    let mut backends = Vec::new();
    let mut settings = None;
    let mut is_taken = true;
    for (key, port) in &ports {
        let upstreams = upstream::upstreams(port, sources, &mut draft);
        let Some(first) = upstreams.as_ref().and_then(|upstreams| upstreams.first()) else {
            is_taken = false;
            continue;
        };
        let Some(own) = draft.settings(first.cluster, port, sources) else {
            is_taken = false;
            continue;
        };
        if *settings.get_or_insert_with(|| own.clone()) != own {
            draft.note_listener(port.listener, "balanced like the first port of the service");
        }
        let scope = (ports.len() > 1).then(|| port_name(*key, port));
        let name = scope.as_deref().or(port.name);
        written.push(port_document(*key, name, first.cluster.target_port));
        let upstreams = upstreams.as_deref().unwrap_or_default();
        backends.append(&mut draft.backends(port, scope.as_deref(), upstreams, &addresses));
    }
    let Some(settings) = settings.filter(|_| is_taken && draft.waiting.is_empty()) else {
        return draft;
    };
    let model = listeners
        .iter()
        .find_map(|(_, listener)| listener.model.as_deref());
    let mut spec = json!({"model": model, "addresses": addresses, "ports": written, "backends": backends});
    packet::add(&mut spec, listeners, &ports, &addresses, &mut draft);
    let metadata = json!({"namespace": name.namespace(), "name": name.name()});
    draft.documents = vec![document(Kind::Service, metadata.clone(), spec)];
    if !settings.is_default() {
        let policy = document(Kind::TrafficPolicy, metadata, settings.spec(name));
        draft.documents.push(policy);
    }
    draft
}

/// The virtual addresses and ports of the listeners.
fn frontends<'a>(listeners: &[(&'a str, &'a Listener)], draft: &mut Draft) -> (Vec<IpAddr>, Ports<'a>) {
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut ports = Ports::new();
    for (name, listener) in listeners {
        let other_of = |address: &IpAddr| {
            let is_other =
                |known: &&IpAddr| **known != *address && Family::of(**known) == Family::of(*address);
            addresses.iter().find(is_other).copied()
        };
        if let Some((address, other)) = listener
            .addresses
            .iter()
            .find_map(|own| Some((own, other_of(own)?)))
        {
            draft.rejected.push(Rejected {
                type_url: type_url::LISTENER.to_owned(),
                resource: (*name).to_owned(),
                field: "address".to_owned(),
                reason: format!(
                    "is {address}, but Service {} has {other} already; use one address per family and service",
                    listener.service
                ),
            });
            continue;
        }
        for address in &listener.addresses {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        let port = ports
            .entry((listener.port, listener.protocol))
            .or_insert_with(|| Port {
                listener: name,
                name: None,
                target: &listener.target,
                listeners: 0,
            });
        port.listeners += listener.addresses.len();
        port.name = port.name.or(listener.port_name.as_deref());
        if *port.target != listener.target {
            draft.note_listener(
                name,
                "its clusters are those of another listener of the service and port",
            );
        }
    }
    (addresses, ports)
}

impl Draft {
    fn wait(&mut self, listener: &str, type_url: &'static str, resource: &str) {
        self.waiting.push(Waiting {
            listener: listener.to_owned(),
            type_url,
            resource: resource.to_owned(),
        });
    }

    /// What the policy of a service whose `port` is served by `cluster` says; `None` if it is waited for.
    fn settings(&mut self, cluster: &Cluster, port: &Port<'_>, sources: &impl Sources) -> Option<Settings> {
        let rules = match &cluster.policy {
            None => cluster.told.fields(port.target.limits),
            Some(name) => {
                let Some(rules) = sources.rules(name) else {
                    self.wait(port.listener, type_url::POLICY_DOCUMENT, name);
                    return None;
                };
                rules.to_fields()
            }
        };
        Some(Settings::of(cluster, port.target, rules))
    }

    fn note_listener(&mut self, name: &str, effect: &'static str) {
        self.note(type_url::LISTENER, name, "address".to_owned(), effect);
    }

    fn note(&mut self, type_url: &'static str, name: &str, field: String, effect: &'static str) {
        self.unsupported.push(Unsupported {
            type_url,
            resource: name.to_owned(),
            field,
            effect,
        });
    }

    /// The documents of the replicas behind `upstreams`.
    fn backends(
        &mut self,
        port: &Port<'_>,
        port_name: Option<&str>,
        upstreams: &[Upstream<'_>],
        addresses: &[IpAddr],
    ) -> Vec<Value> {
        let branches: Vec<Branch<'_>> = upstreams.iter().map(|upstream| upstream.branch).collect();
        let replicas = replicas(&branches);
        let is_near = |replica: &&Replica<'_>| {
            let family = Family::of(replica.ip);
            addresses.iter().any(|own| Family::of(*own) == family)
        };
        let near: Vec<_> = replicas.iter().filter(is_near).collect();
        if near.len() < replicas.len() {
            let effect = "endpoints of a family that the service has no address of are not taken";
            self.note_listener(port.listener, effect);
        }
        near.into_iter()
            .map(|replica| backend(replica, port_name))
            .collect()
    }
}

fn port_name((number, protocol): (u16, Protocol), port: &Port<'_>) -> String {
    let generated = || format!("{}-{number}", protocol.word().to_ascii_lowercase());
    port.name.map_or_else(generated, str::to_owned)
}

fn port_document((number, protocol): (u16, Protocol), name: Option<&str>, target: Option<u16>) -> Value {
    json!({"name": name, "port": number, "protocol": protocol.word(), "targetPort": target})
}

fn backend(replica: &Replica<'_>, port_name: Option<&str>) -> Value {
    let mut fields = Map::new();
    fields.insert("address".to_owned(), replica.ip.to_string().into());
    fields.insert("port".to_owned(), replica.port.into());
    fields.insert("weight".to_owned(), replica.weight.into());
    if replica.state != BackendState::Active {
        fields.insert("state".to_owned(), replica.state.word().into());
    }
    if let Some(name) = port_name {
        fields.insert("portName".to_owned(), name.into());
    }
    if let Some(place) = replica.place {
        fields.insert("locality".to_owned(), place.to_value());
    }
    if let Some(workload) = replica.workload {
        fields.insert("workload".to_owned(), workload.into());
    }
    fields.into()
}
