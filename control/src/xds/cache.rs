// SPDX-License-Identifier: Apache-2.0
//! What there is to serve: one writer replaces immutable snapshots, every stream reads the newest.
//!
//! ```text
//!  feed ── Change ──► Cache ── watch ──► Arc<Snapshot> ──► streams
//! ```
//!
//! Two snapshots share the resources that are the same in both, and comparing them skips what they share: what changed between
//! any two is found at the cost of the change, without a log of changes that a slow reader could fall behind. Invariant: a
//! [`Snapshot`] never changes.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

use super::{
    resource::{Name, Resource, Resources},
    type_url::TypeUrl,
};

/// One step of a commit.
#[derive(Clone, Debug)]
pub enum Change {
    /// There is this resource now, instead of any other of its name.
    Put(TypeUrl, Name, Arc<Resource>),
    /// There is no such resource any more.
    Remove(TypeUrl, Name),
}

/// All resources at one revision.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    tables: BTreeMap<TypeUrl, Table>,
}

#[derive(Clone, Debug, Default)]
struct Table {
    revision: u64,
    resources: Resources,
    /// Those that a reader of everything gets; `None`: all.
    listed: Option<Resources>,
}

impl Table {
    /// Returns whether there was another one.
    fn put(&mut self, name: Name, resource: Arc<Resource>) -> bool {
        if self.resources.get(&name) == Some(&resource) {
            return false;
        }
        if resource.is_unlisted() {
            let listed = self.listed.get_or_insert_with(|| self.resources.clone());
            listed.remove(&name);
        } else if let Some(listed) = &mut self.listed {
            listed.insert(name.clone(), resource.clone());
        }
        self.resources.insert(name, resource);
        true
    }

    /// Returns whether there was one.
    fn remove(&mut self, name: &Name) -> bool {
        if let Some(listed) = &mut self.listed {
            listed.remove(name);
        }
        self.resources.remove(name).is_some()
    }
}

impl Snapshot {
    /// The resources of a type.
    pub fn resources(&self, type_url: &TypeUrl) -> Resources {
        self.tables
            .get(type_url)
            .map(|table| table.resources.clone())
            .unwrap_or_default()
    }

    /// The resources of a type that a reader of everything gets.
    pub fn listed(&self, type_url: &TypeUrl) -> Resources {
        self.tables
            .get(type_url)
            .and_then(|table| table.listed.clone())
            .unwrap_or_else(|| self.resources(type_url))
    }

    /// One resource.
    pub fn get(&self, type_url: &TypeUrl, name: &str) -> Option<&Arc<Resource>> {
        self.tables.get(type_url)?.resources.get(name)
    }

    /// The revision at which the resources of a type changed last; 0 for a type that never had any.
    pub fn revision(&self, type_url: &TypeUrl) -> u64 {
        self.tables.get(type_url).map_or(0, |table| table.revision)
    }

    /// Returns whether anything is other than before.
    fn apply(&mut self, revision: u64, change: Change) -> bool {
        let (Change::Put(type_url, ..) | Change::Remove(type_url, _)) = &change;
        let table = self.tables.entry(type_url.clone()).or_default();
        let is_news = match change {
            Change::Put(_, name, resource) => table.put(name, resource),
            Change::Remove(_, name) => table.remove(&name),
        };
        if is_news {
            table.revision = revision;
        }
        is_news
    }

    /// The name as the cache has it, so that those who remember it share it.
    pub(super) fn intern(&self, type_url: &TypeUrl, name: &str) -> Name {
        let shared = |table: &Table| table.resources.get_key_value(name).map(|(key, _)| key.clone());
        self.tables
            .get(type_url)
            .and_then(shared)
            .unwrap_or_else(|| name.into())
    }
}

/// The writer's end.
#[derive(Debug)]
pub struct Cache {
    published: watch::Sender<Arc<Snapshot>>,
}

impl Cache {
    /// Without resources.
    pub fn new() -> Self {
        Self {
            published: watch::Sender::new(Arc::default()),
        }
    }

    /// A reader's end.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.published.subscribe()
    }

    /// Publishes all `changes` in one step as `revision`, which never goes down. Those that change nothing wake nobody.
    pub fn commit(&mut self, revision: u64, changes: impl IntoIterator<Item = Change>) {
        let mut next = Snapshot::clone(&self.published.borrow());
        let mut is_news = false;
        for change in changes {
            is_news |= next.apply(revision, change);
        }
        if is_news {
            self.published.send_replace(Arc::new(next));
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}
