// SPDX-License-Identifier: Apache-2.0
//! The clients that policies tell apart, and the addresses by which a server's node finds them.
//!
//! Called by `desired`. Invariant: an address stands for the workloads that have it now; one that several have stands for none of
//! them alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    iter,
    net::IpAddr,
    sync::Arc,
};

use crate::{
    access::{Networks, Prefix, Principal, PrincipalName},
    resource::Workload,
    resources::Resources,
};

/// Principals by name.
type Principals = BTreeMap<PrincipalName, Arc<Principal>>;

/// The principals, and the prefixes that stand for them; of `former` those that are the same.
pub(super) fn compile(
    resources: &Resources,
    former: &Principals,
) -> (Principals, BTreeMap<Prefix, PrincipalName>) {
    let networks = networks(resources);
    let has_policies = !resources.access_policies().is_empty();
    // Without policies only clients of this node need to be told apart, for the limits of each.
    let workloads = resources
        .workloads()
        .values()
        .filter(|w| has_policies || w.cgroup.is_some());
    let workloads: Vec<&Arc<Workload>> = workloads.collect();
    let mut principals: Vec<_> = iter::once((PrincipalName::Unknown, Principal::UNKNOWN))
        .chain(workloads.iter().map(|workload| of_workload(workload, &networks)))
        .chain(networks.iter().map(|network| {
            let principal = Principal::new([], networks.within(network), true);
            (PrincipalName::Network(network), principal)
        }))
        .collect();
    let mut prefixes = BTreeMap::new();
    if has_policies {
        for (address, owners) in owners(&workloads) {
            let name = if let [owner] = &owners[..] {
                PrincipalName::Workload(owner.metadata.name.clone())
            } else {
                let name = PrincipalName::Address(address);
                principals.push((
                    name.clone(),
                    Principal::new(owners, networks.containing(address), true),
                ));
                name
            };
            prefixes.insert(address.into(), name);
        }
        // A workload's address wins over a range of this one address, which is known to its principal.
        for network in networks.iter() {
            prefixes
                .entry(network.into())
                .or_insert(PrincipalName::Network(network));
        }
        if networks.cover_mapped() {
            prefixes.entry(Prefix::V4).or_default();
        }
    }
    let shared = |(name, principal): (PrincipalName, Principal)| {
        let principal = match former.get(&name) {
            Some(former) if **former == principal => Arc::clone(former),
            _ => Arc::new(principal),
        };
        (name, principal)
    };
    (principals.into_iter().map(shared).collect(), prefixes)
}

/// The address ranges of the policies.
fn networks(resources: &Resources) -> Networks {
    let rules = resources
        .access_policies()
        .values()
        .flat_map(|policy| &policy.rules);
    let sources = rules.flat_map(|rule| rule.from.iter().flatten());
    sources.flat_map(|source| source.cidrs.iter().copied()).collect()
}

fn of_workload(workload: &Arc<Workload>, networks: &Networks) -> (PrincipalName, Principal) {
    let within = workload
        .addresses
        .iter()
        .flat_map(|address| networks.containing(*address));
    let within: BTreeSet<_> = within.collect();
    let is_addressed = !workload.addresses.is_empty();
    let principal = Principal::new([workload], within.into_iter().collect(), is_addressed);
    (PrincipalName::Workload(workload.metadata.name.clone()), principal)
}

/// The workloads that have each address, by name.
fn owners<'w>(workloads: &[&'w Arc<Workload>]) -> HashMap<IpAddr, Vec<&'w Arc<Workload>>> {
    let mut owners: HashMap<IpAddr, Vec<_>> = HashMap::with_capacity(workloads.len());
    for workload in workloads {
        for address in &workload.addresses {
            owners.entry(*address).or_default().push(*workload);
        }
    }
    owners
}
