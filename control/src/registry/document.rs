// SPDX-License-Identifier: Apache-2.0
//! The door for documents: JSON in, a resource that is valid for itself out.
//!
//! Used by `writer` for what users apply and by `follower` for what the store has. Invariant: the same checks both times, those
//! of the model; only addresses are filled in before them, by `writer`.

use nodemesh_model::{InvalidResources, Keyword as _, Kind, Manifest, Resource, name::DEFAULT_NAMESPACE};
use serde_json::{Value, json};

use super::{key::Key, state::Entry};
use crate::store::Item;

/// A document that is valid for itself.
#[derive(Clone, Debug)]
pub(super) struct Document {
    pub(super) key: Key,
    pub(super) value: Value,
    pub(super) resource: Resource,
}

impl Document {
    /// Checks `value` and writes its namespace out.
    pub(super) fn parse(mut value: Value) -> Result<Self, InvalidResources> {
        if let Some(Value::Object(metadata)) = value.get_mut("metadata") {
            let namespace = metadata.entry("namespace").or_insert(Value::Null);
            if namespace.is_null() {
                *namespace = DEFAULT_NAMESPACE.into();
            }
        }
        // `null` is skipped by the manifest, but is no resource here.
        let given = if value.is_null() { json!([]) } else { value.clone() };
        let manifest = Manifest::from_values([given]);
        match manifest.resources().next() {
            Some(resource) => Ok(Self {
                key: Key::new(resource.kind(), resource.metadata().name.clone()),
                value,
                resource: resource.clone(),
            }),
            None => Err(manifest.errors().clone()),
        }
    }
}

/// Reads what the store has under `key`.
pub(super) fn entry(key: Key, item: &Item) -> Result<Entry, String> {
    let text = str::from_utf8(&item.value).map_err(|error| format!("is no text: {error}"))?;
    let value: Value = serde_json::from_str(text).map_err(|error| format!("is no JSON document: {error}"))?;
    let document = Document::parse(value).map_err(|errors| errors.to_string())?;
    if document.key != key {
        return Err(format!("is a document of {}", document.key));
    }
    Ok(Entry {
        key,
        version: item.version,
        lease: item.lease,
        document: text.into(),
        resource: document.resource,
    })
}

/// Whether `value` is a Service that leaves its addresses to us.
pub(super) fn wants_addresses(value: &Value) -> bool {
    value.get("kind").and_then(Value::as_str) == Some(Kind::Service.word())
        && value.get("spec").is_some_and(Value::is_object)
        && match value.pointer("/spec/addresses") {
            None | Some(Value::Null) => true,
            Some(addresses) => addresses.as_array().is_some_and(Vec::is_empty),
        }
}
