// SPDX-License-Identifier: Apache-2.0
//! Shelves of the double's storage: the objects of each kind as they are now, as they were when a list of them began, and what has changed.
//!
//! Used by `objects`, under its lock. Invariant: the log of a kind is in the order of revisions.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use imbl::OrdMap;
use serde_json::Value;

use super::{fields::Applied, kinds::Resource};

/// Changes of a kind that are remembered.
const MEMORY: usize = 20_000;

/// Namespace and name.
pub(super) type Name = (String, String);

/// An object as it is stored.
#[derive(Debug)]
pub(super) struct Stored {
    /// As it is sent.
    pub(super) json: Bytes,
    /// By whom.
    pub(super) applied: Applied,
}

impl Stored {
    pub(super) fn value(&self) -> Value {
        serde_json::from_slice(&self.json).expect("it was written here")
    }
}

/// Objects of a kind at one moment.
pub(super) type Items = OrdMap<Name, Arc<Stored>>;

/// A change of an object.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) revision: u64,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub(super) event: &'static str,
    pub(super) name: Name,
    pub(super) object: Arc<Stored>,
}

/// All of one kind.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) items: Items,
    pub(super) log: VecDeque<Change>,
    /// Changes up to here are forgotten.
    pub(super) forgotten: u64,
    /// Lists that may be read on, by their revisions.
    pub(super) lists: BTreeMap<u64, Items>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Shelves {
    /// Of the last change.
    pub(super) revision: u64,
    pub(super) by_kind: BTreeMap<(&'static str, &'static str), Shelf>,
}

impl Shelves {
    /// That of a kind.
    pub(super) fn of(&mut self, resource: &'static Resource) -> &mut Shelf {
        self.by_kind.entry((resource.group, resource.plural)).or_default()
    }

    /// The revision of the next change.
    pub(super) fn next(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }

    /// Puts an object in the place of `old`.
    pub(super) fn store(
        &mut self,
        resource: &'static Resource,
        name: Name,
        mut object: Value,
        applied: Applied,
        old: Option<&Value>,
    ) -> Arc<Stored> {
        let revision = self.next();
        object["apiVersion"] = resource.api_version().into();
        object["kind"] = resource.kind.into();
        let generation = match old {
            None => 1,
            Some(old) => {
                let is_new = old["spec"] != object["spec"];
                old["metadata"]["generation"].as_i64().unwrap_or(1) + i64::from(is_new)
            }
        };
        let metadata = &mut object["metadata"];
        if old.is_none() {
            metadata["uid"] = uid().into();
            metadata["creationTimestamp"] = now().into();
        }
        metadata["name"] = name.1.as_str().into();
        if resource.is_namespaced {
            metadata["namespace"] = name.0.as_str().into();
        }
        metadata["generation"] = generation.into();
        metadata["resourceVersion"] = revision.to_string().into();
        let stored = stored(&object, applied);
        let event = if old.is_none() { "ADDED" } else { "MODIFIED" };
        self.of(resource).items.insert(name.clone(), Arc::clone(&stored));
        self.note(resource, revision, event, name, Arc::clone(&stored));
        stored
    }

    /// Notes a change.
    pub(super) fn note(
        &mut self,
        resource: &'static Resource,
        revision: u64,
        event: &'static str,
        name: Name,
        object: Arc<Stored>,
    ) {
        let kept = self.of(resource);
        kept.log.push_back(Change {
            revision,
            event,
            name,
            object,
        });
        if kept.log.len() > MEMORY {
            let oldest = kept.log.pop_front();
            kept.forgotten = oldest.map_or(kept.forgotten, |oldest| oldest.revision);
        }
    }
}

/// As it is kept.
pub(super) fn stored(object: &Value, applied: Applied) -> Arc<Stored> {
    Arc::new(Stored {
        json: object.to_string().into(),
        applied,
    })
}

fn uid() -> String {
    let digits = format!("{:032x}", fastrand::u128(..));
    [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ]
    .join("-")
}

fn now() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}
