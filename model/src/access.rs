// SPDX-License-Identifier: Apache-2.0
//! Who may connect: the decision of a set of rules about a client, as the tables of the kernel hold it and as the CLI explains it.
//!
//! ```text
//! AccessPolicy (mesh, namespace, service) --port--> RuleSet per target --> AccessRules of a frontend --Principal--> Decision
//! ```
//!
//! Made by `desired`. Invariants: deny wins over audit, audit over allow, and a rule over a default, whatever their order and
//! level; equal rules are one allocation within a [`crate::Desired`].

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use nodemesh_abi::Access;

use crate::{
    name::ResourceName,
    resource::access_policy::{Action, DefaultAccess},
};

mod directory;
mod index;
mod networks;
mod principal;
mod rule_set;

pub use directory::Directory;
pub(crate) use index::{Facts, Probe, SourceIndex};
pub use networks::Networks;
pub use principal::{Prefix, Principal, PrincipalName};
pub(crate) use rule_set::RuleSet;

/// The rules of a frontend: those of the mesh, its namespace and its service that are about its port.
#[derive(Clone)]
pub struct AccessRules {
    /// At most one per level, the widest first; none that says nothing.
    sets: Vec<Arc<RuleSet>>,
    hash: u64,
}

/// What the rules say about a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The entry of the kernel's table.
    pub access: Access,
    /// The rule that decides, or what sets the default; `None` if nothing sets one.
    pub rule: Option<RuleName>,
    /// Whether no rule matches, so that the default holds.
    pub default: bool,
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleName {
    /// The policy.
    pub policy: ResourceName,
    /// The rule's name; `default` for the policy's default.
    pub rule: Arc<str>,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessPolicy {}, {}", self.policy, self.rule)
    }
}

impl AccessRules {
    /// The rules of `sets`; `None` if there are none.
    pub(crate) fn new(sets: Vec<Arc<RuleSet>>) -> Option<Self> {
        if sets.is_empty() {
            return None;
        }
        let hash = sets.iter().fold(0, |hash, set| {
            nodemesh_abi::client::mix(hash ^ set.content_hash())
        });
        Some(Self { sets, hash })
    }

    /// The entry of the kernel's table for `principal`.
    ///
    /// [`Access::ByAddress`] for one whose address is not known if a range of addresses could admit it: at the server's node,
    /// where the address is known and in no such range, it is denied.
    pub fn access(&self, principal: &Principal) -> Access {
        self.weighed(principal).0
    }

    /// The entries of the kernel's table for all principals of `directory`, by their numbers: what [`Self::access`] says of each, at
    /// the cost of those that a rule matches. A number that is not in use is denied.
    pub fn table(&self, directory: &Directory) -> Vec<Access> {
        let default = self.default_access();
        let mut actions: Vec<Option<Action>> = vec![None; directory.len()];
        for rule in self.sets.iter().flat_map(|set| set.rules()) {
            let Some(from) = &rule.from else {
                for action in &mut actions {
                    *action = (*action).max(Some(rule.action));
                }
                continue;
            };
            for source in from {
                directory.for_each_match(source, |number| {
                    let action = &mut actions[number];
                    *action = (*action).max(Some(rule.action));
                });
            }
        }
        let mut table: Vec<_> = actions
            .into_iter()
            .map(|action| action.map_or(default, access_of))
            .collect();
        for (number, principal) in directory.special() {
            table[number] = principal.map_or(Access::Deny, |principal| self.access(principal));
        }
        table
    }

    /// As [`Self::access`], with the reason.
    pub fn decide(&self, principal: &Principal) -> Decision {
        let (access, found) = self.weighed(principal);
        let (rule, default) = match found {
            Some((set, rule)) => (Some(self.sets[set].rule_name(rule)), false),
            None => (self.default().1, true),
        };
        Decision {
            access,
            rule,
            default,
        }
    }

    /// Every rule that matches `principal`, the strongest first.
    pub fn matching(&self, principal: &Principal) -> Vec<(RuleName, Action)> {
        let mut found: Vec<_> = (0..)
            .zip(&self.sets)
            .flat_map(|(level, set)| set.matching(principal).into_iter().map(move |rule| (level, rule)))
            .map(|(level, rule): (usize, usize)| {
                (std::cmp::Reverse(self.sets[level].action(rule)), level, rule)
            })
            .collect();
        found.sort_unstable();
        found
            .into_iter()
            .map(|(action, level, rule)| (self.sets[level].rule_name(rule), action.0))
            .collect()
    }

    /// Number of rules.
    pub fn len(&self) -> usize {
        self.sets.iter().map(|set| set.len()).sum()
    }

    /// Whether there is a default at most.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What holds where no rule matches, and what says so: the namespace, else the mesh.
    fn default(&self) -> (Access, Option<RuleName>) {
        let mut defaults = self.sets.iter().rev().filter_map(|set| set.default());
        match defaults.next() {
            None => (Access::Allow, None),
            Some((default, policy)) => {
                let access = match default {
                    DefaultAccess::Allow => Access::Allow,
                    DefaultAccess::Deny => Access::Deny,
                };
                let rule = RuleName {
                    policy: policy.clone(),
                    rule: "default".into(),
                };
                (access, Some(rule))
            }
        }
    }

    /// The decision, and the rule that makes it as its set and its position there.
    fn weighed(&self, principal: &Principal) -> (Access, Option<(usize, usize)>) {
        // An address that several workloads have is allowed what each of them is.
        principal
            .probes()
            .map(|probe| self.weighed_for(&probe, principal.is_addressed()))
            .max_by_key(|(access, _)| access.strictness())
            .unwrap_or((Access::Deny, None))
    }

    fn weighed_for(&self, probe: &Probe<'_>, is_addressed: bool) -> (Access, Option<(usize, usize)>) {
        let mut best: Option<(Action, usize, usize)> = None;
        for (level, set) in self.sets.iter().enumerate() {
            let least = best.map(|(action, ..)| action);
            if let Some((action, rule)) = set.strongest(probe, least) {
                best = Some((action, level, rule));
            }
        }
        if let Some((action, level, rule)) = best {
            return (access_of(action), Some((level, rule)));
        }
        let default = self.default_access();
        if default == Access::Deny && !is_addressed {
            let mut sets = self.sets.iter().enumerate();
            let admits = sets.find_map(|(level, set)| Some((level, set.admits_somewhere(probe)?)));
            if admits.is_some() {
                return (Access::ByAddress, admits);
            }
        }
        (default, None)
    }

    fn default_access(&self) -> Access {
        match self.sets.iter().rev().find_map(|set| set.default()) {
            Some((DefaultAccess::Deny, _)) => Access::Deny,
            Some((DefaultAccess::Allow, _)) | None => Access::Allow,
        }
    }

    pub(crate) fn sets(&self) -> &[Arc<RuleSet>] {
        &self.sets
    }
}

fn access_of(action: Action) -> Access {
    match action {
        Action::Allow => Access::Allow,
        Action::Audit => Access::Audit,
        Action::Deny => Access::Deny,
    }
}

impl PartialEq for AccessRules {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.sets == other.sets
    }
}

impl Eq for AccessRules {}

impl Hash for AccessRules {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl fmt::Debug for AccessRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.sets).finish()
    }
}

#[cfg(test)]
mod tests;
