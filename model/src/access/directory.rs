// SPDX-License-Identifier: Apache-2.0
//! All principals by number, with an index over what rules can name: the counterpart of the index over rules.
//!
//! Made by the agent for the tables of new rules. Invariant: every principal but the special ones is one workload, or none, whose
//! address is known, so that the rules that match it are all that its entry depends on.

use std::{collections::HashMap, sync::Arc};

use super::{
    Principal,
    index::{self, Key, for_each_key},
};
use crate::resource::{Workload, access_policy::Source};

/// Principals by number.
#[derive(Default)]
pub struct Directory {
    principals: Vec<Option<Arc<Principal>>>,
    /// Those that are decided about one by one.
    special: Vec<usize>,
    /// Numbers by the hash of a key; a collision is one candidate more.
    filed: HashMap<u64, Vec<usize>>,
    /// Sorted, for prefixes.
    identities: Vec<(Arc<str>, usize)>,
    names: Vec<(Box<str>, usize)>,
    namespaces: Vec<(Box<str>, usize)>,
}

impl Directory {
    /// The directory of `principals`, numbered from 0; `None` for a number that is not in use.
    pub fn new(principals: Vec<Option<Arc<Principal>>>) -> Self {
        let mut directory = Self::default();
        for (number, principal) in principals.iter().enumerate() {
            match principal {
                Some(principal) if principal.is_addressed() && principal.workloads().len() <= 1 => {
                    directory.add(number, principal);
                }
                _ => directory.special.push(number),
            }
        }
        directory.principals = principals;
        directory.identities.sort_unstable();
        directory.names.sort_unstable();
        directory.namespaces.sort_unstable();
        directory
    }

    fn add(&mut self, number: usize, principal: &Principal) {
        let mut file = |namespace: Option<&str>, key: Key<'_>| {
            self.filed
                .entry(index::hash(namespace, key))
                .or_default()
                .push(number);
        };
        for network in principal.networks() {
            file(None, Key::Network(network));
        }
        let Some(Workload {
            metadata, identity, ..
        }) = principal.workloads().next()
        else {
            return file(None, Key::Unknown);
        };
        let (namespace, name) = (metadata.name.namespace(), metadata.name.name());
        file(Some(namespace), Key::Namespace);
        file(None, Key::Identity(identity));
        file(None, Key::Workload(name));
        file(Some(namespace), Key::Workload(name));
        for (key, value) in &metadata.labels {
            file(None, Key::Label(key, value));
        }
        self.identities.push((Arc::clone(identity), number));
        self.names.push((name.into(), number));
        self.namespaces.push((namespace.into(), number));
    }

    /// One more than the largest number.
    pub fn len(&self) -> usize {
        self.principals.len()
    }

    /// Whether there are no numbers.
    pub fn is_empty(&self) -> bool {
        self.principals.is_empty()
    }

    /// The principals that are decided about one by one; `None` for a number that is not in use.
    pub(super) fn special(&self) -> impl Iterator<Item = (usize, Option<&Principal>)> {
        self.special
            .iter()
            .map(|number| (*number, self.principals[*number].as_deref()))
    }

    /// Hands the numbers of the principals that `source` matches, but the special ones, to `each`; one may come several times.
    pub(super) fn for_each_match(&self, source: &Source, mut each: impl FnMut(usize)) {
        let mut check = |number: usize| {
            if self.principals[number]
                .as_ref()
                .is_some_and(|p| p.probes().any(|probe| probe.matches(source)))
            {
                each(number);
            }
        };
        let uses = |key: &String, value: &String| self.filed(None, Key::Label(key, value)).len();
        for_each_key(source, uses, |namespace, key| match (namespace, key) {
            (Some(_), Key::Workload(_)) => self.filed(namespace, key).iter().copied().for_each(&mut check),
            // All of the namespace may be too many, but fewer than all that begin so.
            (Some(_), Key::Namespace | Key::WorkloadPrefix(_) | Key::IdentityPrefix(_)) => {
                self.filed(namespace, Key::Namespace)
                    .iter()
                    .copied()
                    .for_each(&mut check);
            }
            (None, Key::IdentityPrefix(prefix)) => beginning(&self.identities, prefix).for_each(&mut check),
            (None, Key::WorkloadPrefix(prefix)) => beginning(&self.names, prefix).for_each(&mut check),
            (_, Key::NamespacePrefix(prefix)) => beginning(&self.namespaces, prefix).for_each(&mut check),
            (_, key) => self.filed(None, key).iter().copied().for_each(&mut check),
        });
    }

    fn filed(&self, namespace: Option<&str>, key: Key<'_>) -> &[usize] {
        self.filed
            .get(&index::hash(namespace, key))
            .map_or(&[], Vec::as_slice)
    }
}

/// The numbers of what begins with `prefix`.
fn beginning<T: AsRef<str>>(sorted: &[(T, usize)], prefix: &str) -> impl Iterator<Item = usize> {
    let first = sorted.partition_point(|(text, _)| text.as_ref() < prefix);
    sorted[first..]
        .iter()
        .take_while(move |(text, _)| text.as_ref().starts_with(prefix))
        .map(|(_, number)| *number)
}
