// SPDX-License-Identifier: Apache-2.0
//! A store that says what a test writes, so that states come about as they do in the control plane.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::{
    registry::{Registry, RegistryOptions, State},
    store::{Batch, Event, Item, Lease, LeaseId, Listing, Revision, Store, StoreError, Transaction, Watch},
};

struct Script {
    listing: Listing,
    batches: Mutex<Option<mpsc::UnboundedReceiver<Batch>>>,
}

const CLOSED: StoreError = StoreError::Unavailable {
    op: "follow the script",
    reason: String::new(),
};

#[async_trait::async_trait]
impl Store for Script {
    async fn commit(&self, _: Transaction) -> Result<Revision, StoreError> {
        Err(CLOSED)
    }

    async fn get(&self, _: &str) -> Result<Option<Item>, StoreError> {
        Err(CLOSED)
    }

    async fn list(&self, _: &str) -> Result<Listing, StoreError> {
        Ok(self.listing.clone())
    }

    async fn watch(&self, _: &str, _: Revision) -> Result<Watch, StoreError> {
        // After the one watch that the test writes to there is nothing to tell.
        let Some(batches) = self.batches.lock().expect("nobody panics with it").take() else {
            return Ok(stream::pending().boxed());
        };
        let items = stream::unfold(batches, |mut batches| async move {
            let batch = batches.recv().await?;
            Some((Ok(batch), batches))
        });
        Ok(items.boxed())
    }

    async fn grant(&self, _: Duration) -> Result<Lease, StoreError> {
        Err(CLOSED)
    }

    async fn renew(&self, _: LeaseId) -> Result<Lease, StoreError> {
        Err(CLOSED)
    }

    async fn revoke(&self, _: LeaseId) -> Result<(), StoreError> {
        Err(CLOSED)
    }
}

/// What the store has, by key.
pub(super) type Documents = BTreeMap<String, Value>;

/// The test's end.
pub(super) struct Author {
    batches: mpsc::UnboundedSender<Batch>,
    states: watch::Receiver<Arc<State>>,
    revision: u64,
    written: Documents,
    _registry: Registry,
}

fn item((key, document): (&String, &Value), revision: Revision) -> Item {
    Item {
        key: key.as_str().into(),
        value: document.to_string().into(),
        version: revision,
        lease: None,
    }
}

impl Author {
    /// Begins with `documents`.
    pub(super) async fn new(documents: Documents) -> Self {
        let revision = Revision(1);
        let items = documents
            .iter()
            .map(|document| item(document, revision))
            .collect();
        let (batches, received) = mpsc::unbounded_channel();
        let script = Script {
            listing: Listing { items, revision },
            batches: Mutex::new(Some(received)),
        };
        let registry = Registry::open(Arc::new(script), RegistryOptions::default())
            .await
            .expect("a script can be listed");
        Self {
            batches,
            states: registry.subscribe(),
            revision: 1,
            written: documents,
            _registry: registry,
        }
    }

    pub(super) fn state(&self) -> Arc<State> {
        Arc::clone(&self.states.borrow())
    }

    /// The state in which there are these documents and no others.
    pub(super) async fn write(&mut self, next: &Documents) -> Arc<State> {
        self.revision += 1;
        let revision = Revision(self.revision);
        let gone = self.written.keys().filter(|key| !next.contains_key(*key));
        let deletes = gone.map(|key| Event::Delete {
            key: key.as_str().into(),
            revision,
        });
        let others = next
            .iter()
            .filter(|(key, document)| self.written.get(*key) != Some(document));
        let puts = others.map(|document| Event::Put(item(document, revision)));
        let events: Vec<Event> = deletes.chain(puts).collect();
        if events.is_empty() {
            self.revision -= 1;
            return self.state();
        }
        self.batches
            .send(Batch { events, revision })
            .expect("the registry follows");
        self.written = next.clone();
        let reached = self.states.wait_for(|state| state.revision == revision).await;
        Arc::clone(&reached.expect("the registry follows"))
    }
}
