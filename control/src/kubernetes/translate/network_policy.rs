// SPDX-License-Identifier: Apache-2.0
//! A `NetworkPolicy` to access policies of the services that it concerns.
//!
//! ```text
//! ingress: the replicas of a service are isolated  -->  default deny for the service, an allow rule per rule
//! egress:  clients are isolated                    -->  a deny rule for those that no policy lets reach the service
//! ```
//!
//! Called by `mesh`. Source: Kubernetes documentation, "Network Policies": policies add up, and ports are those of the pods. Invariant:
//! what does not come out exactly as the API says for a service is refused as a whole for this service, and told.

mod peer;
mod ports;

use std::collections::BTreeMap;

use nodemesh_model::{Keyword as _, Kind};
use serde_json::{Map, Value, json};
use twox_hash::XxHash3_64;

use super::{
    super::{
        finding::Reason,
        object::{Labels, Namespace, NetworkPolicy, ObjectName, Pod},
    },
    Translation,
};

/// A service of the mesh as policies see it.
#[derive(Debug)]
pub(crate) struct ServiceView<'a> {
    pub(crate) name: &'a ObjectName,
    pub(crate) ports: Vec<PortView<'a>>,
    /// The pods that are its replicas.
    pub(crate) pods: Vec<(ObjectName, &'a Pod)>,
}

/// A port of a service, and what it is at the replicas.
#[derive(Debug)]
pub(crate) struct PortView<'a> {
    pub(crate) number: i32,
    pub(crate) protocol: &'a str,
    pub(crate) targets: Vec<i32>,
}

/// The cluster as policies see it.
#[derive(Debug)]
pub(crate) struct Landscape<'a> {
    pub(crate) services: Vec<ServiceView<'a>>,
    pub(crate) pods: &'a BTreeMap<ObjectName, Pod>,
    pub(crate) namespaces: &'a BTreeMap<std::sync::Arc<str>, Namespace>,
    pub(crate) policies: &'a BTreeMap<ObjectName, NetworkPolicy>,
}

/// Why a policy cannot be had for a service.
type Refused = String;

/// What the policy `name` comes down to.
pub(crate) fn translate(name: &ObjectName, policy: &NetworkPolicy, landscape: &Landscape<'_>) -> Translation {
    let mut translation = Translation::default();
    for service in landscape
        .services
        .iter()
        .filter(|service| !service.pods.is_empty())
    {
        match access(name, policy, service, landscape) {
            Ok(None) => {}
            Ok(Some(mut spec)) => {
                spec.insert(
                    "targetRef".to_owned(),
                    json!({"kind": Kind::Service.word(), "name": &*service.name.name}),
                );
                let own = ObjectName::new(&service.name.namespace, &document_name(name, service.name));
                translation.put(Kind::AccessPolicy, &own, &Labels::new(), spec);
            }
            Err(reason) => translation.note(
                Reason::NotSupported,
                format!("{reason}; the policy is not applied to connections to the Service {}, the network plugin enforces it alone",
                        service.name),
            ),
        }
    }
    translation
}

/// Named after the policy, distinct for each policy and service.
fn document_name(policy: &ObjectName, service: &ObjectName) -> String {
    const READABLE: usize = 40;
    let words: String = policy
        .name
        .chars()
        .map(|char| if char == '.' { '-' } else { char })
        .take(READABLE)
        .collect();
    let hash = XxHash3_64::oneshot(format!("{policy} {service}").as_bytes());
    format!("np-{}-{hash:016x}", words.trim_end_matches('-'))
}

/// The rules for `service`; `None` if the policy does not concern it.
fn access(
    name: &ObjectName,
    policy: &NetworkPolicy,
    service: &ServiceView<'_>,
    landscape: &Landscape<'_>,
) -> Result<Option<Map<String, Value>>, Refused> {
    let mut spec = Map::new();
    let mut rules = Vec::new();
    if isolates_replicas(name, policy, service)? {
        spec.insert("default".to_owned(), "deny".into());
        rules.extend(ingress(name, policy, service, landscape)?);
    }
    rules.extend(egress(name, policy, service, landscape)?);
    if rules.is_empty() && spec.is_empty() {
        return Ok(None);
    }
    spec.insert("rules".to_owned(), rules.into());
    Ok(Some(spec))
}

/// Whether the replicas of `service` are isolated by it: all or none.
fn isolates_replicas(
    name: &ObjectName,
    policy: &NetworkPolicy,
    service: &ServiceView<'_>,
) -> Result<bool, Refused> {
    if policy.ingress.is_none() || name.namespace != service.name.namespace {
        return Ok(false);
    }
    let selected = service
        .pods
        .iter()
        .filter(|(_, pod)| policy.pods.matches(&pod.labels))
        .count();
    if selected > 0 && selected < service.pods.len() {
        return Err(format!(
            "spec.podSelector matches {selected} of {} replicas, and which replica a client gets is not known when it connects",
            service.pods.len()
        ));
    }
    Ok(selected > 0)
}

fn ingress(
    name: &ObjectName,
    policy: &NetworkPolicy,
    service: &ServiceView<'_>,
    landscape: &Landscape<'_>,
) -> Result<Vec<Value>, Refused> {
    let mut rules = Vec::new();
    for (index, rule) in policy.ingress.iter().flatten().enumerate() {
        let Some(ports) = ports::of_service(&rule.ports, service)? else {
            continue;
        };
        let mut allow = Map::new();
        allow.insert(
            "name".to_owned(),
            format!("{} ingress {}", readable(name), index + 1).into(),
        );
        allow.insert("action".to_owned(), "allow".into());
        if !rule.peers.is_empty() {
            let sources = peer::sources(&rule.peers, &name.namespace, landscape)?;
            if sources.is_empty() {
                continue;
            }
            allow.insert("from".to_owned(), sources.into());
        }
        ports::put(&mut allow, &ports, service);
        rules.push(allow.into());
    }
    Ok(rules)
}

/// Denies the clients that this policy isolates and that neither this nor another one lets reach `service`.
fn egress(
    name: &ObjectName,
    policy: &NetworkPolicy,
    service: &ServiceView<'_>,
    landscape: &Landscape<'_>,
) -> Result<Vec<Value>, Refused> {
    if policy.egress.is_none() {
        return Ok(Vec::new());
    }
    // Pods by the ports that they may not reach.
    let mut denied: BTreeMap<Vec<i32>, Vec<&str>> = BTreeMap::new();
    for (client, pod) in landscape
        .pods_of(&name.namespace)
        .filter(|(_, pod)| policy.pods.matches(&pod.labels))
    {
        let mut ports = Vec::new();
        for port in &service.ports {
            if !is_let_out(pod, &name.namespace, service, port, landscape)? {
                ports.push(port.number);
            }
        }
        if !ports.is_empty() {
            denied.entry(ports).or_default().push(&client.name);
        }
    }
    let rules = denied.into_iter().enumerate().map(|(index, (ports, pods))| {
        let mut deny = Map::new();
        deny.insert(
            "name".to_owned(),
            format!("{} egress {}", readable(name), index + 1).into(),
        );
        deny.insert("action".to_owned(), "deny".into());
        deny.insert(
            "from".to_owned(),
            json!([{"namespaces": [&*name.namespace], "workloads": pods}]),
        );
        ports::put(&mut deny, &ports, service);
        Value::from(deny)
    });
    Ok(rules.collect())
}

/// Whether some policy that isolates `pod` lets it reach `port` of `service`.
fn is_let_out(
    pod: &Pod,
    namespace: &str,
    service: &ServiceView<'_>,
    port: &PortView<'_>,
    landscape: &Landscape<'_>,
) -> Result<bool, Refused> {
    let policies = landscape.policies.iter().filter(|(name, policy)| {
        *name.namespace == *namespace && policy.egress.is_some() && policy.pods.matches(&pod.labels)
    });
    for rule in policies.flat_map(|(_, policy)| policy.egress.iter().flatten()) {
        if ports::allows(&rule.ports, port)?
            && (rule.peers.is_empty() || peer::covers(&rule.peers, namespace, service, landscape)?)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Part of the name of a rule: letters that it may have, and not too many.
fn readable(name: &ObjectName) -> String {
    name.name.chars().take(40).collect()
}

impl<'a> Landscape<'a> {
    /// The pods of a namespace that have an address of their own.
    fn pods_of(&self, namespace: &str) -> impl Iterator<Item = (&'a ObjectName, &'a Pod)> {
        let pods = self.pods.range(ObjectName::new(namespace, "")..);
        let namespace = namespace.to_owned();
        pods.take_while(move |(name, _)| *name.namespace == *namespace)
            .filter(|(_, pod)| pod.is_live && !pod.has_host_network)
    }
}
