// SPDX-License-Identifier: Apache-2.0
//! Writes and reads.

use std::sync::Arc;

use futures_util::future::join_all;

use super::{all, bytes, events, keys};
use crate::store::{Event, MAX_OPS, MAX_VALUE, Precondition, Revision, Store, StoreError, Transaction};

pub(in crate::store) async fn what_is_written_is_read(store: Arc<dyn Store>) {
    assert_eq!(store.get("b").await.unwrap(), None);
    let first = store.put("b", bytes("1"), Precondition::Any, None).await.unwrap();
    let second = store
        .put("a/x", bytes("2"), Precondition::Any, None)
        .await
        .unwrap();
    store.put("ab", bytes(""), Precondition::Any, None).await.unwrap();
    assert!(second > first);
    let item = store.get("b").await.unwrap().unwrap();
    assert_eq!((&*item.value, item.version, item.lease), (&b"1"[..], first, None));
    assert_eq!(keys(&store, "").await, ["a/x", "ab", "b"]);
    assert_eq!(keys(&store, "a").await, ["a/x", "ab"]);
    assert_eq!(keys(&store, "a/").await, ["a/x"]);
    assert_eq!(keys(&store, "c").await, [""; 0]);
    let third = store.put("b", bytes("3"), Precondition::Any, None).await.unwrap();
    let listing = store.list("b").await.unwrap();
    assert_eq!(
        (&*listing.items[0].value, listing.items[0].version),
        (&b"3"[..], third)
    );
    assert!(listing.revision >= third);
}

pub(in crate::store) async fn a_precondition_that_does_not_hold_stops_all(store: Arc<dyn Store>) {
    let version = store
        .put("a", bytes("1"), Precondition::Absent, None)
        .await
        .unwrap();
    for (key, expected, found) in [
        ("a", Precondition::Absent, Some(version)),
        ("a", Precondition::Version(Revision(version.0 + 1)), Some(version)),
        ("b", Precondition::Version(version), None),
    ] {
        let transaction = Transaction::default()
            .check("a", Precondition::Version(version))
            .check(key, expected)
            .put("c", bytes("2"), None)
            .delete("a");
        match store.commit(transaction).await.unwrap_err() {
            StoreError::Conflict {
                key: reported,
                expected: reported_expected,
                found: reported_found,
                revision,
            } => {
                assert_eq!(
                    (&*reported, reported_expected, reported_found),
                    (key, expected, found)
                );
                assert!(found.is_none_or(|found| revision >= found));
            }
            error => panic!("{error}"),
        }
    }
    assert_eq!(keys(&store, "").await, ["a"]);
    let transaction = Transaction::default()
        .check("a", Precondition::Version(version))
        .check("b", Precondition::Absent);
    store
        .commit(transaction.put("b", bytes("2"), None).delete("a"))
        .await
        .unwrap();
    assert_eq!(keys(&store, "").await, ["b"]);
}

pub(in crate::store) async fn changes_of_a_transaction_share_a_revision(store: Arc<dyn Store>) {
    let before = store
        .put("old", bytes("1"), Precondition::Any, None)
        .await
        .unwrap();
    let mut watch = store.watch("", before).await.unwrap();
    let transaction = Transaction::default()
        .put("x", bytes("1"), None)
        .delete("old")
        .put("a", bytes("2"), None);
    let revision = store.commit(transaction).await.unwrap();
    let mut seen = events(&mut watch, 3).await;
    seen.sort_by_key(|event| event.key().to_string());
    assert!(seen.iter().all(|event| event.revision() == revision), "{seen:?}");
    assert!(matches!(&seen[1], Event::Delete { key, .. } if &**key == "old"));
    assert!(all(&store).await.iter().all(|item| item.version == revision));
}

pub(in crate::store) async fn deleting_nothing_changes_nothing(store: Arc<dyn Store>) {
    let version = store.put("a", bytes("1"), Precondition::Any, None).await.unwrap();
    let mut watch = store.watch("", version).await.unwrap();
    let revision = store.delete("b", Precondition::Any).await.unwrap();
    assert!(revision >= version);
    let last = store.delete("a", Precondition::Version(version)).await.unwrap();
    let seen = events(&mut watch, 1).await;
    assert_eq!((&**seen[0].key(), seen[0].revision()), ("a", last));
}

pub(in crate::store) async fn malformed_transactions_are_refused(store: Arc<dyn Store>) {
    let many = |count| {
        (0..count).fold(Transaction::default(), |all, n| {
            all.put(&format!("k{n}"), bytes("1"), None)
        })
    };
    for transaction in [
        Transaction::default(),
        many(1).put("k0", bytes("2"), None),
        many(1).delete("k0"),
        many(1).put("", bytes("2"), None),
        many(MAX_OPS + 1),
    ] {
        let error = store.commit(transaction).await.unwrap_err();
        assert!(matches!(error, StoreError::Transaction { .. }), "{error}");
    }
    let half = bytes(&"x".repeat(MAX_VALUE / 2 + 1));
    let transaction = Transaction::default()
        .put("a", half.clone(), None)
        .put("b", half, None);
    let error = store.commit(transaction).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    assert_eq!(all(&store).await, []);
    store.commit(many(MAX_OPS)).await.unwrap();
    assert_eq!(all(&store).await.len(), MAX_OPS);
}

pub(in crate::store) async fn large_values_and_many_items_come_back(store: Arc<dyn Store>) {
    let large = bytes(&"y".repeat(MAX_VALUE));
    for n in 0..8 {
        store
            .put(&format!("large/{n}"), large.clone(), Precondition::Any, None)
            .await
            .unwrap();
    }
    let writes = (0..40).map(|group| {
        let store = Arc::clone(&store);
        async move {
            let transaction = (0..50).fold(Transaction::default(), |all, n| {
                all.put(&format!("small/{group:02}/{n:02}"), bytes("1"), None)
            });
            store.commit(transaction).await.unwrap();
        }
    });
    join_all(writes).await;
    let items = all(&store).await;
    assert_eq!(items.len(), 2008);
    assert!(items.is_sorted_by(|a, b| a.key < b.key));
    assert!(items[..8].iter().all(|item| item.value == large));
}

pub(in crate::store) async fn no_update_is_lost_between_writers(store: Arc<dyn Store>) {
    const EACH: u64 = 15;
    let writers = (0..6).map(|_| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..EACH {
                loop {
                    let item = store.get("counter").await.unwrap();
                    let count: u64 = item
                        .as_ref()
                        .map_or(0, |item| str::from_utf8(&item.value).unwrap().parse().unwrap());
                    let expected = item.map(|item| item.version).into();
                    match store
                        .put("counter", bytes(&(count + 1).to_string()), expected, None)
                        .await
                    {
                        Ok(_) => break,
                        Err(StoreError::Conflict { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        })
    });
    for writer in join_all(writers).await {
        writer.unwrap();
    }
    assert_eq!(
        store.get("counter").await.unwrap().unwrap().value,
        bytes(&(6 * EACH).to_string())
    );
}
