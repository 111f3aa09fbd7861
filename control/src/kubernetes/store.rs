// SPDX-License-Identifier: Apache-2.0
//! The store whose content is a cluster: what its objects come down to, under a revision of this process.
//!
//! Made by [`super::open`]; filled by the follower of the API server, read by the registry like every other store.
//!
//! Invariant: it is read-only. What changes the mesh is a change of an object, made with `kubectl`, and comes back through the watch.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;

use super::mesh::ItemChange;
use crate::store::{
    Change, Event, EventLog, Item, Lease, LeaseId, Listing, Revision, Store, StoreError, Transaction, Watch,
};

/// What the cluster comes down to.
#[derive(Debug)]
pub(super) struct ClusterStore {
    content: RwLock<Content>,
    log: Arc<EventLog>,
}

#[derive(Debug)]
struct Content {
    items: BTreeMap<Arc<str>, Item>,
    revision: Revision,
}

impl ClusterStore {
    /// An empty one. Revisions begin with the time, so that they grow also over a restart of this process.
    pub(super) fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let revision = Revision(u64::try_from(since.as_millis()).unwrap_or_default());
        Self {
            content: RwLock::new(Content {
                items: BTreeMap::new(),
                revision,
            }),
            log: Arc::new(EventLog::new(revision)),
        }
    }

    /// Applies `changes` as one revision.
    pub(super) fn apply(&self, changes: Vec<ItemChange>) {
        if changes.is_empty() {
            return;
        }
        let mut content = self.content.write().unwrap_or_else(PoisonError::into_inner);
        let revision = Revision(content.revision.0 + 1);
        content.revision = revision;
        let mut events = Vec::with_capacity(changes.len());
        for change in changes {
            events.push(match change {
                ItemChange::Put(key, value) => {
                    let item = Item {
                        key: Arc::clone(&key),
                        value,
                        version: revision,
                        lease: None,
                    };
                    content.items.insert(key, item.clone());
                    Event::Put(item)
                }
                ItemChange::Delete(key) => {
                    content.items.remove(&key);
                    Event::Delete { key, revision }
                }
            });
        }
        self.log.append(events);
    }

    fn read<T>(&self, read: impl FnOnce(&Content) -> T) -> T {
        read(&self.content.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read_only(op: &'static str, object: String) -> StoreError {
    StoreError::ReadOnly {
        op,
        object,
        reason: "the cluster is the source of this mesh; use kubectl apply, or label a Service (nodemesh.io/mesh: enabled)",
    }
}

#[async_trait]
impl Store for ClusterStore {
    async fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError> {
        let keys = transaction.changes.iter().map(Change::key);
        // Keys of the registry's own are nobody's objects.
        let objects: Vec<&str> = keys.map(|key| &**key).filter(|key| key.contains('/')).collect();
        Err(read_only("write", objects.join(", ")))
    }

    async fn get(&self, key: &str) -> Result<Option<Item>, StoreError> {
        Ok(self.read(|content| content.items.get(key).cloned()))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        Ok(self.read(|content| {
            let from = (Bound::Included(prefix), Bound::Unbounded);
            let items = content.items.range::<str, _>(from);
            let items = items.take_while(|(key, _)| key.starts_with(prefix));
            Listing {
                items: items.map(|(_, item)| item.clone()).collect(),
                revision: content.revision,
            }
        }))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        let last = self.read(|content| content.revision);
        self.log.watch(prefix, from, last)
    }

    async fn grant(&self, _: Duration) -> Result<Lease, StoreError> {
        Err(read_only("grant", "a lease".to_owned()))
    }

    async fn renew(&self, id: LeaseId) -> Result<Lease, StoreError> {
        Err(read_only("renew", format!("lease {id}")))
    }

    async fn revoke(&self, id: LeaseId) -> Result<(), StoreError> {
        Err(read_only("revoke", format!("lease {id}")))
    }
}
