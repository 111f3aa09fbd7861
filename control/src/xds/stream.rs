// SPDX-License-Identifier: Apache-2.0
//! The state machine of one stream, for both variants of the protocol: requests in, responses out, no I/O and no clock.
//!
//! ```text
//!  delta / sotw ── subscriptions, answers ──► Stream ◄── newest Snapshot
//!                                               └──► poll: at most one Response per type
//! ```
//!
//! Driven by `driver`. There is no queue: what to send is computed from the newest snapshot whenever a type has no unanswered
//! response, so a slow reader skips what it missed. Invariant: between two polls a type has at most one unanswered response.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    cache::Snapshot,
    limits::{Limits, Violation},
    order::InUse,
    resource::{Name, Resource},
    subscription::{Outstanding, PATIENCE, Progress, Step, Subscription},
    type_url::TypeUrl,
};

/// How a stream speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Variant {
    /// Only what changed.
    Delta,
    /// All resources of a type, or all that changed of types that are asked for by name.
    StateOfTheWorld,
}

/// What to send next of one type.
#[derive(Debug)]
pub struct Response {
    /// The type.
    pub type_url: TypeUrl,
    /// The revision of the type's resources.
    pub revision: u64,
    /// What the answer refers to.
    pub nonce: u64,
    /// The resources, in the order of their names.
    pub resources: Vec<(Name, Arc<Resource>)>,
    /// Names that do not exist (any more); only in the delta variant.
    pub removed: Vec<Name>,
}

/// One stream.
#[derive(Debug)]
pub struct Stream {
    pub(super) variant: Variant,
    pub(super) limits: Limits,
    pub(super) types: BTreeMap<TypeUrl, Subscription>,
    nonce: u64,
}

impl Stream {
    /// Without subscriptions.
    pub fn new(variant: Variant, limits: Limits) -> Self {
        Self {
            variant,
            limits,
            types: BTreeMap::new(),
            nonce: 0,
        }
    }

    /// How far the reader is with each type.
    pub fn progress(&self) -> impl Iterator<Item = (&TypeUrl, Progress)> {
        self.types
            .iter()
            .map(|(type_url, subscription)| (type_url, subscription.progress()))
    }

    /// Whether anything is left to do at a tick.
    pub fn is_waiting(&self) -> bool {
        self.types.values().any(Subscription::is_waiting)
    }

    /// How many types the reader asked for.
    pub fn type_count(&self) -> usize {
        self.types.len()
    }

    /// Time passes: to be called every few seconds.
    pub fn tick(&mut self) -> Result<(), Violation> {
        for (type_url, subscription) in &mut self.types {
            subscription.tick();
            let ticks = subscription.outstanding.as_ref().map_or(0, |sent| sent.ticks);
            if ticks > self.limits.unanswered_ticks {
                return Err(Violation::Unanswered {
                    type_url: type_url.clone(),
                });
            }
        }
        Ok(())
    }

    /// All that can be sent now, in the order in which it must be.
    pub fn poll(&mut self, snapshot: &Snapshot) -> Vec<Response> {
        for (type_url, subscription) in &mut self.types {
            subscription.notice(type_url, snapshot);
        }
        let types: Vec<TypeUrl> = self.types.keys().cloned().collect();
        let responses = types
            .into_iter()
            .filter_map(|type_url| self.respond(type_url, snapshot))
            .collect();
        for (type_url, subscription) in &mut self.types {
            subscription.acknowledge_claims(snapshot.revision(type_url));
        }
        responses
    }

    fn respond(&mut self, type_url: TypeUrl, snapshot: &Snapshot) -> Option<Response> {
        let subscription = self.types.get(&type_url)?;
        let is_idle = subscription.pending.is_empty() && !subscription.is_owed;
        if is_idle || subscription.outstanding.is_some() {
            return None;
        }
        let steps = self.steps(&type_url, subscription, snapshot);
        let (is_full, is_delta) = (self.is_full(&type_url), self.variant == Variant::Delta);
        let subscription = self.types.get_mut(&type_url)?;
        subscription.withhold(&steps);
        if subscription.is_early(&steps, is_full) {
            return None;
        }
        let mut sent = subscription.apply(steps);
        // Only an answer in full, or one in the delta variant, says something by having nothing.
        let is_owed = std::mem::take(&mut subscription.is_owed) && (is_full || is_delta);
        if !is_full && !is_delta {
            sent.removed.clear();
        }
        if sent.resources.is_empty() && sent.removed.is_empty() && !is_owed {
            return None;
        }
        if is_full {
            let all = subscription.held.iter();
            sent.resources = all.map(|(name, held)| (name.clone(), held.clone())).collect();
            sent.removed.clear();
        }
        self.nonce += 1;
        let revision = snapshot.revision(&type_url);
        subscription.nonce = Some(self.nonce);
        subscription.outstanding = Some(Outstanding {
            nonce: self.nonce,
            revision,
            replaced: sent.replaced,
            given_up: BTreeMap::new(),
            ticks: 0,
        });
        Some(Response {
            type_url,
            revision,
            nonce: self.nonce,
            resources: sent.resources,
            removed: sent.removed,
        })
    }

    /// Whether a response has all that the reader has of this type.
    fn is_full(&self, type_url: &TypeUrl) -> bool {
        self.variant == Variant::StateOfTheWorld && type_url.is_full_state()
    }

    /// What to do about each pending name, up to the size of a response.
    fn steps(
        &self,
        type_url: &TypeUrl,
        subscription: &Subscription,
        snapshot: &Snapshot,
    ) -> Vec<(Name, Step)> {
        let budget = if self.is_full(type_url) {
            usize::MAX
        } else {
            self.limits.response_bytes
        };
        let (in_use, is_guarded) = (self.in_use(type_url), self.is_guarded(type_url));
        let (mut steps, mut size) = (Vec::new(), 0);
        for name in subscription.pending.keys() {
            let step = match self.step(name, subscription, snapshot, &in_use) {
                Step::Send(_) if !is_guarded => Step::Withhold,
                step => step,
            };
            size += match &step {
                Step::Send(resource) => name.len() + resource.size(),
                Step::Remove => name.len(),
                Step::Forget | Step::Withhold => 0,
            };
            steps.push((name.clone(), step));
            if size >= budget {
                break;
            }
        }
        steps
    }

    fn step(
        &self,
        name: &Name,
        subscription: &Subscription,
        snapshot: &Snapshot,
        in_use: &InUse<'_>,
    ) -> Step {
        let pending = &subscription.pending[name];
        let is_over = pending.ticks >= PATIENCE;
        match (subscription.seen.get(name), subscription.held.get(name)) {
            (Some(next), held) => {
                let is_new = held != Some(next);
                if !is_new && !pending.is_owed {
                    Step::Forget
                } else if is_new && !is_over && !self.is_prepared(next, snapshot) {
                    Step::Withhold
                } else {
                    Step::Send(next.clone())
                }
            }
            (None, Some(_)) if !is_over && in_use.contains(name) => Step::Withhold,
            (None, Some(_)) => Step::Remove,
            (None, None) if pending.is_owed => Step::Remove,
            (None, None) => Step::Forget,
        }
    }
}
