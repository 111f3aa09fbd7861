// SPDX-License-Identifier: Apache-2.0
//! The rules that the policies of one target have for one port, with an index over the clients that they name.
//!
//! Shared by all frontends that they are about, and kept from one compilation to the next while its policies are the same.
//! Invariant: `rules` are sorted by policy and then as written, so the same policies give the same set on every node.

use std::{
    collections::hash_map::DefaultHasher,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use super::{Principal, Probe, RuleName, SourceIndex};
use crate::{
    name::ResourceName,
    resource::access_policy::{AccessPolicy, AccessRule, AccessTarget, Action, DefaultAccess},
};

/// The rules of one target for one port.
pub(crate) struct RuleSet {
    target: AccessTarget,
    /// The port; `None` for those that no rule of the target names.
    port: Option<u16>,
    policies: Vec<Arc<AccessPolicy>>,
    /// Position in `policies`, and the rule.
    rules: Vec<(usize, Arc<AccessRule>)>,
    index: SourceIndex,
    /// The first of the strongest rules that match everybody.
    everybody: Option<(Action, usize)>,
    /// The rules that admit by address.
    by_address: Vec<usize>,
    hash: u64,
}

impl RuleSet {
    /// The rules of `policies`, sorted by name, which are those of `target`, for `port`.
    pub(crate) fn new(target: AccessTarget, port: Option<u16>, policies: &[Arc<AccessPolicy>]) -> Self {
        let rules: Vec<_> = policies
            .iter()
            .enumerate()
            .flat_map(|(policy, of)| of.rules.iter().map(move |rule| (policy, Arc::clone(rule))))
            .filter(|(_, rule)| rule.is_about(port))
            .collect();
        let mut everybody = None;
        let mut by_address = Vec::new();
        for (position, (_, rule)) in rules.iter().enumerate() {
            match &rule.from {
                None => stronger(&mut everybody, (rule.action, position)),
                Some(from) if rule.action != Action::Deny && from.iter().any(|s| !s.cidrs.is_empty()) => {
                    by_address.push(position);
                }
                Some(_) => {}
            }
        }
        let index = SourceIndex::new(
            rules
                .iter()
                .map(|(_, rule)| rule.from.as_deref().unwrap_or_default()),
        );
        let mut set = Self {
            target,
            port,
            policies: policies.to_vec(),
            rules,
            index,
            everybody,
            by_address,
            hash: 0,
        };
        let mut hasher = DefaultHasher::new();
        set.default().hash(&mut hasher);
        for (policy, rule) in &set.rules {
            set.policies[*policy].metadata.name.hash(&mut hasher);
            rule.hash(&mut hasher);
        }
        set.hash = hasher.finish();
        set
    }

    pub(crate) fn target(&self) -> &AccessTarget {
        &self.target
    }

    pub(crate) fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether it was made of the same allocations.
    pub(crate) fn is_of(&self, policies: &[Arc<AccessPolicy>]) -> bool {
        let same = |(own, other): (&Arc<AccessPolicy>, &Arc<AccessPolicy>)| Arc::ptr_eq(own, other);
        self.policies.len() == policies.len() && self.policies.iter().zip(policies).all(same)
    }

    /// Whether it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.default().is_none()
    }

    pub(crate) fn len(&self) -> usize {
        self.rules.len()
    }

    pub(crate) fn content_hash(&self) -> u64 {
        self.hash
    }

    /// What the target says where no rule matches, with the policy; deny wins.
    pub(crate) fn default(&self) -> Option<(DefaultAccess, &ResourceName)> {
        let defaults = self
            .policies
            .iter()
            .filter_map(|policy| Some((policy.default?, &policy.metadata.name)));
        // Of equal ones the first by name.
        defaults.reduce(|best, other| if other.0 > best.0 { other } else { best })
    }

    pub(crate) fn rule_name(&self, position: usize) -> RuleName {
        let (policy, rule) = &self.rules[position];
        RuleName {
            policy: self.policies[*policy].metadata.name.clone(),
            rule: Arc::clone(&rule.name),
        }
    }

    pub(crate) fn action(&self, position: usize) -> Action {
        self.rules[position].1.action
    }

    /// The first of the strongest rules that match, if it is stronger than `least`.
    pub(crate) fn strongest(&self, probe: &Probe<'_>, least: Option<Action>) -> Option<(Action, usize)> {
        let mut best = self.everybody;
        self.index.for_each_candidate(&probe.into(), |position, source| {
            let (_, rule) = &self.rules[position];
            let found = (rule.action, position);
            let is_better = best.is_none_or(|best| rank(found) > rank(best)) && Some(rule.action) > least;
            if is_better
                && rule
                    .from
                    .as_ref()
                    .is_some_and(|from| probe.matches(&from[source]))
            {
                best = Some(found);
            }
        });
        best.filter(|(action, _)| Some(*action) > least)
    }

    pub(crate) fn rules(&self) -> impl Iterator<Item = &AccessRule> {
        self.rules.iter().map(|(_, rule)| &**rule)
    }

    /// The positions of all rules that match, ascending.
    pub(crate) fn matching(&self, principal: &Principal) -> Vec<usize> {
        let probes: Vec<_> = principal.probes().collect();
        let is_match = |rule: &AccessRule| match &rule.from {
            None => true,
            Some(from) => from
                .iter()
                .any(|source| probes.iter().any(|probe| probe.matches(source))),
        };
        let rules = self.rules.iter().enumerate();
        rules
            .filter(|(_, (_, rule))| is_match(rule))
            .map(|(position, _)| position)
            .collect()
    }

    /// A rule that would admit the client at some address.
    pub(crate) fn admits_somewhere(&self, probe: &Probe<'_>) -> Option<usize> {
        let mut rules = self.by_address.iter().copied();
        rules.find(|position| {
            let from = self.rules[*position].1.from.iter().flatten();
            from.into_iter()
                .any(|source| !source.cidrs.is_empty() && probe.matches_at_some_address(source))
        })
    }
}

/// Greater is stronger: the action, then the earlier position.
fn rank((action, position): (Action, usize)) -> (Action, std::cmp::Reverse<usize>) {
    (action, std::cmp::Reverse(position))
}

fn stronger(best: &mut Option<(Action, usize)>, found: (Action, usize)) {
    if best.is_none_or(|best| rank(found) > rank(best)) {
        *best = Some(found);
    }
}

impl PartialEq for RuleSet {
    fn eq(&self, other: &Self) -> bool {
        let named = |set: &Self, index: usize| {
            let (policy, rule) = &set.rules[index];
            (set.policies[*policy].metadata.name.clone(), Arc::clone(rule))
        };
        let is_same = |index: usize| {
            let (own, other) = (named(self, index), named(other, index));
            own.0 == other.0 && (Arc::ptr_eq(&own.1, &other.1) || own.1 == other.1)
        };
        self.hash == other.hash
            && self.default() == other.default()
            && self.rules.len() == other.rules.len()
            && (0..self.rules.len()).all(is_same)
    }
}

impl Eq for RuleSet {}

impl fmt::Debug for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = (0..self.rules.len()).map(|position| self.rule_name(position).to_string());
        write!(f, "{:?} {:?} ", self.target, self.default())?;
        f.debug_list().entries(names).finish()
    }
}
