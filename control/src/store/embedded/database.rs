// SPDX-License-Identifier: Apache-2.0
//! The tables of the file, and what the calls of a store do to them within one transaction of the file.
//!
//! ```text
//! meta       name -> number                  format, revision
//! items      key -> (version, lease, value)  lease 0: none
//! leases     id -> (ttl, remaining, renewed) milliseconds
//! lease_keys (lease, key)                    what ends with a lease
//! ```
//!
//! Invariant: `lease_keys` has a row for exactly each item with a lease, and `leases` has that lease.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use redb::{
    ReadOnlyTable, ReadTransaction, ReadableTable as _, Table, TableDefinition, TableError, WriteTransaction,
};

use crate::store::{Change, Event, Item, LeaseId, Listing, Revision, StoreError, Transaction};

/// What `format` says in a file of this release.
pub(super) const FORMAT: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const ITEMS: TableDefinition<'_, &str, (u64, i64, &[u8])> = TableDefinition::new("items");
const LEASES: TableDefinition<'_, i64, (u64, u64, bool)> = TableDefinition::new("leases");
const LEASE_KEYS: TableDefinition<'_, (i64, &str), ()> = TableDefinition::new("lease_keys");

const META_FORMAT: &str = "format";
const META_REVISION: &str = "revision";
/// The revision of an empty store.
const FIRST: u64 = 1;

/// A lease as the file has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeaseRow {
    pub(super) ttl: Duration,
    /// How long it lives after the store is opened, if nobody renews it.
    pub(super) remaining: Duration,
    /// Whether it was granted or renewed since the store was opened: then `remaining` is all of `ttl`.
    pub(super) is_renewed: bool,
}

/// What was written in one transaction of the file.
#[derive(Debug)]
pub(super) struct Written {
    /// Of the last change.
    pub(super) revision: Revision,
    pub(super) events: Vec<Event>,
}

/// A transaction of the file that is being written.
pub(super) struct Writing<'t> {
    meta: Table<'t, &'static str, u64>,
    items: Table<'t, &'static str, (u64, i64, &'static [u8])>,
    leases: Table<'t, i64, (u64, u64, bool)>,
    lease_keys: Table<'t, (i64, &'static str), ()>,
    revision: u64,
    events: Vec<Event>,
    is_dirty: bool,
}

impl<'t> Writing<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, redb::Error> {
        let meta = transaction.open_table(META)?;
        let revision = number(meta.get(META_REVISION)?.map(|row| row.value()), META_REVISION)?;
        Ok(Self {
            meta,
            items: transaction.open_table(ITEMS)?,
            leases: transaction.open_table(LEASES)?,
            lease_keys: transaction.open_table(LEASE_KEYS)?,
            revision,
            events: Vec::new(),
            is_dirty: false,
        })
    }

    /// Does what `transaction` says if its preconditions hold and its leases are there.
    pub(super) fn commit(
        &mut self,
        transaction: &Transaction,
    ) -> Result<Result<Revision, StoreError>, redb::Error> {
        if let Some(refusal) = self.refusal(transaction)? {
            return Ok(Err(refusal));
        }
        let revision = Revision(self.revision + 1);
        let before = self.events.len();
        for change in &transaction.changes {
            match change {
                Change::Put { key, value, lease } => self.put(key, value, *lease, revision)?,
                Change::Delete { key } => self.delete(key, revision)?,
            }
        }
        if self.events.len() > before {
            self.revision = revision.0;
        }
        Ok(Ok(Revision(self.revision)))
    }

    fn refusal(&self, transaction: &Transaction) -> Result<Option<StoreError>, redb::Error> {
        for (key, expected) in &transaction.preconditions {
            let found = self.items.get(&**key)?.map(|row| Revision(row.value().0));
            if !expected.holds(found) {
                return Ok(Some(StoreError::Conflict {
                    key: Arc::clone(key),
                    expected: *expected,
                    found,
                    revision: Revision(self.revision),
                }));
            }
        }
        for change in &transaction.changes {
            if let Change::Put {
                lease: Some(lease), ..
            } = change
                && self.leases.get(lease.0)?.is_none()
            {
                return Ok(Some(StoreError::LeaseGone { lease: *lease }));
            }
        }
        Ok(None)
    }

    fn put(
        &mut self,
        key: &Arc<str>,
        value: &Bytes,
        lease: Option<LeaseId>,
        revision: Revision,
    ) -> Result<(), redb::Error> {
        let id = lease.map_or(0, |lease| lease.0);
        let former = self.items.insert(&**key, (revision.0, id, &**value))?;
        let former = former.map_or(0, |row| row.value().1);
        if former != id {
            if former != 0 {
                self.lease_keys.remove((former, &**key))?;
            }
            if id != 0 {
                self.lease_keys.insert((id, &**key), ())?;
            }
        }
        self.is_dirty = true;
        self.events.push(Event::Put(Item {
            key: Arc::clone(key),
            value: value.clone(),
            version: revision,
            lease,
        }));
        Ok(())
    }

    fn delete(&mut self, key: &Arc<str>, revision: Revision) -> Result<(), redb::Error> {
        let Some(lease) = self.items.remove(&**key)?.map(|row| row.value().1) else {
            return Ok(());
        };
        if lease != 0 {
            self.lease_keys.remove((lease, &**key))?;
        }
        self.is_dirty = true;
        self.events.push(Event::Delete {
            key: Arc::clone(key),
            revision,
        });
        Ok(())
    }

    /// Adds a lease under a name that no other one has.
    pub(super) fn grant(&mut self, ttl: Duration) -> Result<(LeaseId, LeaseRow), redb::Error> {
        let mut id = fastrand::i64(1..);
        while self.leases.get(id)?.is_some() {
            id = fastrand::i64(1..);
        }
        let row = LeaseRow {
            ttl,
            remaining: ttl,
            is_renewed: true,
        };
        self.write_lease(id, row)?;
        Ok((LeaseId(id), row))
    }

    /// Writes what is new about a lease, if it is there still.
    pub(super) fn note(&mut self, id: i64, row: LeaseRow) -> Result<(), redb::Error> {
        let is_there = self.leases.get(id)?.is_some();
        if is_there {
            self.write_lease(id, row)
        } else {
            Ok(())
        }
    }

    fn write_lease(&mut self, id: i64, row: LeaseRow) -> Result<(), redb::Error> {
        self.leases
            .insert(id, (millis(row.ttl), millis(row.remaining), row.is_renewed))?;
        self.is_dirty = true;
        Ok(())
    }

    /// Deletes a lease and all that goes with it; whether it was there.
    pub(super) fn end_lease(&mut self, id: i64) -> Result<bool, redb::Error> {
        if self.leases.remove(id)?.is_none() {
            return Ok(false);
        }
        self.is_dirty = true;
        let mut keys: Vec<Arc<str>> = Vec::new();
        for row in self.lease_keys.range((id, "")..)? {
            let (row, ()) = row.map(|(key, _)| (key, ()))?;
            let (lease, key) = row.value();
            if lease != id {
                break;
            }
            keys.push(key.into());
        }
        if !keys.is_empty() {
            self.revision += 1;
        }
        for key in &keys {
            self.delete(key, Revision(self.revision))?;
        }
        Ok(true)
    }

    /// Writes what is left to write; `None` if there is nothing to commit.
    pub(super) fn finish(mut self) -> Result<Option<Written>, redb::Error> {
        if !self.is_dirty {
            return Ok(None);
        }
        self.meta.insert(META_REVISION, self.revision)?;
        Ok(Some(Written {
            revision: Revision(self.revision),
            events: self.events,
        }))
    }
}

/// Makes the tables of an empty store.
pub(super) fn initialize(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    meta.insert(META_FORMAT, FORMAT)?;
    meta.insert(META_REVISION, FIRST)?;
    transaction.open_table(ITEMS)?;
    transaction.open_table(LEASES)?;
    transaction.open_table(LEASE_KEYS)?;
    Ok(())
}

/// What the file says its format is; `None` if it is no store at all.
pub(super) fn format(transaction: &ReadTransaction) -> Result<Option<u64>, redb::Error> {
    match transaction.open_table(META) {
        Ok(meta) => Ok(meta.get(META_FORMAT)?.map(|row| row.value())),
        Err(TableError::TableDoesNotExist(_) | TableError::TableTypeMismatch { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn revision(transaction: &ReadTransaction) -> Result<Revision, redb::Error> {
    let meta = transaction.open_table(META)?;
    let revision = meta.get(META_REVISION)?.map(|row| row.value());
    number(revision, META_REVISION).map(Revision)
}

pub(super) fn get(transaction: &ReadTransaction, key: &str) -> Result<Option<Item>, redb::Error> {
    let items = transaction.open_table(ITEMS)?;
    Ok(items.get(key)?.map(|row| item(key, row.value())))
}

pub(super) fn list(transaction: &ReadTransaction, prefix: &str) -> Result<Listing, redb::Error> {
    let table: ReadOnlyTable<&str, (u64, i64, &[u8])> = transaction.open_table(ITEMS)?;
    let mut items = Vec::new();
    for row in table.range(prefix..)? {
        let (key, value) = row?;
        if !key.value().starts_with(prefix) {
            break;
        }
        items.push(item(key.value(), value.value()));
    }
    Ok(Listing {
        items,
        revision: revision(transaction)?,
    })
}

pub(super) fn leases(transaction: &ReadTransaction) -> Result<Vec<(i64, LeaseRow)>, redb::Error> {
    let leases = transaction.open_table(LEASES)?;
    let rows = leases.iter()?.map(|row| {
        let (id, row) = row?;
        let (ttl, remaining, is_renewed) = row.value();
        let row = LeaseRow {
            ttl: Duration::from_millis(ttl),
            remaining: Duration::from_millis(remaining),
            is_renewed,
        };
        Ok((id.value(), row))
    });
    rows.collect()
}

fn item(key: &str, (version, lease, value): (u64, i64, &[u8])) -> Item {
    Item {
        key: key.into(),
        value: Bytes::copy_from_slice(value),
        version: Revision(version),
        lease: (lease != 0).then_some(LeaseId(lease)),
    }
}

fn number(value: Option<u64>, name: &str) -> Result<u64, redb::Error> {
    value.ok_or_else(|| redb::Error::Corrupted(format!("it has no {name}")))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
