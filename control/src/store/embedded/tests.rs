// SPDX-License-Identifier: Apache-2.0
//! What is particular about the embedded store: its file, and what becomes of it.

mod child;
mod clocks;
mod crash;
mod damage;
mod full_disk;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tempfile::TempDir;

use super::EmbeddedStore;
use crate::store::{Item, LeaseId, Precondition, Revision, Store, StoreError, conformance::conformance};

async fn open() -> (Arc<dyn Store>, TempDir) {
    let folder = TempDir::new().unwrap();
    let path = path(&folder);
    let store = tokio::task::spawn_blocking(move || EmbeddedStore::open(&path))
        .await
        .unwrap();
    (Arc::new(store.unwrap()), folder)
}

fn path(folder: &TempDir) -> PathBuf {
    folder.path().join("store.redb")
}

mod conformance_of_embedded {
    super::conformance! { super::open }
}

async fn put(store: &EmbeddedStore, key: &str, lease: Option<LeaseId>) -> Result<Revision, StoreError> {
    store
        .put(key, Bytes::from(key.to_owned()), Precondition::Any, lease)
        .await
}

async fn items(path: &Path) -> Vec<Item> {
    EmbeddedStore::open(path).unwrap().list("").await.unwrap().items
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let nested = folder.path().join("made/when/needed/store.redb");
    let store = EmbeddedStore::open(&nested).unwrap();
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    put(&store, "a", Some(lease.id)).await.unwrap();
    put(&store, "b", None).await.unwrap();
    let last = store.delete("b", Precondition::Any).await.unwrap();
    drop(store);
    let store = EmbeddedStore::open(&nested).unwrap();
    let listing = store.list("").await.unwrap();
    assert_eq!(
        (listing.revision, listing.items.len(), listing.items[0].lease),
        (last, 1, Some(lease.id))
    );
    let error = store.watch("", Revision(last.0 - 1)).await.err().unwrap();
    assert!(
        matches!(error, StoreError::Compacted { .. }),
        "history is not kept across restarts: {error}"
    );
    assert_eq!(store.renew(lease.id).await.unwrap(), lease);
    assert_eq!(put(&store, "c", None).await.unwrap(), Revision(last.0 + 1));
}

#[tokio::test]
async fn a_lease_has_after_a_restart_what_it_had_left() {
    let folder = TempDir::new().unwrap();
    let store = EmbeddedStore::open(&path(&folder)).unwrap();
    let (short, long) = (
        store.grant(Duration::from_secs(2)).await.unwrap(),
        store.grant(Duration::from_secs(600)).await.unwrap(),
    );
    put(&store, "short", Some(short.id)).await.unwrap();
    put(&store, "long", Some(long.id)).await.unwrap();
    drop(store);
    // Renewed (granted) while it was open before: all of its time from here on, then what is left of it.
    drop(EmbeddedStore::open(&path(&folder)).unwrap());
    let store = EmbeddedStore::open(&path(&folder)).unwrap();
    let start = Instant::now();
    assert_eq!(store.renew(long.id).await.unwrap(), long);
    while store.get("short").await.unwrap().is_some() {
        assert!(
            start.elapsed() < Duration::from_secs(3),
            "a lease expires within its time and a second"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let keys: Vec<_> = store
        .list("")
        .await
        .unwrap()
        .items
        .into_iter()
        .map(|item| item.key)
        .collect();
    assert_eq!(keys, ["long".into()]);
}

#[tokio::test]
async fn one_process_has_the_file() {
    let folder = TempDir::new().unwrap();
    let path = path(&folder);
    let store = EmbeddedStore::open(&path).unwrap();
    let error = EmbeddedStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&*path.to_string_lossy()) && text.contains("use another path"),
        "{text}"
    );
    drop(store);
    EmbeddedStore::open(&path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_open_a_new_store_at_once_make_one() {
    let folder = TempDir::new().unwrap();
    let path = path(&folder);
    let attempts = (0..8).map(|_| {
        let path = path.clone();
        tokio::task::spawn_blocking(move || EmbeddedStore::open(&path))
    });
    let mut opened = Vec::new();
    for attempt in futures_util::future::join_all(attempts).await {
        match attempt.unwrap() {
            Ok(store) => opened.push(store),
            Err(error) => assert!(matches!(error, StoreError::Locked { .. }), "{error}"),
        }
    }
    assert_eq!(opened.len(), 1);
    put(&opened[0], "a", None).await.unwrap();
    drop(opened);
    assert_eq!(items(&path).await.len(), 1);
}
