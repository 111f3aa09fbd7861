// SPDX-License-Identifier: Apache-2.0
//! What the client asked for of one type, and what it has of that. Owned by `session`.
//!
//! Invariant: `versions` and `missing` have no name in common, and of a [`Kind::Named`] type hold only names in `names`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use nodemesh_proto::{type_url, xds::envoy::service::discovery::v3::DeltaDiscoveryRequest};

/// Asks for all resources of a type.
const WILDCARD: &str = "*";

/// How the resources of a type are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// All there are, by a first request without names, which every server understands.
    Full,
    /// All there are, by `*`; a server that does not know the type need not answer.
    Own,
    /// By name.
    Named,
}

/// The state of one type.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) type_url: &'static str,
    pub(super) kind: Kind,
    /// Whether there was a response.
    pub(super) is_answered: bool,
    /// Version of each resource that is held.
    versions: BTreeMap<Box<str>, Box<str>>,
    /// Names that were asked for.
    names: BTreeSet<Box<str>>,
    /// Names that were asked for and that the server does not have.
    pub(super) missing: BTreeSet<Box<str>>,
    /// What was refused and not replaced since, with the reason.
    pub(super) rejected: BTreeMap<String, String>,
}

impl Subscription {
    pub(super) fn new(type_url: &'static str, kind: Kind) -> Self {
        Self {
            type_url,
            kind,
            is_answered: false,
            versions: BTreeMap::new(),
            names: BTreeSet::new(),
            missing: BTreeSet::new(),
            rejected: BTreeMap::new(),
        }
    }

    /// The first request on a new stream; none if there is nothing to ask for yet.
    pub(super) fn open(&self) -> Option<DeltaDiscoveryRequest> {
        if self.kind == Kind::Named && self.names.is_empty() {
            return None;
        }
        let mut subscribe: Vec<String> = Vec::with_capacity(self.names.len() + 1);
        if self.kind == Kind::Own || (self.kind == Kind::Full && !self.names.is_empty()) {
            subscribe.push(WILDCARD.to_owned());
        }
        subscribe.extend(self.names.iter().map(ToString::to_string));
        let versions = self.versions.iter();
        let initial: HashMap<String, String> = versions
            .map(|(name, version)| (name.to_string(), version.to_string()))
            .collect();
        Some(DeltaDiscoveryRequest {
            type_url: self.type_url.to_owned(),
            resource_names_subscribe: subscribe,
            initial_resource_versions: initial,
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// Whether a resource of this name is of any use; one whose subscription ended may still be on its way.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.kind != Kind::Named || self.names.contains(name)
    }

    /// The resource was taken.
    pub(super) fn took(&mut self, name: String, version: String) {
        self.rejected.remove(&name);
        self.missing.remove(name.as_str());
        self.versions.insert(name.into(), version.into());
    }

    /// The server says that there is no such resource; whether that is news.
    pub(super) fn lost(&mut self, name: &str) -> bool {
        let had = self.versions.remove(name).is_some() | self.rejected.remove(name).is_some();
        let is_named = self.names.contains(name);
        (is_named && self.missing.insert(name.into())) | had
    }

    /// Whether names come from what other resources refer to.
    pub(super) fn follows_references(&self) -> bool {
        match self.kind {
            Kind::Named => true,
            // Only what a server leaves out of "all clusters" has to be asked for by name.
            Kind::Full => self.type_url == type_url::CLUSTER && self.is_answered,
            Kind::Own => false,
        }
    }

    /// Asks for `wanted` and for no other name; the request, if one is due, and the names that are no longer held.
    pub(super) fn follow(&mut self, wanted: &BTreeSet<&str>) -> Option<(DeltaDiscoveryRequest, Vec<String>)> {
        let stale: Vec<String> = self
            .names
            .iter()
            .filter(|name| !wanted.contains(&***name))
            .map(ToString::to_string)
            .collect();
        let is_new = |name: &&&str| {
            !self.names.contains(**name) && (self.kind == Kind::Named || !self.versions.contains_key(**name))
        };
        let added: Vec<String> = wanted.iter().filter(is_new).map(ToString::to_string).collect();
        if stale.is_empty() && added.is_empty() {
            return None;
        }
        for name in &stale {
            self.names.remove(name.as_str());
            self.missing.remove(name.as_str());
        }
        let mut dropped = Vec::new();
        if self.kind == Kind::Named {
            dropped.clone_from(&stale);
            for name in &dropped {
                self.rejected.remove(name);
                self.versions.remove(name.as_str());
            }
        }
        self.names
            .extend(added.iter().map(|name| name.clone().into_boxed_str()));
        let request = DeltaDiscoveryRequest {
            type_url: self.type_url.to_owned(),
            resource_names_subscribe: added,
            resource_names_unsubscribe: stale,
            ..DeltaDiscoveryRequest::default()
        };
        Some((request, dropped))
    }
}
