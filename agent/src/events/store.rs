// SPDX-License-Identifier: Apache-2.0
//! The last events, how many there were, and whoever follows them.
//!
//! Invariant: memory is bounded whatever readers do: each one falls behind by itself and is told how much it missed.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use nodemesh_abi::{Ejection, Refusal};
use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};

use super::Closing;
use crate::api::{Event, EventKind};

/// Events that are remembered: some 2 MB.
pub(super) const KEPT: usize = 4_096;
/// Events that a reader may be behind: those of two full ring buffers and some more, so that a burst costs no reader anything.
pub(super) const BEHIND: usize = 8_192;

/// A kind and its reason.
type Cause = (EventKind, &'static str);

/// The store.
#[derive(Debug)]
pub(super) struct Store {
    kept: Mutex<Kept>,
    news: broadcast::Sender<Arc<Event>>,
    /// Events that readers missed.
    lost: AtomicU64,
}

#[derive(Debug)]
struct Kept {
    events: VecDeque<Arc<Event>>,
    counts: BTreeMap<Cause, u64>,
}

impl Default for Store {
    fn default() -> Self {
        let kept = Kept {
            events: VecDeque::new(),
            // A counter that is there from the start shows its first increase.
            counts: causes().map(|cause| (cause, 0)).collect(),
        };
        Self {
            kept: Mutex::new(kept),
            news: broadcast::Sender::new(BEHIND),
            lost: AtomicU64::new(0),
        }
    }
}

/// Every cause that there can be.
fn causes() -> impl Iterator<Item = Cause> {
    EventKind::ALL
        .into_iter()
        .flat_map(|kind| reasons(kind).into_iter().map(move |reason| (kind, reason)))
}

/// The reasons that events of `kind` have.
pub(super) fn reasons(kind: EventKind) -> Vec<&'static str> {
    match kind {
        EventKind::Refused => Refusal::ALL.iter().map(|reason| reason.label()).collect(),
        EventKind::Audited | EventKind::Dropped => vec![Refusal::Policy.label()],
        EventKind::Ejected => Ejection::ALL.iter().map(|reason| reason.label()).collect(),
        EventKind::Closed => Closing::ALL.map(Closing::label).into(),
        EventKind::Probed
        | EventKind::Readmitted
        | EventKind::Draining
        | EventKind::Drained
        | EventKind::Lost => vec![""],
    }
}

impl Store {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no holder panics")
    }

    /// Remembers, counts and sends an event.
    pub(super) fn publish(&self, event: Arc<Event>, reason: &'static str) {
        let mut kept = self.kept();
        *kept.counts.entry((event.kind, reason)).or_default() += event.count.unwrap_or(1);
        if kept.events.len() == KEPT {
            kept.events.pop_front();
        }
        kept.events.push_back(Arc::clone(&event));
        // Sent while the lock is held: who subscribes sees it either among the former ones or among those to come. That nobody
        // follows is no error.
        let _ = self.news.send(event);
    }

    /// See [`super::Events::subscribe`].
    pub(super) fn subscribe(store: &Arc<Self>, since: u64, follow: bool) -> Subscription {
        let kept = store.kept();
        let past = kept.events.iter().filter(|event| event.monotonic_ns >= since);
        Subscription {
            past: past.cloned().collect(),
            news: follow.then(|| store.news.subscribe()),
            store: Arc::clone(store),
        }
    }

    /// See [`super::Events::counts`].
    pub(super) fn counts(&self) -> Vec<(Cause, u64)> {
        let kept = self.kept();
        kept.counts
            .iter()
            .map(|(cause, count)| (*cause, *count))
            .collect()
    }

    /// Events that readers missed.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// What a reader is given.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// An event.
    Event(Arc<Event>),
    /// So many are missing here: the reader was behind.
    Lost(u64),
}

/// A reader.
#[derive(Debug)]
pub struct Subscription {
    past: VecDeque<Arc<Event>>,
    news: Option<broadcast::Receiver<Arc<Event>>>,
    store: Arc<Store>,
}

impl Subscription {
    /// The next event, waited for if there is none; `None` when no more will come. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Heard> {
        if let Some(event) = self.past.pop_front() {
            return Some(Heard::Event(event));
        }
        match self.news.as_mut()?.recv().await {
            Ok(event) => Some(Heard::Event(event)),
            Err(RecvError::Lagged(count)) => Some(self.missed(count)),
            Err(RecvError::Closed) => None,
        }
    }

    /// The next event if there is one already.
    pub fn next_now(&mut self) -> Option<Heard> {
        if let Some(event) = self.past.pop_front() {
            return Some(Heard::Event(event));
        }
        match self.news.as_mut()?.try_recv() {
            Ok(event) => Some(Heard::Event(event)),
            Err(TryRecvError::Lagged(count)) => Some(self.missed(count)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }

    fn missed(&self, count: u64) -> Heard {
        self.store.lost.fetch_add(count, Ordering::Relaxed);
        Heard::Lost(count)
    }
}
