// SPDX-License-Identifier: Apache-2.0
//! An access policy back to the spec that it is read from.
//!
//! Invariant: defaults are left out, so equal policies have equal specs, and a spec reads back as the same policy.

use serde_json::{Map, Value, json};

use super::{AccessPolicy, AccessRule, AccessTarget, MESH, NamePattern, Source, default_name};
use crate::keyword::{Keyword as _, Kind};

impl AccessPolicy {
    /// Its spec.
    pub fn to_spec(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let target = match &self.target {
            AccessTarget::Mesh => json!({"kind": MESH}),
            AccessTarget::Namespace(_) => json!({"kind": Kind::Service.word()}),
            AccessTarget::Service(service) => json!({"kind": Kind::Service.word(), "name": service.name()}),
        };
        fields.insert("targetRef".to_owned(), target);
        if let Some(default) = self.default {
            fields.insert("default".to_owned(), default.word().into());
        }
        if !self.rules.is_empty() {
            let rules = self.rules.iter().enumerate().map(|(index, of)| rule(index, of));
            fields.insert("rules".to_owned(), rules.collect());
        }
        fields
    }
}

fn rule(index: usize, rule: &AccessRule) -> Value {
    let mut fields = Map::new();
    if *rule.name != *default_name(index) {
        fields.insert("name".to_owned(), (*rule.name).into());
    }
    fields.insert("action".to_owned(), rule.action.word().into());
    if let Some(from) = &rule.from {
        fields.insert("from".to_owned(), from.iter().map(source).collect());
    }
    if let Some(ports) = &rule.ports {
        fields.insert("ports".to_owned(), json!(ports));
    }
    fields.into()
}

fn source(source: &Source) -> Value {
    let texts = |patterns: &[NamePattern]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut fields = Map::new();
    for (name, patterns) in [
        ("namespaces", texts(&source.namespaces)),
        ("workloads", texts(&source.workloads)),
        ("identities", texts(&source.identities)),
        ("cidrs", source.cidrs.iter().map(ToString::to_string).collect()),
    ] {
        if !patterns.is_empty() {
            fields.insert(name.to_owned(), json!(patterns));
        }
    }
    if !source.labels.is_empty() {
        fields.insert("labels".to_owned(), json!(source.labels));
    }
    if source.unknown {
        fields.insert("unknown".to_owned(), true.into());
    }
    fields.into()
}
