// SPDX-License-Identifier: Apache-2.0
//! Watches: the history after a revision, whole and in order.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::join_all;

use super::{all, bytes, events, next};
use crate::store::{Event, Item, Precondition, Revision, Store, StoreError, Transaction, Watch};

pub(in crate::store) async fn a_watch_tells_what_happened_after_its_revision(store: Arc<dyn Store>) {
    let first = store.put("a", bytes("1"), Precondition::Any, None).await.unwrap();
    store.put("b", bytes("2"), Precondition::Any, None).await.unwrap();
    store.delete("a", Precondition::Any).await.unwrap();
    let mut watch = store.watch("", first).await.unwrap();
    store.put("c", bytes("3"), Precondition::Any, None).await.unwrap();
    let seen = events(&mut watch, 3).await;
    let (b, a, c) = (&seen[0], &seen[1], &seen[2]);
    assert!(matches!(b, Event::Put(item) if &*item.key == "b" && item.value == bytes("2")));
    assert!(matches!(a, Event::Delete { key, .. } if &**key == "a"));
    assert!(matches!(c, Event::Put(item) if &*item.key == "c"));
    assert!(seen.is_sorted_by_key(Event::revision));
    let listing = store.list("").await.unwrap();
    let mut watch = store.watch("", listing.revision).await.unwrap();
    let last = store.delete("b", Precondition::Any).await.unwrap();
    assert_eq!(events(&mut watch, 1).await[0].revision(), last);
}

pub(in crate::store) async fn a_watch_hears_its_prefix_alone(store: Arc<dyn Store>) {
    let from = store.list("").await.unwrap().revision;
    let mut watch = store.watch("b/", from).await.unwrap();
    for key in ["a", "b", "b/1", "b0", "c"] {
        store.put(key, bytes("1"), Precondition::Any, None).await.unwrap();
    }
    let transaction = Transaction::default()
        .put("d", bytes("2"), None)
        .put("b/2", bytes("2"), None);
    store.commit(transaction).await.unwrap();
    let seen: Vec<_> = events(&mut watch, 2)
        .await
        .iter()
        .map(|event| event.key().to_string())
        .collect();
    assert_eq!(seen, ["b/1", "b/2"]);
}

pub(in crate::store) async fn a_revision_that_is_not_there_yet_is_refused(store: Arc<dyn Store>) {
    let revision = store.put("a", bytes("1"), Precondition::Any, None).await.unwrap();
    let from = Revision(revision.0 + 1_000_000);
    let error = match store.watch("", from).await {
        Err(error) => error,
        Ok(mut watch) => next(&mut watch).await.unwrap_err(),
    };
    assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
}

pub(in crate::store) async fn many_watches_of_many_writers_agree(store: Arc<dyn Store>) {
    const WRITERS: usize = 8;
    const EACH: usize = 25;
    let from = store.list("").await.unwrap().revision;
    let readers: Vec<_> = join_all((0..4).map(|_| store.watch("", from))).await;
    let readers: Vec<_> = readers
        .into_iter()
        .map(|watch| tokio::spawn(replay(watch.unwrap(), WRITERS * EACH)))
        .collect();
    let writers = (0..WRITERS).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for n in 0..EACH {
                // Every third one is deleted again; keys of different writers overlap.
                let key = format!("{}", (writer + n) % 10);
                if n % 3 == 2 {
                    let gone = store
                        .put(&key, bytes("gone"), Precondition::Any, None)
                        .await
                        .unwrap();
                    // Counts as one event in all: either of the two is what the reader waits for.
                    let _ = store.delete(&key, Precondition::Version(gone)).await;
                } else {
                    store
                        .put(&key, bytes(&format!("{writer}/{n}")), Precondition::Any, None)
                        .await
                        .unwrap();
                }
            }
        })
    });
    for writer in join_all(writers).await {
        writer.unwrap();
    }
    store
        .put("end", bytes("1"), Precondition::Any, None)
        .await
        .unwrap();
    let items = all(&store).await;
    for reader in readers {
        assert_eq!(reader.await.unwrap(), items);
    }
}

/// The items that the events up to the one of `end` lead to; at least `least` of them.
async fn replay(mut watch: Watch, least: usize) -> Vec<Item> {
    let (mut items, mut count, mut told) = (BTreeMap::new(), 0, Revision(0));
    while !items.contains_key("end") {
        let batch = next(&mut watch).await.unwrap();
        assert!(
            batch.events[0].revision() > told,
            "revisions are not torn between batches"
        );
        assert!(batch.events.is_sorted_by_key(Event::revision));
        told = batch.revision;
        count += batch.events.len();
        for event in batch.events {
            match event {
                Event::Put(item) => drop(items.insert(item.key.to_string(), item)),
                Event::Delete { key, .. } => drop(items.remove(&*key)),
            }
        }
    }
    assert!(count > least, "{count}");
    items.into_values().collect()
}
