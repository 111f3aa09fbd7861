// SPDX-License-Identifier: Apache-2.0
//! Leases: keys that end by themselves.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;

use super::{PATIENCE, bytes, events, keys};
use crate::store::{Event, LeaseId, Precondition, Store, StoreError, Transaction};

/// Long enough that no machine is so slow that it passes by accident.
const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_secs(2);

pub(in crate::store) async fn keys_end_with_their_lease(store: Arc<dyn Store>) {
    let lease = store.grant(SHORT).await.unwrap();
    let granted = Instant::now();
    assert!(lease.ttl >= SHORT && lease.id.0 > 0, "{lease:?}");
    let transaction =
        Transaction::default()
            .put("a", bytes("1"), Some(lease.id))
            .put("b", bytes("2"), Some(lease.id));
    let from = store.commit(transaction).await.unwrap();
    store.put("c", bytes("3"), Precondition::Any, None).await.unwrap();
    assert_eq!(store.get("a").await.unwrap().unwrap().lease, Some(lease.id));
    let mut watch = store.watch("", from).await.unwrap();
    let seen = events(&mut watch, 3).await;
    let lived = granted.elapsed();
    assert!(
        lived + Duration::from_millis(100) >= lease.ttl,
        "it ended after {lived:?}"
    );
    assert!(
        lived <= lease.ttl + Duration::from_secs(1),
        "it ended after {lived:?} only"
    );
    assert!(matches!(
        (&seen[1], &seen[2]),
        (Event::Delete { .. }, Event::Delete { .. })
    ));
    assert_eq!(keys(&store, "").await, ["c"]);
    let error = store.renew(lease.id).await.unwrap_err();
    assert!(
        matches!(error, StoreError::LeaseGone { lease: gone } if gone == lease.id),
        "{error}"
    );
}

pub(in crate::store) async fn a_renewed_lease_lives_on(store: Arc<dyn Store>) {
    let lease = store.grant(SHORT).await.unwrap();
    store
        .put("a", bytes("1"), Precondition::Any, Some(lease.id))
        .await
        .unwrap();
    let start = Instant::now();
    while start.elapsed() < lease.ttl * 2 {
        assert_eq!(store.renew(lease.id).await.unwrap(), lease);
        tokio::time::sleep(lease.ttl / 5).await;
        assert_eq!(keys(&store, "").await, ["a"]);
    }
}

pub(in crate::store) async fn revoking_deletes_and_tells(store: Arc<dyn Store>) {
    let (lease, other) = (store.grant(LONG).await.unwrap(), store.grant(LONG).await.unwrap());
    store
        .put("a", bytes("1"), Precondition::Any, Some(lease.id))
        .await
        .unwrap();
    let from = store
        .put("b", bytes("1"), Precondition::Any, Some(other.id))
        .await
        .unwrap();
    let mut watch = store.watch("", from).await.unwrap();
    store.revoke(lease.id).await.unwrap();
    assert!(matches!(&events(&mut watch, 1).await[0], Event::Delete { key, .. } if &**key == "a"));
    assert_eq!(keys(&store, "").await, ["b"]);
    let error = store.revoke(lease.id).await.unwrap_err();
    assert!(matches!(error, StoreError::LeaseGone { .. }), "{error}");
}

pub(in crate::store) async fn a_lease_that_is_gone_takes_no_keys(store: Arc<dyn Store>) {
    let gone = LeaseId(1_234_567);
    let transaction = Transaction::default()
        .put("a", bytes("1"), None)
        .put("b", bytes("1"), Some(gone));
    let error = store.commit(transaction).await.unwrap_err();
    assert!(
        matches!(error, StoreError::LeaseGone { lease } if lease == gone),
        "{error}"
    );
    assert_eq!(keys(&store, "").await, [""; 0]);
    let error = store.renew(gone).await.unwrap_err();
    assert!(matches!(error, StoreError::LeaseGone { .. }), "{error}");
}

pub(in crate::store) async fn a_key_can_leave_its_lease(store: Arc<dyn Store>) {
    let (first, second) = (store.grant(LONG).await.unwrap(), store.grant(LONG).await.unwrap());
    for key in ["stays", "moves", "is deleted"] {
        store
            .put(key, bytes("1"), Precondition::Any, Some(first.id))
            .await
            .unwrap();
    }
    store
        .put("stays", bytes("2"), Precondition::Any, None)
        .await
        .unwrap();
    store
        .put("moves", bytes("2"), Precondition::Any, Some(second.id))
        .await
        .unwrap();
    store.delete("is deleted", Precondition::Any).await.unwrap();
    store
        .put("is deleted", bytes("no more"), Precondition::Any, None)
        .await
        .unwrap();
    store.revoke(first.id).await.unwrap();
    assert_eq!(keys(&store, "").await, ["is deleted", "moves", "stays"]);
    store.revoke(second.id).await.unwrap();
    assert_eq!(keys(&store, "").await, ["is deleted", "stays"]);
}

pub(in crate::store) async fn many_leases_are_renewed_at_once(store: Arc<dyn Store>) {
    let leases: Vec<_> = join_all((0..200).map(|_| store.grant(LONG))).await;
    let leases: Vec<_> = leases.into_iter().map(Result::unwrap).collect();
    let renewals = join_all(leases.iter().chain(&leases).map(|lease| store.renew(lease.id)));
    let renewed = tokio::time::timeout(PATIENCE, renewals).await.unwrap();
    for (lease, renewed) in leases.iter().chain(&leases).zip(renewed) {
        assert_eq!(renewed.unwrap(), *lease);
    }
}
