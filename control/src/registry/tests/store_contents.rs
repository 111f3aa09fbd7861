// SPDX-License-Identifier: Apache-2.0
//! A store that has what this release would not have written, and a store whose watch ends.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, future};
use nodemesh_model::Kind;
use tokio::sync::Notify;

use super::{Fixture, apply, both, delete, eventually, key, service, service_at, workload};
use crate::{
    registry::{Registry, RegistryError, RegistryOptions},
    store::{Item, Lease, LeaseId, Listing, Precondition, Revision, Store, StoreError, Transaction, Watch},
};

async fn put(store: &Arc<dyn Store>, key: &str, value: impl ToString) -> Revision {
    store
        .put(key, Bytes::from(value.to_string()), Precondition::Any, None)
        .await
        .unwrap()
}

#[tokio::test]
async fn what_is_no_resource_is_told_and_the_rest_is_served() {
    let Fixture { registry, store, .. } = &Fixture::new(RegistryOptions::default()).await;
    put(store, "Service/default/owner", service_at("owner", &["10.0.0.1"])).await;
    put(store, "Service/default/broken", "{").await;
    put(
        store,
        "Service/default/other-name",
        service_at("name", &["10.0.0.2"]),
    )
    .await;
    put(store, "Service/default/late", service_at("late", &["10.0.0.1"])).await;
    put(store, "FutureKind/default/a", "{}").await;
    let last = put(store, "Workload/default/w", workload("w")).await;
    let check = |registry: Registry| async move {
        let state = eventually(&registry, |state| state.revision >= last).await;
        assert_eq!((state.count(Kind::Service), state.count(Kind::Workload)), (1, 1));
        let faults: Vec<_> = state
            .faults()
            .map(|(key, fault)| (&**key, fault.reason.clone()))
            .collect();
        let expected = [
            ("FutureKind/default/a", "no key of this release"),
            ("Service/default/broken", "no JSON document"),
            ("Service/default/late", "already that of Service default/owner"),
            (
                "Service/default/other-name",
                "is a document of Service/default/name",
            ),
        ];
        for ((key, reason), (expected_key, part)) in faults.iter().zip(expected) {
            assert!(*key == expected_key && reason.contains(part), "{key}: {reason}");
        }
        assert_eq!(faults.len(), expected.len());
    };
    check(registry.clone()).await;
    check(
        Registry::open(Arc::clone(store), RegistryOptions::default())
            .await
            .unwrap(),
    )
    .await;

    delete(registry, key(Kind::Service, "owner")).await.unwrap();
    assert!(
        registry.state().get(&key(Kind::Service, "late")).is_some(),
        "there is room for it now"
    );
    apply(registry, service_at("broken", &["10.0.0.3"]))
        .await
        .expect("what is broken can be replaced");
    delete(registry, key(Kind::Service, "other-name"))
        .await
        .expect("or deleted");
    assert_eq!(registry.state().faults().count(), 1);
}

#[tokio::test]
async fn nothing_is_missed_when_the_watch_ends() {
    let fixture = Fixture::new(both()).await;
    let flaky = Arc::new(Flaky::new(Arc::clone(&fixture.store)));
    let registry = Registry::open(Arc::clone(&flaky) as Arc<dyn Store>, both())
        .await
        .unwrap();
    apply(&registry, workload("kept")).await.unwrap();
    let kept = registry
        .state()
        .get(&key(Kind::Workload, "kept"))
        .cloned()
        .unwrap();
    for round in 0..3 {
        flaky.interrupt();
        // The other replica goes on meanwhile.
        apply(&fixture.registry, service(&format!("s{round}")))
            .await
            .unwrap();
        let deleted = apply(&fixture.registry, workload("gone")).await.unwrap().key;
        let last = delete(&fixture.registry, deleted).await.unwrap().version;
        flaky.go_on();
        let state = eventually(&registry, |state| state.revision >= last).await;
        assert_eq!(
            (state.count(Kind::Service), state.count(Kind::Workload)),
            (round + 1, 1)
        );
        let same = state.get(&kept.key).unwrap();
        assert!(
            Arc::ptr_eq(same, &kept),
            "what has not changed is shared with the state before"
        );
    }
}

#[tokio::test]
async fn while_the_store_is_away_the_last_state_stays() {
    let fixture = Fixture::new(both()).await;
    let flaky = Arc::new(Flaky::new(Arc::clone(&fixture.store)));
    let registry = Registry::open(Arc::clone(&flaky) as Arc<dyn Store>, both())
        .await
        .unwrap();
    apply(&registry, service("llama")).await.unwrap();
    flaky.interrupt();
    for document in [service("qwen"), workload("w")] {
        let error = apply(&registry, document).await.unwrap_err();
        assert!(
            matches!(error, RegistryError::Store(StoreError::Unavailable { .. })),
            "{error}"
        );
    }
    assert_eq!(registry.state().count(Kind::Service), 1);
    flaky.go_on();
    apply(&registry, service("qwen")).await.unwrap();
    assert_eq!(registry.state().count(Kind::Service), 2);
}

/// A store that can be taken away.
struct Flaky {
    inner: Arc<dyn Store>,
    is_away: Mutex<bool>,
    interrupted: Arc<Notify>,
}

impl Flaky {
    fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            is_away: Mutex::new(false),
            interrupted: Arc::default(),
        }
    }

    /// Ends all watches, and refuses everything.
    fn interrupt(&self) {
        *self.is_away.lock().unwrap() = true;
        self.interrupted.notify_waiters();
    }

    fn go_on(&self) {
        *self.is_away.lock().unwrap() = false;
    }

    fn inner(&self) -> Result<&Arc<dyn Store>, StoreError> {
        if *self.is_away.lock().unwrap() {
            return Err(away());
        }
        Ok(&self.inner)
    }
}

fn away() -> StoreError {
    StoreError::Unavailable {
        op: "test",
        reason: "interrupted".to_owned(),
    }
}

#[async_trait]
impl Store for Flaky {
    async fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError> {
        self.inner()?.commit(transaction).await
    }

    async fn get(&self, key: &str) -> Result<Option<Item>, StoreError> {
        self.inner()?.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.inner()?.list(prefix).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        let interrupted = Arc::clone(&self.interrupted).notified_owned();
        let watch = self.inner()?.watch(prefix, from).await?;
        let end = futures_util::stream::once(future::ready(Err(away())));
        Ok(watch.take_until(interrupted).chain(end).boxed())
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.inner()?.grant(ttl).await
    }

    async fn renew(&self, lease: LeaseId) -> Result<Lease, StoreError> {
        self.inner()?.renew(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner()?.revoke(lease).await
    }
}
