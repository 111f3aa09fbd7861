// SPDX-License-Identifier: Apache-2.0
//! Rules without effect: all that they allow is denied by other rules.
//!
//! Decided by what the rules say, whatever workloads there are. Invariant: a rule that is told of has no effect; of a rule that has
//! none because many others share in denying it, this may not be noticed.

use std::{collections::HashMap, sync::Arc};

use super::{AccessWarning, Resources, name};
use crate::{
    access::{Facts, Networks, SourceIndex},
    name::Labels,
    resource::access_policy::{AccessPolicy, AccessRule, AccessTarget, Action, NamePattern, Source},
};

static NO_LABELS: Labels = Labels::new();

/// The rules of one target that deny.
struct Denials<'r> {
    rules: Vec<(&'r AccessPolicy, &'r AccessRule)>,
    index: SourceIndex,
    networks: Networks,
}

/// Adds a warning for each rule that other rules leave nothing to decide.
pub(super) fn find(resources: &Resources, found: &mut Vec<AccessWarning>) {
    let targets = &resources.access_targets;
    let denials: HashMap<&AccessTarget, Denials<'_>> = targets
        .iter()
        .map(|(target, policies)| (target, Denials::of(policies)))
        .collect();
    for (target, policies) in targets {
        // Those that are about every service that the target is about.
        let wider: Vec<_> = at_least(target)
            .iter()
            .filter_map(|target| denials.get(target))
            .collect();
        for policy in policies {
            for rule in policy.rules.iter().filter(|rule| rule.action != Action::Deny) {
                if let Some(by) = denied_by(rule, &wider) {
                    found.push(AccessWarning::Shadowed {
                        rule: name(policy, rule),
                        action: rule.action,
                        by: name(by.0, by.1),
                    });
                }
            }
        }
    }
}

/// `target`, and the targets that contain it.
fn at_least(target: &AccessTarget) -> Vec<AccessTarget> {
    let mut targets = vec![AccessTarget::Mesh];
    match target {
        AccessTarget::Mesh => {}
        AccessTarget::Namespace(_) => targets.push(target.clone()),
        AccessTarget::Service(name) => {
            targets.push(AccessTarget::Namespace(name.namespace().into()));
            targets.push(target.clone());
        }
    }
    targets
}

impl<'r> Denials<'r> {
    fn of(policies: &'r [Arc<AccessPolicy>]) -> Self {
        let rules = policies
            .iter()
            .flat_map(|policy| policy.rules.iter().map(|rule| (&**policy, &**rule)));
        let rules: Vec<_> = rules.filter(|(_, rule)| rule.action == Action::Deny).collect();
        let sources = rules
            .iter()
            .map(|(_, rule)| rule.from.as_deref().unwrap_or_default());
        let networks = sources
            .clone()
            .flatten()
            .flat_map(|source| source.cidrs.iter().copied());
        Self {
            index: SourceIndex::new(sources.clone()),
            networks: networks.collect(),
            rules,
        }
    }

    /// The first rule that denies everybody on the ports of `rule`.
    fn of_everybody(&self, rule: &AccessRule) -> Option<usize> {
        let denies =
            |(_, denial): &(&AccessPolicy, &AccessRule)| denial.from.is_none() && has_ports(denial, rule);
        self.rules.iter().position(denies)
    }

    /// The first rule that denies all clients of `source` on the ports of `rule`.
    fn of_source(&self, rule: &AccessRule, source: &Source) -> Option<usize> {
        let first = |patterns: &'_ [NamePattern]| patterns.first().map(|pattern| pattern.text.clone());
        let (namespace, name) = (first(&source.namespaces), first(&source.workloads));
        let identity = first(&source.identities);
        let networks = source
            .cidrs
            .first()
            .map(|range| self.networks.within(*range))
            .unwrap_or_default();
        // A denial of all clients of the source denies those of the first value of each field.
        let facts = Facts {
            namespace: namespace.as_deref(),
            name: name.as_deref(),
            identity: identity.as_deref(),
            labels: if source.labels.is_empty() {
                &NO_LABELS
            } else {
                &source.labels
            },
            networks: &networks,
            is_unknown: source.unknown,
        };
        let mut found = None;
        self.index.for_each_candidate(&facts, |denial, position| {
            let (_, rule_of) = self.rules[denial];
            let sources = rule_of.from.as_deref().unwrap_or_default();
            if found.is_none_or(|found| denial < found)
                && has_ports(rule_of, rule)
                && covers(&sources[position], source)
            {
                found = Some(denial);
            }
        });
        found
    }
}

/// One of the denials that leave nothing of `rule`.
fn denied_by<'r>(rule: &AccessRule, wider: &[&Denials<'r>]) -> Option<(&'r AccessPolicy, &'r AccessRule)> {
    let everybody = wider
        .iter()
        .find_map(|denials| Some(denials.rules[denials.of_everybody(rule)?]));
    if everybody.is_some() {
        return everybody;
    }
    let denial = |source: &Source| {
        wider
            .iter()
            .find_map(|denials| Some(denials.rules[denials.of_source(rule, source)?]))
    };
    let denials: Option<Vec<_>> = rule.from.as_ref()?.iter().map(denial).collect();
    denials?.into_iter().next()
}

/// Whether `denial` is about all ports that `rule` is about.
fn has_ports(denial: &AccessRule, rule: &AccessRule) -> bool {
    match (&denial.ports, &rule.ports) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(denied), Some(ports)) => ports.iter().all(|port| denied.binary_search(port).is_ok()),
    }
}

/// Whether `wide` has all clients that `narrow` has.
fn covers(wide: &Source, narrow: &Source) -> bool {
    let all = |wide: &[NamePattern], narrow: &[NamePattern]| {
        let is_covered = |narrow: &NamePattern| wide.iter().any(|wide| wide.covers(narrow));
        wide.is_empty() || !narrow.is_empty() && narrow.iter().all(is_covered)
    };
    let is_within = |range| wide.cidrs.iter().any(|wide| wide.contains(range));
    wide.unknown == narrow.unknown
        && all(&wide.namespaces, &narrow.namespaces)
        && all(&wide.workloads, &narrow.workloads)
        && all(&wide.identities, &narrow.identities)
        && wide
            .labels
            .iter()
            .all(|(key, value)| narrow.labels.get(key) == Some(value))
        && (wide.cidrs.is_empty() || !narrow.cidrs.is_empty() && narrow.cidrs.iter().all(is_within))
}
