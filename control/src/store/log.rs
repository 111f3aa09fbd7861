// SPDX-License-Identifier: Apache-2.0
//! The latest changes, for watches: written by a store after each commit, read by any number of watches at their own pace.
//!
//! Invariant: bounded, whatever the readers do: a reader that falls behind the oldest change is told to list again.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::{StreamExt as _, stream};
use tokio::sync::watch;

use crate::store::{Batch, Event, Revision, StoreError, Watch};

/// Most changes that are kept.
const MAX_EVENTS: usize = 16_384;
/// Most bytes of values that are kept.
const MAX_BYTES: usize = 32 << 20;

/// The latest changes.
#[derive(Debug)]
pub(crate) struct EventLog {
    kept: Mutex<Kept>,
    /// Revision of the last change.
    last: watch::Sender<Revision>,
}

#[derive(Debug)]
struct Kept {
    /// In the order of their revisions.
    events: VecDeque<Event>,
    bytes: usize,
    /// All changes after this revision are there.
    complete_after: Revision,
}

impl EventLog {
    /// A log that begins after `revision`.
    pub(crate) fn new(revision: Revision) -> Self {
        let kept = Kept {
            events: VecDeque::new(),
            bytes: 0,
            complete_after: revision,
        };
        Self {
            kept: Mutex::new(kept),
            last: watch::Sender::new(revision),
        }
    }

    /// Adds changes; all changes of one revision come in one call.
    pub(crate) fn append(&self, events: Vec<Event>) {
        let Some(last) = events.last().map(Event::revision) else {
            return;
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += events.iter().map(size).sum::<usize>();
        kept.events.extend(events);
        while kept.events.len() > MAX_EVENTS || kept.bytes > MAX_BYTES {
            let Some(dropped) = kept.events.pop_front() else {
                break;
            };
            kept.bytes -= size(&dropped);
            kept.complete_after = dropped.revision();
        }
        drop(kept);
        self.last.send_replace(last);
    }

    /// Begins anew after `revision`: what happened up to there may not be in the log.
    pub(crate) fn restart(&self, revision: Revision) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.events.clear();
        kept.bytes = 0;
        kept.complete_after = revision;
        drop(kept);
        self.last.send_replace(revision);
    }

    /// The changes after `from` of keys that begin with `prefix`; `last` is the revision of the store.
    pub(crate) fn watch(
        self: &Arc<Self>,
        prefix: &str,
        from: Revision,
        last: Revision,
    ) -> Result<Watch, StoreError> {
        let prefix: Arc<str> = prefix.into();
        let oldest = self.oldest();
        if from < oldest || from > last {
            return Err(StoreError::Compacted { from, oldest });
        }
        let start = Some((from, self.last.subscribe()));
        let log = Arc::downgrade(self);
        let batches = stream::unfold(start, move |reader| {
            let (log, prefix) = (log.clone(), Arc::clone(&prefix));
            async move {
                let (mut from, mut last) = reader?;
                loop {
                    last.mark_unchanged();
                    let read = log.upgrade().map(|log| log.read(&prefix, from));
                    match read {
                        None => return Some((Err(closed()), None)),
                        Some(Err(error)) => return Some((Err(error), None)),
                        Some(Ok((upto, events))) => {
                            from = upto;
                            if let Some(revision) = events.last().map(Event::revision) {
                                return Some((Ok(Batch { events, revision }), Some((from, last))));
                            }
                        }
                    }
                    if last.changed().await.is_err() {
                        return Some((Err(closed()), None));
                    }
                }
            }
        });
        Ok(batches.boxed())
    }

    fn oldest(&self) -> Revision {
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .complete_after
    }

    /// The changes after `from`, and up to where they are all.
    fn read(&self, prefix: &str, from: Revision) -> Result<(Revision, Vec<Event>), StoreError> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if from < kept.complete_after {
            return Err(StoreError::Compacted {
                from,
                oldest: kept.complete_after,
            });
        }
        let first = kept.events.partition_point(|event| event.revision() <= from);
        let upto = kept
            .events
            .back()
            .map_or(from, |event| event.revision().max(from));
        let events = kept
            .events
            .range(first..)
            .filter(|event| event.key().starts_with(prefix));
        Ok((upto, events.cloned().collect()))
    }
}

fn size(event: &Event) -> usize {
    match event {
        Event::Put(item) => item.key.len() + item.value.len(),
        Event::Delete { key, .. } => key.len(),
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable {
        op: "watch",
        reason: "the store was closed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn deleted(revision: u64) -> Event {
        Event::Delete {
            key: format!("Service/a/{revision}").into(),
            revision: Revision(revision),
        }
    }

    #[test]
    fn a_reader_that_falls_behind_lists_again() {
        let log = Arc::new(EventLog::new(Revision(10)));
        let mut slow = log.watch("", Revision(10), Revision(10)).unwrap();
        log.append(vec![deleted(11), deleted(11)]);
        let batch = slow.next().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!((batch.revision, batch.events.len()), (Revision(11), 2));
        assert!(slow.next().now_or_never().is_none(), "nothing happened since");
        for revision in 12..=(13 + MAX_EVENTS as u64) {
            log.append(vec![deleted(revision)]);
        }
        let error = slow.next().now_or_never().unwrap().unwrap().unwrap_err();
        assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
        assert!(slow.next().now_or_never().unwrap().is_none(), "it ends there");
        assert_eq!(log.kept.lock().unwrap().events.len(), MAX_EVENTS);
    }

    #[test]
    fn what_is_not_there_yet_cannot_be_watched() {
        let log = Arc::new(EventLog::new(Revision(10)));
        for from in [9, 11] {
            let error = log.watch("", Revision(from), Revision(10)).err().unwrap();
            assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
        }
        let mut watch = log.watch("", Revision(10), Revision(10)).unwrap();
        drop(log);
        let error = watch.next().now_or_never().unwrap().unwrap().unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    }
}
