// SPDX-License-Identifier: Apache-2.0
//! What goes in and out of a store.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;

/// Most bytes of a value: what etcd takes in one request by default, less room for the request.
pub const MAX_VALUE: usize = 1 << 20;
/// Most changes of one transaction: half of what etcd takes by default.
pub const MAX_OPS: usize = 64;

/// A point in the history of a store, and the version of an item that was written last then. Printed as a decimal number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a lease; positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lease that was granted or renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// How long it lives without a renewal.
    pub ttl: Duration,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Arc<str>,
    /// The value.
    pub value: Bytes,
    /// When it was written last.
    pub version: Revision,
    /// The lease that it goes with.
    pub lease: Option<LeaseId>,
}

/// Items as of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// In the order of their keys.
    pub items: Vec<Item>,
    /// The revision of the store; a watch from here misses nothing.
    pub revision: Revision,
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was written.
    Put(Item),
    /// It was deleted, or its lease ended.
    Delete {
        /// The key.
        key: Arc<str>,
        /// When.
        revision: Revision,
    },
}

impl Event {
    /// The key.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::Put(item) => &item.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// When it happened.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(item) => item.version,
            Self::Delete { revision, .. } => *revision,
        }
    }
}

/// Changes that came together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// In the order in which they happened; not empty.
    pub events: Vec<Event>,
    /// Revision of the last one.
    pub revision: Revision,
}

/// What must hold for a key before a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    Any,
    /// The key is not there.
    Absent,
    /// The item was written last at this revision.
    Version(Revision),
}

impl Precondition {
    /// Whether it holds for an item with version `found`.
    pub fn holds(self, found: Option<Revision>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => found.is_none(),
            Self::Version(expected) => found == Some(expected),
        }
    }
}

impl From<Option<Revision>> for Precondition {
    fn from(version: Option<Revision>) -> Self {
        version.map_or(Self::Absent, Self::Version)
    }
}

/// One write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes a key.
    Put {
        /// The key.
        key: Arc<str>,
        /// Its value.
        value: Bytes,
        /// The lease that it goes with; without one it stays, also if it had a lease before.
        lease: Option<LeaseId>,
    },
    /// Deletes a key.
    Delete {
        /// The key.
        key: Arc<str>,
    },
}

impl Change {
    /// The key.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Writes that are done together, or not at all. At most [`MAX_OPS`] changes, each of another key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// What must hold for it.
    pub preconditions: Vec<(Arc<str>, Precondition)>,
    /// What it does.
    pub changes: Vec<Change>,
}

impl Transaction {
    /// Adds a precondition.
    #[must_use]
    pub fn check(mut self, key: &str, precondition: Precondition) -> Self {
        if precondition != Precondition::Any {
            self.preconditions.push((key.into(), precondition));
        }
        self
    }

    /// Adds a write.
    #[must_use]
    pub fn put(mut self, key: &str, value: Bytes, lease: Option<LeaseId>) -> Self {
        self.changes.push(Change::Put {
            key: key.into(),
            value,
            lease,
        });
        self
    }

    /// Adds a delete.
    #[must_use]
    pub fn delete(mut self, key: &str) -> Self {
        self.changes.push(Change::Delete { key: key.into() });
        self
    }
}
