// SPDX-License-Identifier: Apache-2.0
//! Between etcd's messages and the types of a store, and from etcd's errors to ours. No I/O.
//!
//! Invariant: a key that leaves has our prefix, a key that comes in loses it.

use std::sync::Arc;

use bytes::Bytes;
use tonic::{Code, Status};

use super::api::{
    Compare, DeleteRangeRequest, Event as WireEvent, KeyValue, PutRequest, RangeRequest, RangeResponse,
    RequestOp, TxnRequest, TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    event::EventType,
    request_op, response_op,
};
use crate::store::{Change, Event, Item, LeaseId, Precondition, Revision, StoreError, Transaction};

/// What all our keys begin with in etcd.
#[derive(Clone, Debug)]
pub(super) struct Prefix(pub(super) Arc<str>);

impl Prefix {
    /// The key as etcd has it.
    pub(super) fn key(&self, key: &str) -> Vec<u8> {
        [self.0.as_bytes(), key.as_bytes()].concat()
    }

    /// First key of those that begin with `prefix`, and the first one after them.
    pub(super) fn range(&self, prefix: &str) -> (Vec<u8>, Vec<u8>) {
        // For etcd, an empty key is none, and "\0" is the first one, and as an end it is after the last one.
        let first = self.key(prefix);
        let mut end = first.clone();
        while let Some(last) = end.pop() {
            if let Some(next) = last.checked_add(1) {
                end.push(next);
                return (first, end);
            }
        }
        (if first.is_empty() { vec![0] } else { first }, vec![0])
    }

    fn strip(&self, key: &[u8]) -> Option<Arc<str>> {
        let key = str::from_utf8(key).ok()?;
        key.strip_prefix(&*self.0).map(Arc::from)
    }

    /// `None` for what cannot be ours: its key is no text.
    pub(super) fn item(&self, row: KeyValue) -> Option<Item> {
        Some(Item {
            key: self.strip(&row.key)?,
            value: Bytes::from(row.value),
            version: revision(row.mod_revision),
            lease: (row.lease != 0).then_some(LeaseId(row.lease)),
        })
    }

    /// See [`Self::item`].
    pub(super) fn event(&self, event: WireEvent) -> Option<Event> {
        let is_delete = event.r#type() == EventType::Delete;
        let item = self.item(event.kv?)?;
        Some(if is_delete {
            Event::Delete {
                key: item.key,
                revision: item.version,
            }
        } else {
            Event::Put(item)
        })
    }

    /// One that does what `transaction` says, or tells how the keys of its preconditions are.
    pub(super) fn transaction(&self, transaction: &Transaction) -> TxnRequest {
        let checks = transaction.preconditions.iter();
        let compare = checks.clone().map(|(key, expected)| self.compare(key, *expected));
        let read = checks.map(|(key, _)| {
            request_op::Request::RequestRange(RangeRequest {
                key: self.key(key),
                keys_only: true,
                ..RangeRequest::default()
            })
        });
        let op = |request| RequestOp {
            request: Some(request),
        };
        TxnRequest {
            compare: compare.collect(),
            success: transaction
                .changes
                .iter()
                .map(|change| op(self.change(change)))
                .collect(),
            failure: read.map(op).collect(),
        }
    }

    fn compare(&self, key: &str, expected: Precondition) -> Compare {
        let version = match expected {
            Precondition::Version(version) => i64::try_from(version.0).unwrap_or(i64::MAX),
            Precondition::Absent | Precondition::Any => 0,
        };
        Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: self.key(key),
            target_union: Some(TargetUnion::ModRevision(version)),
        }
    }

    fn change(&self, change: &Change) -> request_op::Request {
        match change {
            Change::Put { key, value, lease } => request_op::Request::RequestPut(PutRequest {
                key: self.key(key),
                value: value.to_vec(),
                lease: lease.map_or(0, |lease| lease.0),
            }),
            Change::Delete { key } => {
                request_op::Request::RequestDeleteRange(DeleteRangeRequest { key: self.key(key) })
            }
        }
    }

    /// Why `transaction` was not done, from what etcd found.
    pub(super) fn conflict(transaction: &Transaction, response: TxnResponse) -> StoreError {
        let found = response
            .responses
            .into_iter()
            .map(|response| match response.response {
                Some(response_op::Response::ResponseRange(range)) => version(&range),
                _ => None,
            });
        let found: Vec<_> = found.collect();
        // Of the keys themselves: the revision of all of etcd also counts what is not ours, which no watch of ours shows.
        let revision = found.iter().flatten().max().copied().unwrap_or_default();
        let mut checks = transaction.preconditions.iter().zip(found);
        match checks.find(|((_, expected), found)| !expected.holds(*found)) {
            Some(((key, expected), found)) => StoreError::Conflict {
                key: Arc::clone(key),
                expected: *expected,
                found,
                revision,
            },
            None => refused("write", "a transaction whose preconditions all hold"),
        }
    }
}

fn version(range: &RangeResponse) -> Option<Revision> {
    range.kvs.first().map(|row| revision(row.mod_revision))
}

pub(super) fn revision(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or_default())
}

pub(super) fn refused(op: &'static str, reason: &str) -> StoreError {
    StoreError::Refused {
        op,
        reason: format!("etcd: {reason}"),
    }
}

/// What etcd says when something does not work.
pub(super) fn failure(op: &'static str, status: &Status) -> StoreError {
    let message = status.message();
    match status.code() {
        Code::ResourceExhausted if message.contains("space exceeded") => StoreError::Full {
            subject: "etcd".to_owned(),
            source: Arc::new(status.clone()),
        },
        Code::InvalidArgument
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented
        | Code::FailedPrecondition => refused(op, message),
        code => StoreError::Unavailable {
            op,
            reason: format!("etcd: {code:?}: {message}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_where_the_prefix_does() {
        for (prefix, key, expected) in [
            (
                "nodemesh/",
                "Service/",
                (&b"nodemesh/Service/"[..], &b"nodemesh/Service0"[..]),
            ),
            ("a", "", (b"a", b"b")),
            ("", "", (b"\0", b"\0")),
        ] {
            let (first, end) = Prefix(prefix.into()).range(key);
            assert_eq!((&*first, &*end), expected, "{prefix:?} {key:?}");
        }
    }

    #[test]
    fn only_what_is_known_not_to_have_happened_is_said_not_to_have_happened() {
        let of = |code, message: &str| failure("write", &Status::new(code, message));
        for code in [
            Code::Unavailable,
            Code::DeadlineExceeded,
            Code::Unknown,
            Code::Internal,
            Code::Cancelled,
        ] {
            assert!(matches!(of(code, "x"), StoreError::Unavailable { .. }), "{code}");
        }
        let full = of(
            Code::ResourceExhausted,
            "etcdserver: mvcc: database space exceeded",
        );
        assert!(matches!(full, StoreError::Full { .. }), "{full}");
        let busy = of(Code::ResourceExhausted, "etcdserver: too many requests");
        assert!(matches!(busy, StoreError::Unavailable { .. }), "{busy}");
    }
}
