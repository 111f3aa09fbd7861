// SPDX-License-Identifier: Apache-2.0
//! What is valid in the access policies but hardly meant. Called by `Resources::warnings`.
//!
//! Invariant: the cost is that of the rules and the workloads, not of their product.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    sync::Arc,
};

use ipnet::IpNet;

use super::Resources;
use crate::{
    access::{Facts, Networks, Probe, RuleName, SourceIndex},
    keyword::{Family, Keyword as _},
    name::ResourceName,
    resource::{
        AccessPolicy, Service,
        access_policy::{AccessRule, AccessTarget, Action, DefaultAccess, Source},
    },
};

mod shadow;

/// Most warnings that are listed; the others are counted.
pub const MAX_WARNINGS: usize = 100;

/// Something in an access policy that is hardly meant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AccessWarning {
    /// The target does not exist.
    NoSuchService {
        /// The policy.
        policy: ResourceName,
        /// Its target.
        service: ResourceName,
    },
    /// Two policies set opposite defaults for the same services.
    Defaults {
        /// The one that holds.
        deny: ResourceName,
        /// The one that does not.
        allow: ResourceName,
    },
    /// No workload is one of a source.
    NoSuchWorkload {
        /// The rule.
        rule: RuleName,
        /// The position of the source in `from`.
        source: usize,
    },
    /// Servers cannot tell who a workload is that a rule names.
    NoAddress {
        /// The workload.
        workload: ResourceName,
        /// A rule that is about it.
        rule: RuleName,
    },
    /// No service that a rule is about has one of its ports.
    NoSuchPort {
        /// The rule.
        rule: RuleName,
        /// The port.
        port: u16,
    },
    /// No client of the services can have an address of a range.
    NoSuchClient {
        /// The rule.
        rule: RuleName,
        /// The range.
        range: IpNet,
        /// Why not.
        reason: &'static str,
    },
    /// Another rule denies all that a rule allows, or tries to deny.
    Shadowed {
        /// The rule.
        rule: RuleName,
        /// What it does.
        action: Action,
        /// One of the rules that deny it.
        by: RuleName,
    },
    /// There are more warnings.
    More {
        /// How many.
        count: usize,
    },
}

impl fmt::Display for AccessWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchService { policy, service } => write!(
                f,
                "AccessPolicy {policy} has no effect: there is no Service {service}; correct spec.targetRef.name, or create it"
            ),
            Self::Defaults { deny, allow } => write!(
                f,
                "AccessPolicy {allow}, spec.default: allow contradicts deny, spec.default of AccessPolicy {deny}: deny holds; remove one of the two"
            ),
            Self::NoSuchWorkload { rule, source } => {
                write!(
                    f,
                    "{rule}, from[{source}]: no Workload matches; correct it, or create the Workload"
                )
            }
            Self::NoAddress { workload, rule } => write!(
                f,
                "{rule}: Workload {workload} has no address, so the nodes of the servers take it for an unknown client; add spec.addresses to it"
            ),
            Self::NoSuchPort { rule, port } => write!(
                f,
                "{rule}: no Service that it is about has port {port}; name the port that clients dial, not targetPort"
            ),
            Self::NoSuchClient { rule, range, reason } => {
                write!(
                    f,
                    "{rule}: no client has an address in {range}: {reason}; correct it, or remove it"
                )
            }
            Self::Shadowed { rule, action, by } => write!(
                f,
                "{rule}, has no effect: {by}, denies all that it would {}; remove one of the two, or narrow the denial",
                action.word()
            ),
            Self::More { count } => write!(f, "{count} more warnings about access policies"),
        }
    }
}

/// The first [`MAX_WARNINGS`], and how many more there are.
pub(super) fn warnings(resources: &Resources) -> Vec<AccessWarning> {
    let mut found = Vec::new();
    targets(resources, &mut found);
    workloads(resources, &mut found);
    for (target, policies) in &resources.access_targets {
        let services: Vec<_> = services(resources, target).collect();
        if !services.is_empty() {
            ports_and_ranges(policies, &services, &mut found);
        }
    }
    shadow::find(resources, &mut found);
    let count = found.len().saturating_sub(MAX_WARNINGS);
    if count > 0 {
        found.truncate(MAX_WARNINGS);
        found.push(AccessWarning::More { count });
    }
    found
}

fn name(policy: &AccessPolicy, rule: &AccessRule) -> RuleName {
    RuleName {
        policy: policy.metadata.name.clone(),
        rule: Arc::clone(&rule.name),
    }
}

/// Each rule with its policy, in order.
fn rules(resources: &Resources) -> impl Iterator<Item = (&AccessPolicy, &AccessRule)> + Clone {
    let policies = resources.access_policies.values();
    policies.flat_map(|policy| policy.rules.iter().map(|rule| (&**policy, &**rule)))
}

fn targets(resources: &Resources, found: &mut Vec<AccessWarning>) {
    for (target, policies) in &resources.access_targets {
        if let AccessTarget::Service(service) = target
            && !resources.services.contains_key(service)
        {
            found.extend(policies.iter().map(|policy| AccessWarning::NoSuchService {
                policy: policy.metadata.name.clone(),
                service: service.clone(),
            }));
        }
        let of = |default| policies.iter().find(|policy| policy.default == Some(default));
        if let (Some(deny), Some(allow)) = (of(DefaultAccess::Deny), of(DefaultAccess::Allow)) {
            found.push(AccessWarning::Defaults {
                deny: deny.metadata.name.clone(),
                allow: allow.metadata.name.clone(),
            });
        }
    }
}

/// Sources that match no workload, and workloads that no server can recognise.
fn workloads(resources: &Resources, found: &mut Vec<AccessWarning>) {
    let all: Vec<_> = rules(resources).collect();
    let sources = |rule: usize| all[rule].1.from.as_deref().unwrap_or_default();
    let index = SourceIndex::new((0..all.len()).map(sources));
    let ranges = all
        .iter()
        .flat_map(|(_, rule)| rule.from.iter().flatten())
        .flat_map(|source| &source.cidrs);
    let networks: Networks = ranges.copied().collect();
    let mut matched: HashSet<(usize, usize)> = HashSet::new();
    let mut unaddressed: BTreeMap<&ResourceName, usize> = BTreeMap::new();
    for (workload_name, workload) in &resources.workloads {
        let within = workload
            .addresses
            .iter()
            .flat_map(|address| networks.containing(*address));
        let within: Vec<_> = within.collect();
        let probe = Probe::new(Some(workload), &within);
        index.for_each_candidate(&Facts::from(&probe), |rule, position| {
            if probe.matches(&sources(rule)[position]) {
                matched.insert((rule, position));
                if workload.addresses.is_empty() {
                    unaddressed
                        .entry(workload_name)
                        .and_modify(|first| *first = rule.min(*first))
                        .or_insert(rule);
                }
            }
        });
    }
    for (position, (policy, rule)) in all.iter().enumerate() {
        let is_lost = |(source, from): &(usize, &Source)| {
            from.is_about_workloads() && !matched.contains(&(position, *source))
        };
        let lost = sources(position).iter().enumerate().filter(is_lost);
        found.extend(lost.map(|(source, _)| AccessWarning::NoSuchWorkload {
            rule: name(policy, rule),
            source,
        }));
    }
    found.extend(
        unaddressed
            .into_iter()
            .map(|(workload, rule)| AccessWarning::NoAddress {
                workload: workload.clone(),
                rule: name(all[rule].0, all[rule].1),
            }),
    );
}

/// The services that policies of `target` are about.
fn services<'r>(
    resources: &'r Resources,
    target: &AccessTarget,
) -> Box<dyn Iterator<Item = &'r Arc<Service>> + 'r> {
    match target {
        AccessTarget::Mesh => Box::new(resources.services.values()),
        AccessTarget::Namespace(namespace) => Box::new(resources.services_of(namespace)),
        AccessTarget::Service(name) => Box::new(resources.services.get(name).into_iter()),
    }
}

fn ports_and_ranges(
    policies: &[Arc<AccessPolicy>],
    services: &[&Arc<Service>],
    found: &mut Vec<AccessWarning>,
) {
    let ports: BTreeSet<u16> = services
        .iter()
        .flat_map(|service| &service.ports)
        .map(|port| port.port)
        .collect();
    let families: BTreeSet<Family> = services
        .iter()
        .flat_map(|service| &service.addresses)
        .map(|address| Family::of(*address))
        .collect();
    for policy in policies {
        for rule in &policy.rules {
            let unknown = rule.ports.iter().flatten().filter(|port| !ports.contains(port));
            found.extend(unknown.map(|port| AccessWarning::NoSuchPort {
                rule: name(policy, rule),
                port: *port,
            }));
            let ranges = rule.from.iter().flatten().flat_map(|source| &source.cidrs);
            found.extend(ranges.filter_map(|range| {
                Some(AccessWarning::NoSuchClient {
                    rule: name(policy, rule),
                    range: *range,
                    reason: never(range, &families)?,
                })
            }));
        }
    }
}

/// Why no client of services with addresses of `families` has an address in `range`.
fn never(range: &IpNet, families: &BTreeSet<Family>) -> Option<&'static str> {
    let family = Family::of(range.addr());
    if !families.contains(&family) {
        return Some(match family {
            Family::V4 => "the Services that the rule is about have no IPv4 address",
            Family::V6 => "the Services that the rule is about have no IPv6 address",
        });
    }
    let is_multicast = range.network().is_multicast() && range.broadcast().is_multicast();
    is_multicast.then_some("these are addresses of groups")
}

#[cfg(test)]
mod tests;
