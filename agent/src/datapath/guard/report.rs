// SPDX-License-Identifier: Apache-2.0
//! What the guard found: read by the admin API and by the metrics.
//!
//! Invariant: every attached program has an entry, whether or not it is in force.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::datapath::link::Fault;

/// The last thing that was put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Program or map.
    pub object: &'static str,
    /// What was wrong with it.
    pub fault: Fault,
    /// When, seconds since 1970.
    pub at: u64,
}

/// What is attached, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Whether each program is in force, by name.
    pub programs: BTreeMap<&'static str, bool>,
    /// What is wrong and could not be put right.
    pub problems: Vec<String>,
    /// What was put right since the agent started, by fault.
    pub repairs: BTreeMap<Fault, u64>,
    /// The last of these.
    pub last: Option<Repair>,
}

impl Attachment {
    /// These programs, all in force.
    pub(in crate::datapath) fn of(programs: impl Iterator<Item = &'static str>) -> Self {
        Self {
            programs: programs.map(|name| (name, true)).collect(),
            repairs: Fault::ALL.map(|fault| (fault, 0)).into(),
            ..Self::default()
        }
    }

    /// Number of repairs.
    pub fn repaired_in_all(&self) -> u64 {
        self.repairs.values().sum()
    }

    /// A look begins: nothing is known to be wrong.
    pub(in crate::datapath) fn begin(&mut self) {
        self.problems.clear();
        self.programs.values_mut().for_each(|in_force| *in_force = true);
    }

    pub(in crate::datapath) fn repaired(&mut self, object: &'static str, fault: Fault) {
        *self.repairs.entry(fault).or_default() += 1;
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let at = since.unwrap_or_default().as_secs();
        self.last = Some(Repair { object, fault, at });
    }

    /// The program `name` is not in force somewhere.
    pub(in crate::datapath) fn not_in_force(&mut self, name: &str) {
        if let Some(in_force) = self.programs.get_mut(name) {
            *in_force = false;
        }
    }

    /// This and `other`, which is about other programs.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.programs.extend(&other.programs);
        both.problems.extend_from_slice(&other.problems);
        for (fault, count) in &other.repairs {
            *both.repairs.entry(*fault).or_default() += count;
        }
        both.last = self
            .last
            .iter()
            .chain(&other.last)
            .max_by_key(|repair| repair.at)
            .cloned();
        both
    }

    /// `object` is not in force; without a cgroup, none is.
    pub(in crate::datapath) fn broken(&mut self, object: &str, problem: &str) {
        self.problems.push(problem.to_owned());
        for (name, in_force) in &mut self.programs {
            *in_force &= *name != object && object != "cgroup";
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_counts_once_and_shows_while_it_lasts() {
        let mut attachment = Attachment::of(["connect4", "connect6"].into_iter());
        attachment.repaired("connect4", Fault::Detached);
        attachment.broken("connect6", "connect6 is moved");
        assert_eq!(
            attachment.programs,
            [("connect4", true), ("connect6", false)].into()
        );
        assert_eq!((attachment.repaired_in_all(), attachment.problems.len()), (1, 1));
        attachment.begin();
        assert!(attachment.problems.is_empty() && attachment.programs["connect6"]);
        attachment.broken("cgroup", "gone");
        assert!(attachment.programs.values().all(|in_force| !in_force));
        assert_eq!(attachment.last.unwrap().fault, Fault::Detached);
    }

    #[test]
    fn what_guards_look_at_apart_is_told_together() {
        let mut cgroup = Attachment::of(["connect4"].into_iter());
        let mut interfaces = Attachment::of(["flow_egress", "flow_ingress"].into_iter());
        cgroup.repaired("connect4", Fault::Replaced);
        interfaces.repaired("flow_egress", Fault::Replaced);
        interfaces.not_in_force("flow_ingress");
        let both = cgroup.and(&interfaces);
        let in_force = [("connect4", true), ("flow_egress", true), ("flow_ingress", false)];
        assert_eq!(both.programs, in_force.into());
        assert_eq!(both.repairs[&Fault::Replaced], 2);
        assert!(both.last.is_some());
    }
}
