// SPDX-License-Identifier: Apache-2.0
//! Admission of requests: at most `limit` run, the others wait in order of arrival, as in vLLM's waiting queue.
//!
//! Used by [`super::generation`]. Invariant: `running` equals the number of [`Slot`]s alive.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The queue. Its mutex is held for a few instructions and never across an await.
pub(super) struct Scheduler {
    state: Mutex<State>,
}

struct State {
    limit: usize,
    running: usize,
    next_ticket: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Slot>>,
}

/// How many requests run and wait at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) running: usize,
    pub(super) waiting: usize,
}

/// The right of one request to run; dropping it admits the next.
pub(super) struct Slot {
    scheduler: Arc<Scheduler>,
}

/// Takes the request out of the queue when it is cancelled while waiting.
struct Waiting<'a> {
    scheduler: &'a Scheduler,
    ticket: u64,
}

impl Scheduler {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            state: Mutex::new(State {
                limit,
                running: 0,
                next_ticket: 0,
                waiting: BTreeMap::new(),
            }),
        }
    }

    /// Waits for a turn. Cancelling the future leaves the queue.
    pub(super) async fn admit(self: &Arc<Self>) -> Slot {
        let (sender, receiver) = oneshot::channel();
        let waiting = {
            let mut state = self.lock();
            if state.running < state.limit && state.waiting.is_empty() {
                state.running += 1;
                return Slot {
                    scheduler: Arc::clone(self),
                };
            }
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.waiting.insert(ticket, sender);
            Waiting {
                scheduler: self,
                ticket,
            }
        };
        let slot = receiver
            .await
            .expect("only `admit_waiting` removes the sender of a live request, and it sends");
        drop(waiting);
        slot
    }

    /// Changes how many run; those that run already stay.
    pub(super) fn set_limit(self: &Arc<Self>, limit: usize) {
        self.lock().limit = limit;
        self.admit_waiting();
    }

    pub(super) fn load(&self) -> Load {
        let state = self.lock();
        Load {
            running: state.running,
            waiting: state.waiting.len(),
        }
    }

    fn admit_waiting(self: &Arc<Self>) {
        loop {
            let next = {
                let mut state = self.lock();
                if state.running >= state.limit {
                    return;
                }
                let Some((_, next)) = state.waiting.pop_first() else {
                    return;
                };
                state.running += 1;
                next
            };
            // Sent outside the lock: a request cancelled meanwhile returns the slot, and dropping it locks again.
            let _ = next.send(Slot {
                scheduler: Arc::clone(self),
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.scheduler.lock().running -= 1;
        self.scheduler.admit_waiting();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.scheduler.lock().waiting.remove(&self.ticket);
    }
}
