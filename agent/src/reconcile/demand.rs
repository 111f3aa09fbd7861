// SPDX-License-Identifier: Apache-2.0
//! What the policies of all services that lead to one endpoint demand of its clients together. Pure.
//!
//! A SYN does not tell which service was dialled. Within a namespace it is enough that one of the services admits the client, as it
//! could have dialled that one; each namespace must have one that does, so that nobody opens the replicas of another namespace by a
//! service of their own. Used for the tables of the kernel (`admission`) and for connections that are examined again.
//!
//! Invariant: two ways to say the same are equal, so that they have one table.

use std::collections::{BTreeMap, BTreeSet};

use nodemesh_abi::Access;

/// Of each namespace the policies of its services, one of which must admit; `P` stands for a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Demand<P>(BTreeSet<BTreeSet<P>>);

impl<P: Copy + Ord> Demand<P> {
    /// What services demand that each have this namespace and policy, if they have one.
    pub fn of<'a>(services: impl IntoIterator<Item = (&'a str, Option<P>)>) -> Self {
        // `None` for a namespace that has a service for everybody.
        let mut namespaces: BTreeMap<&str, Option<BTreeSet<P>>> = BTreeMap::new();
        for (namespace, policy) in services {
            let policies = namespaces
                .entry(namespace)
                .or_insert_with(|| Some(BTreeSet::new()));
            match policy {
                None => *policies = None,
                Some(policy) => {
                    if let Some(policies) = policies {
                        policies.insert(policy);
                    }
                }
            }
        }
        let all: BTreeSet<BTreeSet<P>> = namespaces.into_values().flatten().collect();
        // Who is admitted by one of a few is admitted by one of these and others.
        let is_least = |policies: &&BTreeSet<P>| {
            !all.iter()
                .any(|other| other != *policies && other.is_subset(policies))
        };
        Self(all.iter().filter(is_least).cloned().collect())
    }

    /// Whether every client may connect.
    pub fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }

    /// The policy that says all of it, if it is one.
    pub fn as_one(&self) -> Option<P> {
        let policies: Vec<P> = self.policies().take(2).collect();
        (policies.len() == 1).then(|| policies[0])
    }

    /// The policies; one may come several times.
    pub fn policies(&self) -> impl Iterator<Item = P> + '_ {
        self.0.iter().flatten().copied()
    }

    /// What is said about a client about whom each policy says what `of` gives.
    pub fn access(&self, mut of: impl FnMut(P) -> Access) -> Access {
        let mut strictest = Access::Allow;
        for policies in &self.0 {
            let mildest = policies
                .iter()
                .map(|policy| of(*policy))
                .min_by_key(|access| access.strictness());
            strictest = [strictest, mildest.unwrap_or_default()]
                .into_iter()
                .max_by_key(|access| access.strictness())
                .unwrap_or_default();
        }
        strictest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Access; 4] = [Access::Allow, Access::Audit, Access::ByAddress, Access::Deny];

    fn demand(services: &[(&str, u32)]) -> Demand<u32> {
        Demand::of(
            services
                .iter()
                .map(|(namespace, policy)| (*namespace, (*policy != 0).then_some(*policy))),
        )
    }

    /// What is said about a client, where the policy `n` says the `n`th.
    fn access(services: &[(&str, u32)], says: [Access; 3]) -> Access {
        demand(services).access(|policy| says[policy as usize - 1])
    }

    #[test]
    fn one_service_of_a_namespace_is_enough_and_each_namespace_must_have_one() {
        use Access::{Allow, Audit, ByAddress, Deny};
        for (says, expected) in [
            ([Allow, Deny, Allow], Allow),
            ([Deny, Allow, Allow], Allow),
            ([Deny, Deny, Allow], Deny),
            ([Allow, Allow, Deny], Deny),
            ([Audit, Deny, Allow], Audit),
            ([Allow, Audit, Audit], Audit),
            ([ByAddress, Deny, Allow], ByAddress),
        ] {
            let services = [("a", 1), ("a", 2), ("b", 3)];
            assert_eq!(access(&services, says), expected, "{says:?}");
        }
    }

    #[test]
    fn a_service_without_a_policy_opens_its_own_namespace_alone() {
        assert!(demand(&[("a", 1), ("a", 0)]).is_nothing());
        assert_eq!(demand(&[("a", 0), ("b", 2), ("a", 1)]).as_one(), Some(2));
        for says in ALL {
            assert_eq!(access(&[("a", 0), ("b", 1)], [says; 3]), says);
        }
    }

    #[test]
    fn the_same_is_said_in_one_way() {
        assert_eq!(
            demand(&[("a", 1), ("a", 1), ("b", 1), ("b", 2)]),
            demand(&[("c", 1)])
        );
        assert_eq!(demand(&[("a", 1), ("b", 1)]).as_one(), Some(1));
        assert_eq!(demand(&[("a", 1), ("a", 2)]).as_one(), None);
        assert_eq!(demand(&[("a", 1), ("b", 2)]).as_one(), None);
        assert_ne!(demand(&[("a", 1), ("b", 2)]), demand(&[("a", 1), ("a", 2)]));
    }

    #[test]
    fn a_further_service_of_a_namespace_denies_nobody_and_of_another_one_admits_nobody() {
        for first in ALL {
            for second in ALL {
                let says = [first, second, Access::Deny];
                let within = access(&[("a", 1), ("a", 2)], says);
                assert!(within.strictness() <= first.strictness());
                let across = access(&[("a", 1), ("b", 2)], says);
                assert!(across.strictness() >= first.strictness());
            }
        }
    }
}
