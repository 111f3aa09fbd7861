// SPDX-License-Identifier: Apache-2.0
//! Completes frontends with what depends on more than their service: the access rules, and the tiers as seen from this node.
//!
//! Called by `desired`. Invariant: frontends with equal access rules, new or kept from the previous compilation, share one
//! allocation.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    access::{AccessRules, RuleSet},
    desired::Desired,
    frontend::Frontend,
    name::ResourceName,
    resource::{Locality, LocalityLevel, access_policy::AccessTarget},
    resources::Resources,
};

/// A target, and the port that rules are wanted for; `None` for those that no rule of the target names.
type Level = (AccessTarget, Option<u16>);

/// What frontends are completed with.
pub(super) struct Admission<'a> {
    resources: &'a Resources,
    node: &'a Locality,
    known: HashSet<Arc<AccessRules>>,
    /// Of the previous compilation.
    former: HashMap<Level, Arc<RuleSet>>,
    /// Of this one; `None` if they say nothing.
    sets: HashMap<Level, Option<Arc<RuleSet>>>,
    /// The ports that rules of a target name.
    ports: HashMap<AccessTarget, BTreeSet<u16>>,
}

impl<'a> Admission<'a> {
    /// Keeps what it can of `previous`.
    pub(super) fn new(resources: &'a Resources, node: &'a Locality, previous: &Desired) -> Self {
        let mut admission = Self {
            resources,
            node,
            known: HashSet::new(),
            former: HashMap::new(),
            sets: HashMap::new(),
            ports: HashMap::new(),
        };
        if resources.access_targets().is_empty() {
            return admission;
        }
        for rules in previous
            .frontends
            .values()
            .filter_map(|frontend| frontend.access.as_ref())
        {
            if admission.known.insert(Arc::clone(rules)) {
                let sets = rules.sets().iter();
                admission
                    .former
                    .extend(sets.map(|set| ((set.target().clone(), set.port()), Arc::clone(set))));
            }
        }
        admission
    }

    /// Completes `frontend`.
    pub(super) fn complete(&mut self, frontend: &mut Frontend) {
        if frontend.packet.is_some() {
            for backend in &mut frontend.backends {
                let place = backend.locality.as_deref();
                backend.is_local = place.is_some_and(|place| place.shares(LocalityLevel::Node, self.node));
            }
        }
        if !frontend.rules.tiers.is_empty() {
            for backend in &mut frontend.backends {
                backend.tier = frontend.rules.tier(self.node, backend.locality.as_deref());
            }
        }
        if !self.resources.access_targets().is_empty() {
            frontend.access = self.rules(&frontend.service, frontend.key.port.get());
        }
    }

    fn rules(&mut self, service: &ResourceName, port: u16) -> Option<Arc<AccessRules>> {
        let targets = [
            AccessTarget::Mesh,
            AccessTarget::Namespace(service.namespace().into()),
            AccessTarget::Service(service.clone()),
        ];
        let sets = targets
            .into_iter()
            .filter_map(|target| self.set(target, port))
            .collect();
        let rules = AccessRules::new(sets)?;
        if let Some(known) = self.known.get(&rules) {
            return Some(Arc::clone(known));
        }
        let rules = Arc::new(rules);
        self.known.insert(Arc::clone(&rules));
        Some(rules)
    }

    /// The rules of `target` for `port`, if there are any.
    fn set(&mut self, target: AccessTarget, port: u16) -> Option<Arc<RuleSet>> {
        let policies = self.resources.access_targets().get(&target)?;
        let ports = self.ports.entry(target.clone()).or_insert_with(|| {
            let rules = policies.iter().flat_map(|policy| &policy.rules);
            rules
                .flat_map(|rule| rule.ports.iter().flatten().copied())
                .collect()
        });
        let is_named = ports.contains(&port);
        let level = (target, is_named.then_some(port));
        if let Some(set) = self.sets.get(&level) {
            return set.clone();
        }
        let former = self.former.get(&level).filter(|former| former.is_of(policies));
        let set = former.map_or_else(
            || Arc::new(RuleSet::new(level.0.clone(), level.1, policies)),
            Arc::clone,
        );
        let set = (!set.is_empty()).then_some(set);
        self.sets.insert(level, set.clone());
        set
    }
}
