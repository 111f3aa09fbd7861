// SPDX-License-Identifier: Apache-2.0
//! The engine's view of one request: wait for a slot, prefill, then a token at each step of a fixed schedule.
//!
//! Driven by [`super::stream`] or [`super::api`], which own it for as long as the client is there: hyper drops the
//! request when the client goes away, and the drop frees the slot and counts the abort. Every wait also watches
//! `/control`, so that a failure takes hold of requests in progress and its end releases them.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::connection::ConnectionHandle;
use super::openai::{FinishReason, Usage};
use super::recorder::Way;
use super::replica::Replica;
use super::scheduler::Slot;
use super::settings::{Failure, Settings};

/// What a request asks of the engine.
pub(super) struct Demand {
    pub(super) body_bytes: usize,
    pub(super) prompt_tokens: usize,
    /// At least 1.
    pub(super) tokens: u32,
    /// Why the request ends after `tokens`.
    pub(super) finish: FinishReason,
}

/// One step of the engine for this request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) tokens: u32,
    /// Set on the last step. The request no longer runs when it is returned.
    pub(super) finish: Option<FinishReason>,
}

/// A request between its arrival and its last token.
pub(super) struct Generation {
    replica: Arc<Replica>,
    connection: ConnectionHandle,
    control: watch::Receiver<Settings>,
    demand: Demand,
    prefill: Duration,
    inter_token: Duration,
    tokens_per_write: u32,
    /// Failures befall this request.
    fallible: bool,
    failure_after: u32,
    frozen: Arc<AtomicBool>,
    arrived: Instant,
    slot: Option<Slot>,
    generated: u32,
    /// When the next step is due, and when the last one was taken.
    due: Instant,
    stepped: Instant,
}

impl Generation {
    /// A request that arrived now and will have the timings of `settings`; failures concern it only if it is `fallible`.
    pub(super) fn new(
        replica: Arc<Replica>,
        connection: ConnectionHandle,
        settings: &Settings,
        fallible: bool,
        demand: Demand,
    ) -> Self {
        let now = Instant::now();
        Self {
            control: replica.watch_settings(),
            replica,
            connection,
            prefill: settings.prefill_time(demand.body_bytes),
            inter_token: settings.inter_token_time(),
            tokens_per_write: settings.tokens_per_write,
            fallible,
            failure_after: settings.failure_after,
            frozen: Arc::default(),
            demand,
            arrived: now,
            slot: None,
            generated: 0,
            due: now,
            stepped: now,
        }
    }

    /// Waits until the server would begin to answer: at once, unless it is wedged or closes instead. A wedged engine has taken
    /// the request and counts it.
    pub(super) async fn answerable(&mut self) {
        match self.failure() {
            Failure::Wedge => self.admitted().await,
            Failure::CloseEarly => self.connection.cut(Way::Fin),
            Failure::ResetEarly => self.connection.cut(Way::Rst),
            _ => (),
        }
        self.failure_over().await;
    }

    /// The connection that carries the answer.
    pub(super) fn connection(&self) -> &ConnectionHandle {
        &self.connection
    }

    /// Tells, at any time, whether nothing at all is to be written.
    pub(super) fn frozen(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.frozen)
    }

    /// The next token or tokens; `None` after the last.
    pub(super) async fn step(&mut self) -> Option<Step> {
        if self.generated == self.demand.tokens {
            return None;
        }
        if self.generated == 0 {
            self.admitted().await;
            self.due = Instant::now() + self.prefill;
            self.paced().await;
            self.replica
                .metrics()
                .prefilled(self.demand.prompt_tokens, self.arrived.elapsed());
            return Some(self.take(1));
        }
        let tokens = self.tokens_per_write.min(self.demand.tokens - self.generated);
        // A stream that lags, because it was frozen or not read, goes on from now and does not catch up.
        self.due = (self.due + self.inter_token * tokens).max(self.stepped);
        self.paced().await;
        self.replica.metrics().decoded(tokens, self.stepped.elapsed());
        Some(self.take(tokens))
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.demand.prompt_tokens,
            completion_tokens: self.generated,
        }
    }

    fn take(&mut self, tokens: u32) -> Step {
        self.generated += tokens;
        self.stepped = Instant::now();
        self.replica.metrics().generated(tokens);
        let last = self.generated == self.demand.tokens;
        if last {
            self.slot = None;
            self.replica
                .metrics()
                .finished(self.demand.finish, self.arrived.elapsed());
        }
        Step {
            tokens,
            finish: last.then_some(self.demand.finish),
        }
    }

    async fn admitted(&mut self) {
        if self.slot.is_none() {
            self.slot = Some(self.replica.scheduler().admit().await);
        }
    }

    /// Waits for `due`, and for as long as a failure holds the request.
    async fn paced(&mut self) {
        loop {
            self.failure_over().await;
            let mut due = pin!(sleep_until(self.due));
            if due.as_mut().now_or_never().is_some() {
                // Lets hyper write the previous chunk before this one exists: one write per step.
                tokio::task::yield_now().await;
                return;
            }
            tokio::select! {
                biased;
                _ = self.control.changed() => (),
                () = due => return,
            }
        }
    }

    async fn failure_over(&mut self) {
        loop {
            self.control.mark_unchanged();
            let (failure, in_the_middle) = (self.failure(), self.is_in_the_middle());
            let frozen = failure == Failure::Freeze && in_the_middle;
            self.frozen.store(frozen, Ordering::Relaxed);
            match failure {
                Failure::Wedge => (),
                Failure::WedgeDecode | Failure::Freeze if in_the_middle => (),
                Failure::Reset if in_the_middle => self.connection.cut(Way::Rst),
                Failure::Truncate if in_the_middle => self.connection.cut(Way::Fin),
                // The connection ends at once, and this request with it.
                Failure::CloseEarly | Failure::ResetEarly if self.slot.is_none() && self.generated == 0 => (),
                _ => return,
            }
            self.control
                .changed()
                .await
                .expect("the replica owns the sender, and this request the replica");
        }
    }

    /// What befalls this request now.
    fn failure(&self) -> Failure {
        if self.fallible {
            self.control.borrow().failure
        } else {
            Failure::None
        }
    }

    fn is_in_the_middle(&self) -> bool {
        self.generated >= self.failure_after.min(self.demand.tokens - 1)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if self.generated < self.demand.tokens {
            self.replica
                .metrics()
                .finished(FinishReason::Abort, self.arrived.elapsed());
        }
    }
}
