// SPDX-License-Identifier: Apache-2.0
//! Writes to the store what requests ask for.
//!
//! ```text
//! request --Plan::of(state)--> changes --commit--> revision --(follower)--> state of that revision --> answer
//! ```
//!
//! Resources that claim something (addresses, a policy's target, a cgroup) go through one task, many in one transaction, with a key
//! that every such transaction reads and writes: the fence. Two replicas of the control plane therefore cannot give the same
//! thing away at the same time: the second one loses, sees what the first did, and plans anew. Other workloads are written
//! directly, each on its own.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    address::AddressRanges,
    error::RegistryError,
    key::{FENCE, Key},
    plan::{Plan, Request},
    state::{Entry, State},
};
use crate::store::{LeaseId, MAX_OPS, MAX_VALUE, Revision, Store, StoreError, Transaction};

/// How often a request is planned anew after others were faster.
const ATTEMPTS: u32 = 10;
/// How long an acknowledged write may take to be seen in the state.
const VISIBLE_WITHIN: Duration = Duration::from_secs(10);

/// What became of a request.
#[derive(Clone, Debug)]
pub(super) struct Done {
    /// The resource.
    pub(super) key: Key,
    /// What the resource was before.
    pub(super) former: Option<Arc<Entry>>,
    /// What it is, with the version that it had before.
    pub(super) entry: Option<Arc<Entry>>,
    /// When it was written; its version.
    pub(super) revision: Revision,
    /// Whether something was written.
    pub(super) is_changed: bool,
}

pub(super) type Answer = Result<Done, RegistryError>;
pub(super) type Queued = (Request, oneshot::Sender<Answer>);

/// What it takes to write.
#[derive(Clone)]
pub(super) struct Writer {
    pub(super) store: Arc<dyn Store>,
    pub(super) states: watch::Receiver<Arc<State>>,
    pub(super) ranges: Arc<AddressRanges>,
    /// How long an address is kept back.
    pub(super) grace: Duration,
}

impl Writer {
    /// Writes requests that claim something until all senders are gone.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Queued>) {
        let mut waiting = Vec::new();
        while queue.recv_many(&mut waiting, MAX_OPS).await > 0 {
            while !waiting.is_empty() {
                waiting = self.write_some(waiting).await;
            }
        }
    }

    /// Writes the first ones of `waiting` in one transaction; returns the others.
    async fn write_some(&mut self, mut waiting: Vec<Queued>) -> Vec<Queued> {
        for attempt in 1..=ATTEMPTS {
            let mut state = self.current();
            let (batch, rest) = self.planned(waiting, &mut state);
            let result = self.commit(batch.iter().map(|(plan, _)| plan), state.fence).await;
            match result {
                Ok(revision) => {
                    self.wait_for(revision).await;
                    for (plan, (_, reply)) in batch {
                        let _ = reply.send(Ok(plan.done(revision)));
                    }
                    return rest;
                }
                Err(StoreError::Conflict { revision, .. }) if attempt < ATTEMPTS => {
                    self.catch_up(revision, attempt).await;
                    waiting = batch.into_iter().map(|(_, queued)| queued).chain(rest).collect();
                }
                Err(error) if batch.len() > 1 && !is_of_the_store(&error) => {
                    // One of them is at fault; the others need not suffer.
                    for (_, queued) in batch {
                        Box::pin(self.write_some(vec![queued])).await;
                    }
                    return rest;
                }
                Err(error) => {
                    for (plan, (_, reply)) in batch {
                        let _ = reply.send(Err(failure(&plan, error.clone())));
                    }
                    return rest;
                }
            }
        }
        waiting
    }

    /// Plans as many of `waiting` as fit in one transaction, answers those that need none, and returns the rest.
    fn planned(&self, waiting: Vec<Queued>, state: &mut State) -> (Vec<(Plan, Queued)>, Vec<Queued>) {
        let (mut batch, mut keys, mut size) = (Vec::new(), HashSet::from([FENCE.to_owned()]), 0);
        let mut waiting = waiting.into_iter();
        while let Some((request, reply)) = waiting.next() {
            let mut next = state.clone();
            match Plan::of(&request, &self.ranges, &mut next) {
                Ok(plan) => {
                    let is_new = plan.keys().all(|key| !keys.contains(&key));
                    let fits = keys.len() + plan.keys().count() <= MAX_OPS && size + plan.size() <= MAX_VALUE;
                    // One that is too large on its own is for the store to refuse.
                    if !(batch.is_empty() || is_new && fits) {
                        return (batch, std::iter::once((request, reply)).chain(waiting).collect());
                    }
                    if plan.changes.is_empty() {
                        let revision = plan
                            .former
                            .as_ref()
                            .map_or(next.revision, |former| former.version);
                        let _ = reply.send(Ok(plan.done(revision)));
                        continue;
                    }
                    keys.extend(plan.keys());
                    size += plan.size();
                    *state = next;
                    batch.push((plan, (request, reply)));
                }
                Err(error) => {
                    let _ = reply.send(Err(error));
                }
            }
        }
        (batch, Vec::new())
    }

    /// Plans a request that claims nothing, and writes it; `None` if it turns out to claim something.
    pub(super) async fn write_directly(&mut self, request: &Request) -> Option<Answer> {
        for attempt in 1.. {
            let may_repeat = attempt < ATTEMPTS;
            let seen = self.current();
            let plan = match Plan::of(request, &self.ranges, &mut seen.clone()) {
                Ok(plan) if plan.is_fenced && !plan.changes.is_empty() => return None,
                Ok(plan) if !plan.released.is_empty() => return None,
                Ok(plan) => plan,
                Err(error) => match error.subject().cloned() {
                    Some(key) if may_repeat && !self.is_current(&seen, &key, attempt).await => continue,
                    _ => return Some(Err(error)),
                },
            };
            if plan.changes.is_empty() {
                if may_repeat && !self.is_current(&seen, &plan.key, attempt).await {
                    continue;
                }
                let revision = plan
                    .former
                    .as_ref()
                    .map_or(Revision::default(), |former| former.version);
                return Some(Ok(plan.done(revision)));
            }
            match self.store.commit(plan.add_to(Transaction::default(), None)).await {
                Ok(revision) => {
                    self.wait_for(revision).await;
                    return Some(Ok(plan.done(revision)));
                }
                Err(StoreError::Conflict { revision, .. }) if may_repeat => {
                    self.catch_up(revision, attempt).await;
                }
                Err(error) => return Some(Err(failure(&plan, error))),
            }
        }
        None
    }

    /// Whether `seen` has `key` as the store does; if not, another replica was faster, and the state has caught up now. A store
    /// that does not answer does not contradict.
    async fn is_current(&mut self, seen: &State, key: &Key, attempt: u32) -> bool {
        let Ok(found) = self.store.get(&key.to_string()).await else {
            return true;
        };
        let found = found.map(|item| item.version);
        if found == seen.version_of(key) {
            return true;
        }
        self.catch_up(found.unwrap_or_default(), attempt).await;
        false
    }

    async fn commit(
        &self,
        plans: impl Iterator<Item = &Plan> + Clone + Send,
        fence: Option<Revision>,
    ) -> Result<Revision, StoreError> {
        let mut grace = None;
        if self.grace > Duration::ZERO && plans.clone().any(|plan| !plan.released.is_empty()) {
            grace = Some(self.store.grant(self.grace).await?.id);
        }
        if plans.clone().next().is_none() {
            return Ok(Revision::default());
        }
        let transaction = Transaction::default()
            .check(FENCE, fence.into())
            .put(FENCE, Bytes::new(), None);
        let transaction = plans.fold(transaction, |transaction, plan| plan.add_to(transaction, grace));
        let result = self.store.commit(transaction).await;
        if let (Err(_), Some(lease)) = (&result, grace) {
            self.give_back(lease).await;
        }
        result
    }

    /// Ends a lease that nothing was attached to; if that fails it expires by itself.
    pub(super) async fn give_back(&self, lease: LeaseId) {
        if let Err(error) = self.store.revoke(lease).await {
            tracing::debug!(%lease, %error, "a lease without keys stays until it expires");
        }
    }

    fn current(&self) -> State {
        State::clone(&self.states.borrow())
    }

    /// After a conflict: lets the state see what was in the way, and the other writers get out of it.
    async fn catch_up(&mut self, revision: Revision, attempt: u32) {
        self.wait_for(revision).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..=5 * u64::from(attempt)))).await;
    }

    async fn wait_for(&mut self, revision: Revision) {
        let seen = self.states.wait_for(|state| state.revision >= revision);
        if tokio::time::timeout(VISIBLE_WITHIN, seen).await.is_err() {
            tracing::warn!(%revision, "the store acknowledged a write that its watch does not show yet");
        }
    }
}

impl Plan {
    fn done(self, revision: Revision) -> Done {
        Done {
            key: self.key,
            is_changed: !self.changes.is_empty(),
            former: self.former,
            entry: self.entry,
            revision,
        }
    }
}

/// Whether an error says nothing about what was to be written.
fn is_of_the_store(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Conflict { .. }
            | StoreError::Unavailable { .. }
            | StoreError::Full { .. }
            | StoreError::Io { .. }
    )
}

fn failure(plan: &Plan, error: StoreError) -> RegistryError {
    match error {
        StoreError::Conflict { .. } => RegistryError::Contended {
            key: plan.key.clone(),
            attempts: ATTEMPTS,
        },
        error => RegistryError::Store(error),
    }
}
