// SPDX-License-Identifier: Apache-2.0
//! Peers of a policy: as sources of an access rule, and whether they cover the replicas of a service.
//!
//! Called by `network_policy`. Invariant: a source matches the same pods as its peer does now; where labels cannot say it, it names
//! them, and is made anew when they change.

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::{Landscape, Refused, ServiceView};
use crate::kubernetes::object::{
    Labels, Pod,
    network_policy::{Peer, Selector},
};

/// The sources that `peers` of a policy of `namespace` are.
pub(super) fn sources(
    peers: &[Peer],
    namespace: &str,
    landscape: &Landscape<'_>,
) -> Result<Vec<Value>, Refused> {
    let mut sources = Vec::new();
    for peer in peers {
        match peer {
            Peer::Unreadable(text) => return Err(unreadable(text)),
            Peer::Block { cidr, except } => {
                let left = subtract(*cidr, except);
                if !left.is_empty() {
                    let texts: Vec<String> = left.iter().map(ToString::to_string).collect();
                    sources.push(json!({"cidrs": texts}));
                }
            }
            Peer::Pods { namespaces, pods } => {
                let namespaces = matching(namespaces.as_ref(), namespace, landscape);
                sources.extend(of_pods(&namespaces, pods.as_ref(), landscape));
            }
        }
    }
    Ok(sources)
}

/// Whether all replicas of `service` are among `peers`.
pub(super) fn covers(
    peers: &[Peer],
    namespace: &str,
    service: &ServiceView<'_>,
    landscape: &Landscape<'_>,
) -> Result<bool, Refused> {
    if let Some(text) = peers.iter().find_map(|peer| match peer {
        Peer::Unreadable(text) => Some(text),
        _ => None,
    }) {
        return Err(unreadable(text));
    }
    let is_covered = |pod: &Pod| {
        peers.iter().any(|peer| match peer {
            Peer::Pods { namespaces, pods } => {
                let of_service = service.name.namespace.as_ref();
                matching(namespaces.as_ref(), namespace, landscape).contains(&of_service)
                    && pods.as_ref().is_none_or(|pods| pods.matches(&pod.labels))
            }
            Peer::Block { cidr, except } => pod.addresses.iter().any(|address| {
                cidr.contains(address) && !except.iter().any(|except| except.contains(address))
            }),
            Peer::Unreadable(_) => false,
        })
    };
    let covered = service.pods.iter().filter(|(_, pod)| is_covered(pod)).count();
    if covered > 0 && covered < service.pods.len() {
        return Err(format!(
            "a rule of spec.egress matches {covered} of {} replicas, and which replica a client gets is not known when it connects",
            service.pods.len()
        ));
    }
    Ok(covered > 0)
}

fn unreadable(text: &str) -> Refused {
    format!("ipBlock {text:?} is no address range")
}

/// The namespaces that `selector` matches; the own one without a selector.
fn matching<'a>(selector: Option<&Selector>, own: &'a str, landscape: &'a Landscape<'_>) -> Vec<&'a str> {
    let Some(selector) = selector else {
        return vec![own];
    };
    let namespaces = landscape.namespaces.iter();
    namespaces
        .filter(|(_, namespace)| selector.matches(&namespace.labels))
        .map(|(name, _)| &**name)
        .collect()
}

/// One source for all namespaces if labels can say it, else one for each that has such pods.
fn of_pods(namespaces: &[&str], pods: Option<&Selector>, landscape: &Landscape<'_>) -> Vec<Value> {
    if namespaces.is_empty() {
        return Vec::new();
    }
    let none = Labels::new();
    let labels = match pods {
        None => Some(&none),
        Some(selector) => Some(&selector.labels).filter(|_| selector.requirements.is_empty()),
    };
    if let Some(labels) = labels {
        let mut source = Map::new();
        source.insert("namespaces".to_owned(), json!(namespaces));
        if !labels.is_empty() {
            source.insert("labels".to_owned(), json!(labels));
        }
        return vec![source.into()];
    }
    let named = namespaces.iter().filter_map(|namespace| {
        let matching = landscape.pods_of(namespace);
        let matching = matching.filter(|(_, pod)| pods.is_none_or(|pods| pods.matches(&pod.labels)));
        let names: Vec<&str> = matching.map(|(name, _)| &*name.name).collect();
        (!names.is_empty()).then(|| json!({"namespaces": [namespace], "workloads": names}))
    });
    named.collect()
}

/// What is left of `cidr` without `except`: the fewest ranges.
fn subtract(cidr: IpNet, except: &[IpNet]) -> Vec<IpNet> {
    let touching: Vec<IpNet> = except
        .iter()
        .copied()
        .filter(|except| cidr.contains(except) || except.contains(&cidr))
        .collect();
    if touching.is_empty() {
        return vec![cidr];
    }
    if touching.iter().any(|except| except.contains(&cidr)) {
        return Vec::new();
    }
    let halves = cidr.subnets(cidr.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| subtract(half, &touching)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_leave_the_rest() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let left = subtract(
            net("10.0.0.0/8"),
            &[net("10.128.0.0/9"), net("10.0.0.0/10"), net("192.168.0.0/16")],
        );
        assert_eq!(left, [net("10.64.0.0/10")]);
        assert_eq!(
            subtract(net("10.0.0.0/30"), &[net("10.0.0.2/32")]),
            [net("10.0.0.0/31"), net("10.0.0.3/32")]
        );
        assert!(subtract(net("fd00::/64"), &[net("fd00::/48")]).is_empty());
    }
}
