// SPDX-License-Identifier: Apache-2.0
//! What the double stores: objects by kind and name, and the changes that a watch may go on from.
//!
//! Written through `serve` and by the tests themselves. Invariant: every change has a revision of its own, greater than all before it, in the
//! object and in the log of its kind; what the log no longer has cannot be watched from (410).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    fields::{self, Applied},
    kinds::Resource,
    refusal::Refusal,
    shelves::{Change, Items, Name, Shelves, Stored, stored},
};

/// Lists that may still be read on, page by page.
const LISTS: usize = 16;

/// The storage.
#[derive(Debug)]
pub(super) struct Objects {
    state: Mutex<Shelves>,
    revision: watch::Sender<u64>,
}

/// How an object is changed.
pub(super) enum Write<'a> {
    /// To this one.
    Replace(Value),
    /// By a merge patch.
    Merge(&'a Value),
    /// By what a manager wants of it.
    Apply {
        manager: &'a str,
        wanted: Value,
        is_forced: bool,
    },
}

impl Objects {
    pub(super) fn new() -> Self {
        Self {
            // A watch from 0 means something else.
            state: Mutex::new(Shelves {
                revision: 1,
                by_kind: BTreeMap::new(),
            }),
            revision: watch::Sender::new(1),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shelves> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The revision of the last change, as it moves.
    pub(super) fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub(super) fn get(&self, resource: &'static Resource, name: &Name) -> Result<Arc<Stored>, Refusal> {
        let found = self.lock().of(resource).items.get(name).cloned();
        found.ok_or_else(|| Refusal::not_found(resource, &name.1))
    }

    /// All of a kind, and the revision of that.
    pub(super) fn list(&self, resource: &'static Resource) -> (u64, Items) {
        let mut shelves = self.lock();
        let revision = shelves.revision;
        let kept = shelves.of(resource);
        let items = kept.items.clone();
        kept.lists.insert(revision, items.clone());
        while kept.lists.len() > LISTS {
            kept.lists.pop_first();
        }
        (revision, items)
    }

    /// A list of before, to be read on.
    pub(super) fn listed(&self, resource: &'static Resource, revision: u64) -> Result<Items, Refusal> {
        let found = self.lock().of(resource).lists.get(&revision).cloned();
        found.ok_or_else(Refusal::expired)
    }

    /// What has changed after `revision`, and the revision up to which that is all.
    pub(super) fn since(
        &self,
        resource: &'static Resource,
        revision: u64,
    ) -> Result<(u64, Vec<Change>), Refusal> {
        let mut shelves = self.lock();
        let now = shelves.revision;
        let kept = shelves.of(resource);
        if revision < kept.forgotten {
            return Err(Refusal::expired());
        }
        let first = kept.log.partition_point(|change| change.revision <= revision);
        Ok((now, kept.log.range(first..).cloned().collect()))
    }

    /// Forgets all changes: whoever is behind has to list again.
    pub(super) fn forget(&self) {
        let mut shelves = self.lock();
        let now = shelves.revision;
        for kept in shelves.by_kind.values_mut() {
            kept.log.clear();
            kept.lists.clear();
            kept.forgotten = now;
        }
    }

    /// Stores a new object.
    pub(super) fn create(
        &self,
        resource: &'static Resource,
        namespace: &str,
        mut object: Value,
    ) -> Result<Arc<Stored>, Refusal> {
        let name = name_of(resource, namespace, &object)?;
        if resource.has_status && resource.group == "nodemesh.io" {
            drop(object.as_object_mut().and_then(|object| object.remove("status")));
        }
        let mut shelves = self.lock();
        if shelves.of(resource).items.contains_key(&name) {
            return Err(Refusal::exists(resource, &name.1));
        }
        let stored = shelves.store(resource, name, object, Applied::new(), None);
        self.revision.send_replace(shelves.revision);
        Ok(stored)
    }

    /// Changes an object, or its status only; says whether it was made: what is applied is where it is not there.
    pub(super) fn write(
        &self,
        resource: &'static Resource,
        name: &Name,
        write: Write<'_>,
        is_status: bool,
    ) -> Result<(Arc<Stored>, bool), Refusal> {
        if let Write::Replace(new) = &write
            && name_of(resource, &name.0, new)? != *name
        {
            return Err(Refusal::bad_request(
                "the name of the object is not that of the request",
            ));
        }
        let mut shelves = self.lock();
        let former = shelves.of(resource).items.get(name).cloned();
        let may_make = matches!(write, Write::Apply { .. }) && !is_status;
        if former.is_none() && !may_make {
            return Err(Refusal::not_found(resource, &name.1));
        }
        let old = former.as_ref().map(|former| former.value());
        let mut applied = former
            .as_ref()
            .map_or_else(Applied::new, |former| former.applied.clone());
        let mut object = old.clone().unwrap_or(Value::Null);
        let demanded = demanded_version(&write);
        if let (Some(demanded), Some(old)) = (&demanded, &old)
            && *demanded != old["metadata"]["resourceVersion"]
        {
            return Err(Refusal::conflict(resource, &name.1));
        }
        match write {
            Write::Replace(new) => object = new,
            Write::Merge(patch) => fields::merge(&mut object, patch),
            Write::Apply {
                manager,
                wanted,
                is_forced,
            } => fields::apply(&mut object, &mut applied, manager, &wanted, is_forced)
                .map_err(|why| Refusal::apply_conflict(&why))?,
        }
        if let Some(old) = &old {
            keep_the_rest(&mut object, old, resource, is_status);
            if *old == object {
                return former.map(|former| (former, false)).ok_or_else(Refusal::expired);
            }
        }
        let stored = shelves.store(resource, name.clone(), object, applied, old.as_ref());
        self.revision.send_replace(shelves.revision);
        Ok((stored, old.is_none()))
    }

    /// Takes an object away.
    pub(super) fn delete(&self, resource: &'static Resource, name: &Name) -> Result<(), Refusal> {
        let mut shelves = self.lock();
        let former = shelves.of(resource).items.remove(name);
        let former = former.ok_or_else(|| Refusal::not_found(resource, &name.1))?;
        let revision = shelves.next();
        let mut object = former.value();
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        let last = stored(&object, Applied::new());
        shelves.note(resource, revision, "DELETED", name.clone(), last);
        self.revision.send_replace(revision);
        Ok(())
    }
}

/// What this request does not write stays: the status or all but the status, and what the server itself writes.
fn keep_the_rest(object: &mut Value, old: &Value, resource: &Resource, is_status: bool) {
    let take = |object: &mut Value, field: &str| match old.get(field) {
        Some(value) => object[field] = value.clone(),
        None => drop(object.as_object_mut().and_then(|object| object.remove(field))),
    };
    if is_status {
        let status = object["status"].take();
        object.clone_from(old);
        object["status"] = status;
    } else if resource.has_status {
        take(object, "status");
    }
    for field in ["apiVersion", "kind"] {
        take(object, field);
    }
    for field in [
        "uid",
        "creationTimestamp",
        "generation",
        "resourceVersion",
        "name",
        "namespace",
    ] {
        if let Some(value) = old["metadata"].get(field) {
            object["metadata"][field] = value.clone();
        }
    }
}

/// The version that a write wants to be the last one.
fn demanded_version(write: &Write<'_>) -> Option<Value> {
    let object = match write {
        Write::Replace(object) => object,
        Write::Merge(patch) => patch,
        Write::Apply { wanted, .. } => wanted,
    };
    let version = object["metadata"].get("resourceVersion")?;
    (!version.is_null() && *version != json!("")).then(|| version.clone())
}

fn name_of(resource: &Resource, namespace: &str, object: &Value) -> Result<Name, Refusal> {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Refusal::invalid("metadata.name: Required value"))?;
    let own = metadata["namespace"].as_str().unwrap_or(namespace);
    if resource.is_namespaced && (own.is_empty() || own != namespace) {
        return Err(Refusal::bad_request(
            "the namespace of the object is not that of the request",
        ));
    }
    let namespace = if resource.is_namespaced { namespace } else { "" };
    Ok((namespace.to_owned(), name.to_owned()))
}
