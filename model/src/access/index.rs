// SPDX-License-Identifier: Apache-2.0
//! Which sources may match a client, without a look at each of them.
//!
//! A source is filed under one of its fields (the one that is likely to be the rarest) and its namespace, by hash; a client looks up
//! what it is. Invariant: what is found is a superset of what matches; [`Probe::matches`] is the truth.

use std::{
    collections::{BTreeSet, HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use ipnet::IpNet;

use crate::{
    name::{Labels, ResourceName},
    resource::{
        Workload,
        access_policy::{NamePattern, Source},
    },
};

/// Most keys that a source is filed under for its namespaces to be part of each.
const MAX_KEYS: usize = 64;

/// What is known about a client.
#[derive(Clone, Copy)]
pub(crate) struct Probe<'a> {
    workload: Option<&'a Workload>,
    networks: &'a [IpNet],
}

impl<'a> Probe<'a> {
    pub(crate) fn new(workload: Option<&'a Workload>, networks: &'a [IpNet]) -> Self {
        Self { workload, networks }
    }

    /// Whether the client is one of `source`.
    pub(crate) fn matches(&self, source: &Source) -> bool {
        let is_there =
            source.cidrs.is_empty() || self.networks.iter().any(|network| source.cidrs.contains(network));
        is_there && self.matches_at_some_address(source)
    }

    /// The same for a client that is at an address of `source`.
    pub(crate) fn matches_at_some_address(&self, source: &Source) -> bool {
        let Some(workload) = self.workload else {
            return source.unknown || !source.is_about_workloads();
        };
        let one_of = |patterns: &[NamePattern], name: &str| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(name))
        };
        let name = &workload.metadata.name;
        !source.unknown
            && one_of(&source.namespaces, name.namespace())
            && one_of(&source.workloads, name.name())
            && one_of(&source.identities, &workload.identity)
            && has_all(&workload.metadata.labels, &source.labels)
    }
}

/// What a client, or the clients of a source, can be looked up by.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) namespace: Option<&'a str>,
    pub(crate) name: Option<&'a str>,
    pub(crate) identity: Option<&'a str>,
    pub(crate) labels: &'a Labels,
    pub(crate) networks: &'a [IpNet],
    pub(crate) is_unknown: bool,
}

static NO_LABELS: Labels = Labels::new();

impl<'a> From<&Probe<'a>> for Facts<'a> {
    fn from(probe: &Probe<'a>) -> Self {
        let name = probe.workload.map(|workload| &workload.metadata.name);
        Self {
            namespace: name.map(ResourceName::namespace),
            name: name.map(ResourceName::name),
            identity: probe.workload.map(|workload| &*workload.identity),
            labels: probe
                .workload
                .map_or(&NO_LABELS, |workload| &workload.metadata.labels),
            networks: probe.networks,
            is_unknown: probe.workload.is_none(),
        }
    }
}

fn has_all(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// What a source is filed under.
#[derive(Clone, Copy, Hash)]
pub(super) enum Key<'a> {
    Unknown,
    Identity(&'a str),
    IdentityPrefix(&'a str),
    Workload(&'a str),
    WorkloadPrefix(&'a str),
    Label(&'a str, &'a str),
    Network(&'a IpNet),
    NamespacePrefix(&'a str),
    Namespace,
}

/// The hash of `key`, within `namespace` if there is one.
pub(super) fn hash(namespace: Option<&str>, key: Key<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (namespace, key).hash(&mut hasher);
    hasher.finish()
}

/// Sources by what they name.
#[derive(Default)]
pub(crate) struct SourceIndex {
    /// Rule and source within it, by the hash of a key; a collision is one candidate more.
    filed: HashMap<u64, Vec<(usize, usize)>>,
    /// Lengths of the prefixes that are filed.
    identity_lengths: BTreeSet<usize>,
    workload_lengths: BTreeSet<usize>,
    namespace_lengths: BTreeSet<usize>,
}

impl SourceIndex {
    /// The index of the sources of rules.
    pub(crate) fn new<'s>(rules: impl Iterator<Item = &'s [Source]> + Clone) -> Self {
        let mut uses: HashMap<(&String, &String), usize> = HashMap::new();
        for label in rules.clone().flatten().flat_map(|source| &source.labels) {
            *uses.entry(label).or_default() += 1;
        }
        let uses = |key: &String, value: &String| uses.get(&(key, value)).copied().unwrap_or_default();
        let mut index = Self::default();
        for (rule, sources) in rules.enumerate() {
            for (position, source) in sources.iter().enumerate() {
                for_each_key(source, uses, |namespace, key| {
                    index.file((rule, position), namespace, key);
                });
            }
        }
        index
    }

    fn file(&mut self, place: (usize, usize), namespace: Option<&str>, key: Key<'_>) {
        match key {
            Key::IdentityPrefix(text) => _ = self.identity_lengths.insert(text.len()),
            Key::WorkloadPrefix(text) => _ = self.workload_lengths.insert(text.len()),
            Key::NamespacePrefix(text) => _ = self.namespace_lengths.insert(text.len()),
            _ => {}
        }
        self.filed.entry(hash(namespace, key)).or_default().push(place);
    }

    /// Hands the rule, and the source within it, of each candidate to `each`; one may come several times.
    pub(crate) fn for_each_candidate(&self, facts: &Facts<'_>, mut each: impl FnMut(usize, usize)) {
        if self.filed.is_empty() {
            return;
        }
        let mut look_up = |namespace: Option<&str>, key: Key<'_>| {
            for (rule, source) in self.filed.get(&hash(namespace, key)).into_iter().flatten() {
                each(*rule, *source);
            }
        };
        if facts.is_unknown {
            look_up(None, Key::Unknown);
        }
        if let Some(namespace) = facts.namespace {
            for prefix in prefixes(namespace, &self.namespace_lengths) {
                look_up(None, Key::NamespacePrefix(prefix));
            }
            look_up(Some(namespace), Key::Namespace);
        }
        let scopes = [None, facts.namespace];
        for scope in &scopes[..=usize::from(facts.namespace.is_some())] {
            if let Some(identity) = facts.identity {
                look_up(*scope, Key::Identity(identity));
                for prefix in prefixes(identity, &self.identity_lengths) {
                    look_up(*scope, Key::IdentityPrefix(prefix));
                }
            }
            if let Some(name) = facts.name {
                look_up(*scope, Key::Workload(name));
                for prefix in prefixes(name, &self.workload_lengths) {
                    look_up(*scope, Key::WorkloadPrefix(prefix));
                }
            }
            for (key, value) in facts.labels {
                look_up(*scope, Key::Label(key, value));
            }
            for network in facts.networks {
                look_up(*scope, Key::Network(network));
            }
        }
    }
}

/// The beginnings of `text` of these lengths.
fn prefixes<'a>(text: &'a str, lengths: &'a BTreeSet<usize>) -> impl Iterator<Item = &'a str> {
    lengths.iter().map_while(|length| text.get(..*length))
}

/// Hands the keys of a source, and the namespaces that they are limited to, to `each`: every client that the source matches has one
/// of them. `uses` tells how common a label is.
pub(super) fn for_each_key(
    source: &Source,
    uses: impl Fn(&String, &String) -> usize,
    mut each: impl FnMut(Option<&str>, Key<'_>),
) {
    let keys = keys(source, uses);
    let namespaces = &source.namespaces;
    let is_alone = matches!(keys[..], [Key::Namespace]);
    let is_named = !namespaces.is_empty()
        && namespaces.iter().all(|namespace| !namespace.is_prefix)
        && (is_alone || namespaces.len() * keys.len() <= MAX_KEYS);
    for key in keys {
        if is_named {
            for namespace in namespaces {
                each(Some(&namespace.text), key);
            }
        } else {
            each(None, key);
        }
    }
}

fn keys(source: &Source, uses: impl Fn(&String, &String) -> usize) -> Vec<Key<'_>> {
    if source.unknown {
        return vec![Key::Unknown];
    }
    if !source.identities.is_empty() {
        return of_patterns(&source.identities, Key::Identity, Key::IdentityPrefix);
    }
    if !source.workloads.is_empty() {
        return of_patterns(&source.workloads, Key::Workload, Key::WorkloadPrefix);
    }
    if let Some((key, value)) = source.labels.iter().min_by_key(|(key, value)| uses(key, value)) {
        return vec![Key::Label(key, value)];
    }
    if !source.cidrs.is_empty() {
        return source.cidrs.iter().map(Key::Network).collect();
    }
    if source.namespaces.iter().any(|namespace| namespace.is_prefix) {
        // An exact name is a beginning as well; `matches` tells the two apart.
        return of_patterns(&source.namespaces, Key::NamespacePrefix, Key::NamespacePrefix);
    }
    vec![Key::Namespace]
}

fn of_patterns<'s>(
    patterns: &'s [NamePattern],
    exact: fn(&'s str) -> Key<'s>,
    prefix: fn(&'s str) -> Key<'s>,
) -> Vec<Key<'s>> {
    let key = |pattern: &'s NamePattern| {
        if pattern.is_prefix {
            prefix(&pattern.text)
        } else {
            exact(&pattern.text)
        }
    };
    patterns.iter().map(key).collect()
}
