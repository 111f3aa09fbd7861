// SPDX-License-Identifier: Apache-2.0
//! Events: what the programs and the agent decided that an operator wants to see, one by one.
//!
//! ```text
//! programs ─► ring buffer `events` ─► reader (task) ─┐
//!   full: lost, counted                              ├─► queue ─► thread: names them ─► the last ones ─► readers
//! agent ─► Events::tell ─────────────────────────────┘ full: lost, counted   counts       behind: lost, counted, told
//! ```
//!
//! What clients can cause as often as they like is told at most once a second per service, client and reason, with how often it happened:
//! the programs keep tallies, and `reader` takes out those that nothing is added to any more.
//!
//! The programs write while no agent runs, too: the next one tells what the ring buffer held. Invariants: nobody who tells an event
//! or hands one over waits for a reader; an event is either remembered or counted as lost.

mod describe;
mod reader;
mod store;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
    mpsc::{self, Receiver, SyncSender},
};

use anyhow::{Context as _, Result};
use nodemesh_abi::{Ip16, Port};
use nodemesh_model::ResourceName;
use tokio::sync::watch;

use crate::{
    api::{Event, EventKind},
    datapath::clock::{TimeOfDay, monotonic_ns},
    names::Names,
    reconcile::view::View,
};
use describe::Describer;
pub use reader::EventReader;
use store::Store;
pub use store::{Heard, Subscription};

/// Batches that may wait to be named.
const QUEUE: usize = 64;

/// A backend, as the agent tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The service that it is a backend of.
    pub service: ResourceName,
    /// Its address.
    pub endpoint: (Ip16, Port),
}

/// An established connection, as the agent tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Where it was placed.
    pub backend: Backend,
    /// The client's end.
    pub client: (Ip16, Port),
    /// The client's identity.
    pub identity: u32,
    /// Process of the client, in the initial pid namespace; 0 where it is elsewhere.
    pub tgid: u32,
    /// Cgroup of the client; 0 where it is elsewhere.
    pub cgroup: u64,
    /// IANA protocol number.
    pub protocol: u16,
}

/// Why the agent ended an established connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// The policy denies it now.
    Policy,
    /// It was idle, and its backend drains.
    Drain,
    /// Its backend was removed.
    Removal,
}

impl Closing {
    /// Every variant.
    pub const ALL: [Self; 3] = [Self::Policy, Self::Drain, Self::Removal];

    /// The word used in events and as metric label value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Drain => "drain",
            Self::Removal => "removal",
        }
    }
}

/// What the agent itself did. Ejections for silence or a failed health check are not here: the program `judge` tells of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentEvent {
    /// A backend gets no new connections from now on.
    DrainBegan(Backend),
    /// The last stream of a draining backend has ended.
    DrainEnded(Backend),
    /// An established connection was ended.
    Closed(Box<Connection>, Closing),
}

/// What waits to be named.
enum Message {
    Records(Vec<nodemesh_abi::Event>),
    Told(AgentEvent, u64),
}

/// The events as others see them.
#[derive(Debug)]
pub struct Events {
    queue: SyncSender<Message>,
    store: Arc<Store>,
    lost: Arc<AtomicU64>,
}

/// How many events were lost, since the agent started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// By the agent, for all.
    pub agent: u64,
    /// By readers that were behind, each for itself.
    pub readers: u64,
}

impl Events {
    /// No events yet, and the thread that names them by `view`.
    pub fn new(view: watch::Receiver<Arc<View>>) -> Result<Self> {
        let (queue, messages) = mpsc::sync_channel(QUEUE);
        let store = Arc::new(Store::default());
        let lost = Arc::new(AtomicU64::new(0));
        let naming = Naming {
            store: Arc::clone(&store),
            lost: Arc::clone(&lost),
            view,
        };
        std::thread::Builder::new()
            .name("events".into())
            .spawn(move || naming.run(&messages))
            .context("start the thread of the events")?;
        Ok(Self { queue, store, lost })
    }

    /// Adds an event of the agent itself, which happens now.
    pub fn tell(&self, event: AgentEvent) {
        self.send(Message::Told(event, monotonic_ns()), 1);
    }

    /// Adds events of the programs.
    fn push(&self, records: Vec<nodemesh_abi::Event>) {
        let count = records.iter().map(|record| record.count).sum();
        self.send(Message::Records(records), count);
    }

    fn send(&self, message: Message, count: u64) {
        if self.queue.try_send(message).is_err() {
            self.lost.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// The events that are remembered and did not happen before `since`, nanoseconds of `CLOCK_MONOTONIC`, and if `follow` those to
    /// come: none is missing or comes twice where the two meet.
    pub fn subscribe(&self, since: u64, follow: bool) -> Subscription {
        Store::subscribe(&self.store, since, follow)
    }

    /// How often each kind of event happened, since the agent started, by reason (empty for a kind that needs none).
    pub fn counts(&self) -> Vec<((EventKind, &'static str), u64)> {
        self.store.counts()
    }

    /// How many were lost; those that the programs found no room for are counted by them.
    pub fn lost(&self) -> Lost {
        Lost {
            agent: self.lost.load(Ordering::Relaxed),
            readers: self.store.lost(),
        }
    }
}

/// The thread's state.
struct Naming {
    store: Arc<Store>,
    lost: Arc<AtomicU64>,
    view: watch::Receiver<Arc<View>>,
}

impl Naming {
    /// Names events until the senders are gone.
    fn run(mut self, messages: &Receiver<Message>) {
        let mut names = Names::of(self.view.borrow_and_update().clone());
        while let Ok(message) = messages.recv() {
            if self.view.has_changed().unwrap_or_default() {
                names = Names::of(self.view.borrow_and_update().clone());
            }
            let describer = Describer {
                names: &names,
                clock: TimeOfDay::now(),
            };
            match message {
                Message::Records(records) => {
                    for record in &records {
                        match describer.record(record) {
                            Some((event, reason)) => self.publish(event, reason),
                            None => _ = self.lost.fetch_add(record.count, Ordering::Relaxed),
                        }
                    }
                }
                Message::Told(event, at_ns) => {
                    let (event, reason) = describer.told(&event, at_ns);
                    self.publish(event, reason);
                }
            }
        }
    }

    fn publish(&self, event: Event, reason: &'static str) {
        self.store.publish(Arc::new(event), reason);
    }
}

#[cfg(test)]
mod tests;
