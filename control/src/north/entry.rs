// SPDX-License-Identifier: Apache-2.0
//! Between the fields of requests and the registry's types.

use nodemesh_model::{Keyword as _, Kind, ResourceName, name::DEFAULT_NAMESPACE};
use nodemesh_proto::v1;
use serde_json::Value;
use tonic::Status;

use crate::{
    registry::{Entry, Key},
    store::{LeaseId, Precondition, Revision},
};

/// The JSON document of a request.
pub(super) fn document(text: &str) -> Result<Value, Status> {
    let document: Value = serde_json::from_str(text)
        .map_err(|error| Status::invalid_argument(format!("resource: is no JSON document: {error}")))?;
    if document.is_object() {
        return Ok(document);
    }
    Err(Status::invalid_argument(
        "resource: must be a JSON object with apiVersion, kind, metadata and spec",
    ))
}

/// The kind of a request.
pub(super) fn kind(word: &str) -> Result<Kind, Status> {
    Kind::from_word(word).ok_or_else(|| {
        let known: Vec<_> = Kind::WORDS.iter().map(|(_, word)| *word).collect();
        Status::invalid_argument(format!(
            "kind: there is no {word:?}; use one of {}",
            known.join(", ")
        ))
    })
}

/// The kind that a request limits itself to.
pub(super) fn optional_kind(word: &str) -> Result<Option<Kind>, Status> {
    (!word.is_empty()).then(|| kind(word)).transpose()
}

/// The namespace that a request limits itself to.
pub(super) fn optional_namespace(namespace: String) -> Result<Option<String>, Status> {
    if namespace.is_empty() {
        return Ok(None);
    }
    name(&namespace, "a")
        .map_err(|_| Status::invalid_argument(format!("namespace: {namespace:?} is none")))?;
    Ok(Some(namespace))
}

/// The resource that a request names.
pub(super) fn key(kind_word: &str, namespace: &str, resource: &str) -> Result<Key, Status> {
    let namespace = if namespace.is_empty() {
        DEFAULT_NAMESPACE
    } else {
        namespace
    };
    Ok(Key::new(kind(kind_word)?, name(namespace, resource)?))
}

fn name(namespace: &str, resource: &str) -> Result<ResourceName, Status> {
    ResourceName::new(namespace, resource)
        .map_err(|problem| Status::invalid_argument(format!("name: {namespace}/{resource}: {problem}")))
}

/// What a write expects.
pub(super) fn precondition(version: &str) -> Result<Precondition, Status> {
    match version {
        "" => Ok(Precondition::Any),
        "0" => Ok(Precondition::Absent),
        _ => version.parse().map(|version| Precondition::Version(Revision(version))).map_err(|_| {
            Status::invalid_argument(format!(
                "expect_version: {version:?} is no version; use the decimal number of an entry, \"0\" for none, or nothing"
            ))
        }),
    }
}

/// A lease of a request.
pub(super) fn lease(lease: i64) -> Result<LeaseId, Status> {
    if lease > 0 {
        return Ok(LeaseId(lease));
    }
    Err(Status::invalid_argument(
        "lease: must be one that Register answered",
    ))
}

/// A revision as in responses; those of real stores fit.
pub(super) fn revision(Revision(revision): Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// As in responses.
pub(super) fn entry(entry: &Entry) -> v1::Entry {
    v1::Entry {
        version: entry.version.to_string(),
        resource: entry.document.to_string(),
        lease: entry.lease.map_or(0, |LeaseId(lease)| lease),
        ..name_of(&entry.key)
    }
}

/// An entry that says what it is of, and nothing else.
pub(super) fn name_of(key: &Key) -> v1::Entry {
    v1::Entry {
        kind: key.kind.word().to_owned(),
        namespace: key.name.namespace().to_owned(),
        name: key.name.name().to_owned(),
        ..v1::Entry::default()
    }
}
