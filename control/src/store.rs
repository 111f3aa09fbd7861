// SPDX-License-Identifier: Apache-2.0
//! Where the control plane keeps what it was told: an ordered map of keys to bytes with one revision for all of it, atomic
//! transactions, a watch, and leases.
//!
//! Used by `registry` alone. [`embedded`] is a file of this process, [`etcd`] a cluster that several replicas of the control plane
//! share; one conformance suite holds both to the contract below.
//!
//! Invariant: what was acknowledged is durable. A call that fails with [`StoreError::Unavailable`] may still have taken effect;
//! after every other error it has not.

pub mod embedded;
mod error;
pub mod etcd;
mod log;
mod types;

#[cfg(test)]
mod conformance;

use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

pub use error::StoreError;
pub(crate) use log::EventLog;
pub use types::{
    Batch, Change, Event, Item, Lease, LeaseId, Listing, MAX_OPS, MAX_VALUE, Precondition, Revision,
    Transaction,
};

/// Batches of changes in the order of their revisions; an error is the last item.
pub type Watch = BoxStream<'static, Result<Batch, StoreError>>;

/// An ordered map of keys to bytes, durable, with leases.
///
/// Keys are not empty. Values have at most [`MAX_VALUE`] bytes.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Applies `transaction` as a whole if all its preconditions hold, else fails with [`StoreError::Conflict`].
    ///
    /// The result is the revision that all its writes have. One that changes nothing (deletes of keys that are not there) has the
    /// current revision.
    async fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError>;

    /// The item of `key`.
    async fn get(&self, key: &str) -> Result<Option<Item>, StoreError>;

    /// All items whose keys begin with `prefix`, in the order of their keys, as of one revision.
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// The changes after `from` of keys that begin with `prefix`.
    ///
    /// A batch holds all changes of each of its revisions. The stream survives interruptions of the store; it ends with
    /// [`StoreError::Compacted`] when changes after `from` are no longer there, or `from` is not yet: list again.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError>;

    /// A new lease, which expires `ttl` after its last renewal and takes the keys attached to it along. `ttl` is whole seconds, at
    /// least one; the lease may be granted longer.
    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError>;

    /// Starts the time of `lease` anew.
    async fn renew(&self, lease: LeaseId) -> Result<Lease, StoreError>;

    /// Ends `lease` now and deletes the keys attached to it.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Writes one key. See [`Store::commit`].
    async fn put(
        &self,
        key: &str,
        value: bytes::Bytes,
        precondition: Precondition,
        lease: Option<LeaseId>,
    ) -> Result<Revision, StoreError> {
        self.commit(
            Transaction::default()
                .check(key, precondition)
                .put(key, value, lease),
        )
        .await
    }

    /// Deletes one key; one that is not there is no error without a precondition. See [`Store::commit`].
    async fn delete(&self, key: &str, precondition: Precondition) -> Result<Revision, StoreError> {
        self.commit(Transaction::default().check(key, precondition).delete(key))
            .await
    }
}
