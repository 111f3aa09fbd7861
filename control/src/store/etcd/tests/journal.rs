// SPDX-License-Identifier: Apache-2.0
//! Writers that remember what was acknowledged, and a watch beside them, while servers fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use crate::store::{Event, Precondition, Revision, Store, StoreError};

const WRITERS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(60);
const END: &str = "z";

/// What writers were told.
#[derive(Debug, Default)]
struct Told {
    acknowledged: BTreeMap<String, Revision>,
    /// What may have been written.
    unknown: BTreeSet<String>,
}

impl Told {
    /// Compares with what is there.
    fn compare(&self, there: &BTreeMap<String, Revision>) {
        for (key, revision) in &self.acknowledged {
            assert_eq!(there.get(key), Some(revision), "{key} was acknowledged");
        }
        for key in there.keys().filter(|key| *key != END) {
            let is_written = self.acknowledged.contains_key(key) || self.unknown.contains(key);
            assert!(is_written, "{key} was not written");
        }
    }
}

/// Writers at work.
pub(super) struct Journal {
    store: Arc<dyn Store>,
    told: Arc<Mutex<Told>>,
    /// How many writes were acknowledged, and how many were not.
    counts: watch::Receiver<(usize, usize)>,
    is_over: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
    reader: JoinHandle<BTreeMap<String, Revision>>,
}

impl Journal {
    pub(super) async fn start(store: Arc<dyn Store>) -> Self {
        let from = store.list("").await.unwrap().revision;
        let reader = tokio::spawn(replay(Arc::clone(&store), from));
        let (told, is_over) = (Arc::<Mutex<Told>>::default(), Arc::<AtomicBool>::default());
        let (sender, counts) = watch::channel((0, 0));
        let writers = (0..WRITERS).map(|writer| {
            let (store, told, is_over) = (Arc::clone(&store), Arc::clone(&told), Arc::clone(&is_over));
            let counts = sender.clone();
            tokio::spawn(async move {
                for n in 0_usize.. {
                    if is_over.load(Ordering::Acquire) {
                        return;
                    }
                    let key = format!("{writer}/{n:06}");
                    let result = store
                        .put(&key, Bytes::from(key.clone()), Precondition::Absent, None)
                        .await;
                    let mut told = told.lock().unwrap();
                    match result {
                        Ok(revision) => drop(told.acknowledged.insert(key, revision)),
                        Err(StoreError::Unavailable { .. }) => drop(told.unknown.insert(key)),
                        Err(error) => panic!("{key}: {error}"),
                    }
                    counts.send_replace((told.acknowledged.len(), told.unknown.len()));
                }
            })
        });
        Self {
            writers: writers.collect(),
            store,
            told,
            counts,
            is_over,
            reader,
        }
    }

    /// Waits until `more` writes are acknowledged.
    pub(super) async fn until_acknowledged(&self, more: usize) {
        let mut counts = self.counts.clone();
        let target = counts.borrow().0 + more;
        let reached = timeout(
            PATIENCE,
            counts.wait_for(|(acknowledged, _)| *acknowledged >= target),
        )
        .await;
        reached.expect("writes should be acknowledged").unwrap();
    }

    /// Waits until `more` writes fail.
    pub(super) async fn until_refused(&self, more: usize) {
        let mut counts = self.counts.clone();
        let target = counts.borrow().1 + more;
        let reached = timeout(PATIENCE, counts.wait_for(|(_, refused)| *refused >= target)).await;
        reached.expect("writes should fail").unwrap();
    }

    /// Ends the writers and compares: what was acknowledged is there, what is there was written, and the watch has told all of it.
    pub(super) async fn finish(self) {
        self.is_over.store(true, Ordering::Release);
        for writer in self.writers {
            writer.await.unwrap();
        }
        let end = self
            .store
            .put(END, Bytes::new(), Precondition::Any, None)
            .await
            .unwrap();
        let items = self.store.list("").await.unwrap().items;
        // A write whose fate is unknown may still arrive, after the end.
        let mut there: BTreeMap<String, Revision> = items
            .iter()
            .map(|item| (item.key.to_string(), item.version))
            .collect();
        self.told.lock().unwrap().compare(&there);
        there.retain(|_, version| *version <= end);
        let mut seen = timeout(PATIENCE, self.reader)
            .await
            .expect("the watch should get there")
            .unwrap();
        seen.retain(|_, version| *version <= end);
        assert_eq!(seen, there);
    }
}

/// What the events up to the one of [`END`] lead to.
async fn replay(store: Arc<dyn Store>, from: Revision) -> BTreeMap<String, Revision> {
    let mut watch = store.watch("", from).await.unwrap();
    let (mut seen, mut last) = (BTreeMap::new(), from);
    while !seen.contains_key(END) {
        let batch = watch.next().await.unwrap().unwrap();
        assert!(batch.events[0].revision() > last, "nothing is told twice");
        last = batch.revision;
        for event in batch.events {
            let Event::Put(item) = event else {
                panic!("nothing was deleted: {event:?}")
            };
            seen.insert(item.key.to_string(), item.version);
        }
    }
    seen
}
