// SPDX-License-Identifier: Apache-2.0
//! Endpoints that services with different policies lead to. Called by `admission`.
//!
//! Invariant: where the services of an endpoint agree, it costs one entry of a hash and no table.

use std::collections::{HashMap, HashSet};

use nodemesh_abi::{Access, AccessWord, EndpointKey};
use nodemesh_model::{Desired, Frontend};

use super::{demand::Demand, endpoints::endpoints_of};

/// What is demanded at each endpoint whose services have not all the same policy; `policy` is that of a frontend, 0 for none.
pub(super) fn demands(
    desired: &Desired,
    policy: impl Fn(&Frontend) -> u32,
) -> HashMap<EndpointKey, Demand<u32>> {
    let claims = || {
        desired.frontends.iter().flat_map(|(name, frontend)| {
            let claim = (name.service.namespace(), policy(frontend));
            endpoints_of(name, frontend).map(move |key| (key, claim))
        })
    };
    let policies: HashSet<u32> = desired.frontends.values().map(|it| policy(it)).collect();
    if policies.len() < 2 {
        return HashMap::new();
    }
    let mut firsts: HashMap<EndpointKey, u32> = HashMap::new();
    let mut mixed: HashMap<EndpointKey, Vec<(&str, Option<u32>)>> = HashMap::new();
    for (key, (_, policy)) in claims() {
        if *firsts.entry(key).or_insert(policy) != policy {
            mixed.entry(key).or_default();
        }
    }
    if !mixed.is_empty() {
        for (key, (namespace, policy)) in claims() {
            if let Some(services) = mixed.get_mut(&key) {
                services.push((namespace, (policy != 0).then_some(policy)));
            }
        }
    }
    mixed
        .into_iter()
        .map(|(key, services)| (key, Demand::of(services)))
        .collect()
}

/// The table of `demand`, made of those of its policies; one that is missing denies.
pub(super) fn table(demand: &Demand<u32>, tables: &HashMap<u32, Vec<AccessWord>>) -> Vec<AccessWord> {
    let words = demand.policies().filter_map(|policy| tables.get(&policy));
    let words = words.map(Vec::len).max().unwrap_or_default();
    let of = |policy: u32, identity: u32| {
        let word = tables
            .get(&policy)
            .and_then(|table| table.get(AccessWord::index(identity) as usize));
        word.map_or(Access::Deny, |word| word.get(identity))
    };
    let count = words as u32 * AccessWord::PER_WORD;
    AccessWord::table(count, |identity| demand.access(|policy| of(policy, identity))).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use nodemesh_abi::Port;
    use nodemesh_model::{Manifest, Resources, resource::Locality};

    use super::*;

    /// Services by namespace and name, each with a backend; two of them with the same one.
    fn desired(services: &[(&str, &str, u8)]) -> Desired {
        let service = |(number, (namespace, name, host)): (usize, &(&str, &str, u8))| {
            format!(
                "---\napiVersion: nodemesh.io/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
                 spec: {{addresses: [10.96.0.{number}], ports: [{{port: 80}}], backends: [{{address: 10.0.0.{host}}}]}}\n"
            )
        };
        let text: String = services.iter().enumerate().map(service).collect();
        let manifest = Manifest::parse(&text);
        assert!(manifest.errors().is_empty(), "{}", manifest.errors());
        let resources = Resources::merge([("mesh.yaml", &manifest)]).expect("valid resources");
        Desired::compile(&resources, &Locality::default(), None).expect("a small mesh")
    }

    fn key(host: u8) -> EndpointKey {
        EndpointKey::new(IpAddr::from([10, 0, 0, host]).into(), Port::new(80))
    }

    /// The number in a service's name is its policy.
    fn policy(frontend: &Frontend) -> u32 {
        frontend.service.name()[1..].parse().expect("a number")
    }

    #[test]
    fn only_endpoints_whose_services_differ_are_told() {
        let desired = desired(&[
            ("a", "p1", 1),
            ("a", "p2", 1),
            ("b", "p1", 2),
            ("a", "p3", 3),
            ("b", "p3", 3),
            ("b", "p0", 4),
            ("c", "p2", 4),
        ]);
        let found = demands(&desired, policy);
        let mut keys: Vec<_> = found.keys().copied().collect();
        keys.sort_unstable();
        assert_eq!(keys, [key(1), key(4)]);
        assert_eq!(found[&key(1)], Demand::of([("a", Some(1)), ("a", Some(2))]));
        assert_eq!(found[&key(4)].as_one(), Some(2));
    }

    #[test]
    fn a_table_says_of_each_identity_what_the_policies_say_together() {
        let of = |access: &[Access]| {
            let table = AccessWord::table(access.len() as u32, |identity| access[identity as usize]);
            table.collect::<Vec<_>>()
        };
        let (allow, deny) = (Access::Allow, Access::Deny);
        let tables = HashMap::from([(1, of(&[deny, allow, deny])), (2, of(&[deny, deny, allow]))]);
        let said = |demand: &Demand<u32>| {
            let table = table(demand, &tables);
            [0, 1, 2, 31].map(|identity| table[0].get(identity))
        };
        let either = Demand::of([("a", Some(1)), ("a", Some(2))]);
        assert_eq!(said(&either), [deny, allow, allow, deny]);
        let both = Demand::of([("a", Some(1)), ("b", Some(2))]);
        assert_eq!(said(&both), [deny; 4]);
        let missing = Demand::of([("a", Some(1)), ("b", Some(9))]);
        assert_eq!(said(&missing), [deny; 4], "a table that could not be written");
    }
}
