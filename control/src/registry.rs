// SPDX-License-Identifier: Apache-2.0
//! The resources of the mesh: what may enter, under which version, and what everybody sees.
//!
//! ```text
//! apply, delete --> writer ----+              +--> Arc<State> --> xds, north
//! register -----> (directly) --+--> store ----+
//!                                   (watch) follower
//! ```
//!
//! Called by `north`; read by the xDS server through [`Registry::subscribe`].
//!
//! Invariant: a state is made of what the store says and of nothing else, so all replicas of the control plane agree; who wrote
//! something sees it in the state when the call returns.

mod address;
mod conflict;
mod document;
mod dry_run;
mod error;
mod follower;
mod index;
mod key;
mod plan;
mod state;
mod writer;

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _};
use nodemesh_model::Kind;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::store::{Event, Item, Lease, LeaseId, MAX_OPS, Precondition, Revision, Store, StoreError};

pub use address::{AddressError, AddressRanges};
pub use conflict::Taken;
pub use error::{LEASE_TTL_S, RegistryError};
pub use key::Key;
pub use state::{Changed, Claim, Entry, Released, State};

use plan::Request;
use writer::{Answer, Done, Queued, Writer};

/// Requests that wait for the writer.
const QUEUE: usize = 16 * MAX_OPS;

/// An item of the store that is no resource of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Why.
    pub reason: String,
    /// The item.
    pub item: Item,
}

/// What an operator decides.
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// Where services without addresses get theirs from.
    pub ranges: AddressRanges,
    /// How long an address of these ranges is kept back after its service is gone; whole seconds.
    pub grace: Duration,
}

/// The answer to [`Registry::apply`] and [`Registry::delete`].
#[derive(Clone, Debug)]
pub struct Applied {
    /// The resource.
    pub key: Key,
    /// Its version; when it was deleted, the revision of that.
    pub version: Revision,
    /// Whether it was new.
    pub is_new: bool,
    /// Whether anything was written: what is applied again as it was is not.
    pub is_changed: bool,
}

/// The answer to [`Registry::register`].
#[derive(Clone, Debug)]
pub struct Registration {
    /// The workload.
    pub key: Key,
    /// Its version.
    pub version: Revision,
    /// What has to be renewed.
    pub lease: Lease,
}

/// What [`Registry::watch`] tells.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// A resource is new or has changed.
    Set(Arc<Entry>),
    /// A resource is gone.
    Removed {
        /// Which.
        key: Key,
        /// When.
        revision: Revision,
    },
}

/// The resources of the mesh. Cheap to clone; its tasks end with the last clone.
#[derive(Clone)]
pub struct Registry {
    writer: Writer,
    queue: mpsc::Sender<Queued>,
}

impl Registry {
    /// Reads the store and follows it from then on.
    pub async fn open(store: Arc<dyn Store>, options: RegistryOptions) -> Result<Self, StoreError> {
        let state = follower::listed(&*store, &State::default()).await?;
        let (publisher, states) = watch::channel(Arc::new(state));
        let writer = Writer {
            store: Arc::clone(&store),
            states,
            ranges: Arc::new(options.ranges),
            grace: options.grace,
        };
        let (queue, queued) = mpsc::channel(QUEUE);
        tokio::spawn(follower::follow(store, publisher));
        tokio::spawn(writer.clone().run(queued));
        Ok(Self { writer, queue })
    }

    /// The state as it is now.
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.writer.states.borrow())
    }

    /// The states from now on; a slow reader sees the newest one only.
    pub fn subscribe(&self) -> watch::Receiver<Arc<State>> {
        self.writer.states.clone()
    }

    /// Creates or replaces a resource, if it is valid, goes together with the others and `expected` holds.
    pub async fn apply(&self, document: Value, expected: Precondition) -> Result<Applied, RegistryError> {
        let request = Request::Apply {
            value: document,
            expected,
            lease: None,
        };
        Ok(applied(&self.write(request).await?))
    }

    /// Deletes a resource if `expected` holds. One that a server registered is deregistered: the server learns it when it renews.
    pub async fn delete(&self, key: &Key, expected: Precondition) -> Result<Applied, RegistryError> {
        let request = Request::Delete {
            key: key.clone(),
            expected,
        };
        let done = self.write(request).await?;
        self.end_lease_of(&done).await;
        Ok(applied(&done))
    }

    /// Creates a Workload that lives as long as its lease is renewed. One that is registered already is replaced and its lease ends:
    /// a server that was started again takes over what it had before.
    pub async fn register(&self, document: Value, ttl: Duration) -> Result<Registration, RegistryError> {
        if !LEASE_TTL_S.contains(&ttl.as_secs()) {
            return Err(RegistryError::Ttl { ttl });
        }
        let lease = self
            .writer
            .store
            .grant(Duration::from_secs(ttl.as_secs()))
            .await?;
        let request = Request::Apply {
            value: document,
            expected: Precondition::Any,
            lease: Some(lease.id),
        };
        match self.write(request).await {
            Ok(done) => {
                self.end_lease_of(&done).await;
                Ok(Registration {
                    key: done.key,
                    version: done.revision,
                    lease,
                })
            }
            Err(error) => {
                self.writer.give_back(lease.id).await;
                Err(error)
            }
        }
    }

    /// Lets what was registered with `lease` live on.
    pub async fn renew(&self, lease: LeaseId) -> Result<Lease, RegistryError> {
        Ok(self.writer.store.renew(lease).await?)
    }

    /// Ends what was registered with `lease`.
    pub async fn deregister(&self, lease: LeaseId) -> Result<(), RegistryError> {
        Ok(self.writer.store.revoke(lease).await?)
    }

    /// The changes after `from` of resources of `kind` (of all kinds without one) in `namespace`.
    pub async fn watch(
        &self,
        kind: Option<Kind>,
        namespace: Option<String>,
        from: Revision,
    ) -> Result<impl Stream<Item = Result<WatchEvent, StoreError>> + use<>, StoreError> {
        let prefix = Key::prefix(kind, namespace.as_deref());
        let batches = self.writer.store.watch(&prefix, from).await?;
        Ok(batches.flat_map(move |batch| {
            let events: Vec<_> = match batch {
                Ok(batch) => batch.events.iter().filter_map(event).map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            let is_asked_for = {
                let namespace = namespace.clone();
                move |event: &Result<WatchEvent, StoreError>| match (event, &namespace) {
                    (Ok(event), Some(namespace)) => event.key().name.namespace() == namespace,
                    _ => true,
                }
            };
            futures_util::stream::iter(events.into_iter().filter(is_asked_for).collect::<Vec<_>>())
        }))
    }

    async fn write(&self, request: Request) -> Answer {
        let mut writer = self.writer.clone();
        if let Some(answer) = writer.write_directly(&request).await {
            return answer;
        }
        let (reply, answer) = oneshot::channel();
        let sent = self.queue.send((request, reply)).await;
        sent.map_err(|_| RegistryError::Stopped)?;
        answer.await.map_err(|_| RegistryError::Stopped)?
    }

    /// Ends the lease that a resource had before, so that who held it learns.
    async fn end_lease_of(&self, done: &Done) {
        let lease = |entry: &Option<Arc<Entry>>| entry.as_ref().and_then(|entry| entry.lease);
        if let Some(former) = lease(&done.former).filter(|former| lease(&done.entry) != Some(*former)) {
            self.writer.give_back(former).await;
        }
    }
}

impl WatchEvent {
    /// The resource.
    pub fn key(&self) -> &Key {
        match self {
            Self::Set(entry) => &entry.key,
            Self::Removed { key, .. } => key,
        }
    }
}

fn applied(done: &Done) -> Applied {
    Applied {
        key: done.key.clone(),
        version: done.revision,
        is_new: done.former.is_none(),
        is_changed: done.is_changed,
    }
}

/// What an event says about a resource; `None` if it is about something else.
fn event(event: &Event) -> Option<WatchEvent> {
    let key = Key::parse(event.key())?;
    match event {
        Event::Put(item) => Some(WatchEvent::Set(Arc::new(document::entry(key, item).ok()?))),
        Event::Delete { revision, .. } => Some(WatchEvent::Removed {
            key,
            revision: *revision,
        }),
    }
}

#[cfg(test)]
mod tests;
