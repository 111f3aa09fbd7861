// SPDX-License-Identifier: Apache-2.0
//! From what the store says to a [`State`]: a listing to the first one, each batch of events to the next.
//!
//! Called by `follower`. Invariant: anything may be in the store (another version wrote it, or a person with etcdctl): what is no
//! resource, or does not go together with those that came first, becomes a fault, and the rest is served.

use std::{net::IpAddr, sync::Arc};

use super::{
    Fault, document,
    key::{self, Key},
    state::{Released, State},
};
use crate::store::{Event, Item, Listing, Revision};

impl State {
    /// The state that a listing of everything describes; shares with `previous` the entries that have not changed.
    pub(super) fn from_listing(previous: &Self, listing: Listing) -> Self {
        let mut items: Vec<Item> = listing.items;
        // What was there first stays: the same on every replica, whatever it saw before.
        items.sort_by_key(|item| item.version);
        let mut state = Self {
            revision: listing.revision,
            ..Self::default()
        };
        for item in items {
            let known = Key::parse(&item.key)
                .and_then(|key| previous.get(&key))
                .filter(|entry| entry.version == item.version && entry.lease == item.lease);
            match known {
                Some(entry) if state.insert(Arc::clone(entry)).is_ok() => {}
                _ => state.put(item),
            }
        }
        state
    }

    /// Applies the events of a batch.
    pub(super) fn apply(&mut self, events: Vec<Event>, revision: Revision) {
        for event in events {
            match event {
                Event::Put(item) => self.put(item),
                Event::Delete { key, .. } => self.delete(&key),
            }
        }
        self.revision = revision;
    }

    fn put(&mut self, item: Item) {
        self.faults.remove(&item.key);
        if &*item.key == key::FENCE {
            self.fence = Some(item.version);
        } else if let Some(address) = key::released_address(&item.key) {
            self.release(address, &item);
        } else if let Some(key) = Key::parse(&item.key) {
            self.put_resource(&key, item);
        } else {
            self.fault(item, "is no key of this release".to_owned());
        }
    }

    fn put_resource(&mut self, key: &Key, item: Item) {
        let entered = document::entry(key.clone(), &item)
            .and_then(|entry| self.insert(Arc::new(entry)).map_err(|taken| taken.to_string()));
        if let Err(reason) = entered {
            // What it was before is not what the store has.
            self.remove(key);
            self.fault(item, reason);
        }
        self.retry_faults();
    }

    fn delete(&mut self, text: &Arc<str>) {
        self.faults.remove(text);
        if &**text == key::FENCE {
            self.fence = None;
        } else if let Some(address) = key::released_address(text) {
            self.released.remove(&address);
        } else if let Some(key) = Key::parse(text)
            && self.remove(&key).is_some()
        {
            self.retry_faults();
        }
    }

    fn release(&mut self, address: IpAddr, item: &Item) {
        let owner = String::from_utf8_lossy(&item.value).into();
        self.released.insert(address, Released { owner });
    }

    fn fault(&mut self, item: Item, reason: String) {
        tracing::warn!(key = %item.key, version = %item.version, reason, "item of the store is not served");
        self.faults.insert(Arc::clone(&item.key), Fault { reason, item });
    }

    /// Takes in what a change made room for. There are faults only where something else than this release wrote to the store.
    fn retry_faults(&mut self) {
        for (text, fault) in self.faults.clone() {
            if let Some(key) = Key::parse(&text)
                && let Ok(entry) = document::entry(key, &fault.item)
                && self.insert(Arc::new(entry)).is_ok()
            {
                self.faults.remove(&text);
            }
        }
    }
}
