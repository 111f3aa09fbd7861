// SPDX-License-Identifier: Apache-2.0
//! What one stream asked for of one type, and what it was sent of that.
//!
//! Owned by [`super::stream::Stream`]; knows nothing of other types. For a reader of all resources that is up to date it costs nothing
//! per resource, because `held` then *is* the cache's table. Invariant: a name differs between `held` and `seen`, and is wanted, only
//! if it is `pending`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::ordmap::DiffItem;

use super::{
    cache::Snapshot,
    resource::{Name, Resource, Resources},
    type_url::TypeUrl,
};

/// Ticks after which waiting for a reader that does not do its part is over.
pub(super) const PATIENCE: u8 = 2;

/// A name that may have to be sent.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Asked for just now: to be answered even if there is nothing new, or nothing at all.
    pub(super) is_owed: bool,
    /// Withheld until resources of other types are where they must be.
    pub(super) is_withheld: bool,
    /// Ticks spent withheld.
    pub(super) ticks: u8,
}

/// What to do about a pending name.
#[derive(Debug)]
pub(super) enum Step {
    Send(Arc<Resource>),
    Remove,
    Forget,
    Withhold,
}

/// What steps amount to.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) resources: Vec<(Name, Arc<Resource>)>,
    pub(super) removed: Vec<Name>,
    pub(super) replaced: BTreeMap<Name, Option<Arc<Resource>>>,
}

/// The one response that was sent and not answered yet.
#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) nonce: u64,
    pub(super) revision: u64,
    /// What the reader had before of each name in the response, and has until it accepts the response.
    pub(super) replaced: BTreeMap<Name, Option<Arc<Resource>>>,
    /// Held resources that the reader gave up before it saw the response, perhaps only to ask for them again before it sees it.
    pub(super) given_up: BTreeMap<Name, Arc<Resource>>,
    pub(super) ticks: u32,
}

/// Why a reader did not take a response.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Nack {
    /// The revision of the response.
    pub revision: u64,
    /// In the reader's words.
    pub message: String,
}

/// How far a reader is with one type.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Progress {
    /// It asked for all resources.
    pub wildcard: bool,
    /// The names that it asked for.
    pub names: usize,
    /// The resources that it was sent or said to have.
    pub held: usize,
    /// The revision of the last response that it accepted.
    pub acked: Option<u64>,
    /// Since the last response that it accepted, it rejected this one.
    pub nack: Option<Nack>,
    /// It was sent all there is for it, and answered.
    pub in_sync: bool,
}

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Subscription {
    pub(super) wildcard: bool,
    pub(super) names: BTreeSet<Name>,
    /// What the reader has if it took all that it was sent.
    pub(super) held: Resources,
    /// The table of the cache as of the last look: what is listed, or all there is for a reader that also names resources.
    pub(super) seen: Resources,
    pub(super) pending: BTreeMap<Name, Pending>,
    pub(super) outstanding: Option<Outstanding>,
    /// An answer is owed even if it is empty: a reader waits for its first one.
    pub(super) is_owed: bool,
    /// There was a request with names.
    pub(super) was_named: bool,
    /// The nonce of the last response.
    pub(super) nonce: Option<u64>,
    /// What a reader may have kept when it rejected something newer, and for how many ticks that is taken into account.
    rejected: BTreeMap<Name, (Arc<Resource>, u8)>,
    /// Ticks since the reader said what it has from an earlier stream; `None` once it had the time to ask for all of that.
    resuming: Option<u8>,
    acked: Option<u64>,
    nack: Option<Nack>,
    /// Whether it was in sync once.
    was_in_sync: bool,
}

impl Subscription {
    pub(super) fn new(seen: Resources) -> Self {
        Self {
            seen,
            ..Self::default()
        }
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Whether the reader was sent `name`, and, unless it had an earlier version, has answered that.
    pub(super) fn has(&self, name: &str) -> bool {
        let is_first = |outstanding: &Outstanding| matches!(outstanding.replaced.get(name), Some(None));
        self.held.contains_key(name) && !self.outstanding.as_ref().is_some_and(is_first)
    }

    /// Takes in what changed since the last look.
    pub(super) fn notice(&mut self, type_url: &TypeUrl, snapshot: &Snapshot) {
        self.was_in_sync |= self.is_in_sync();
        let now = &self.table(type_url, snapshot);
        if self.seen.ptr_eq(now) {
            return;
        }
        let seen = std::mem::replace(&mut self.seen, now.clone());
        for item in seen.diff(now) {
            let (DiffItem::Add(name, _)
            | DiffItem::Update { new: (name, _), .. }
            | DiffItem::Remove(name, _)) = item;
            if self.wants(name) {
                self.pending.entry(name.clone()).or_default();
            }
        }
    }

    /// Starts from what the reader says to have from an earlier stream.
    pub(super) fn claim(&mut self, name: Name, version: &str) {
        let claimed = Arc::new(Resource::claimed(version));
        self.resuming = Some(0);
        let known = self.seen.get(&name).filter(|current| **current == claimed);
        let resource = known.cloned().unwrap_or(claimed);
        self.held.insert(name, resource);
    }

    /// Where nothing has to be sent, what the reader says to have from an earlier stream is as good as acknowledged.
    pub(super) fn acknowledge_claims(&mut self, revision: u64) {
        let was_silent = self.acked.is_none() && self.nack.is_none();
        if was_silent && !self.held.is_empty() && self.is_in_sync() {
            self.acked = Some(revision);
        }
    }

    fn table(&self, type_url: &TypeUrl, snapshot: &Snapshot) -> Resources {
        if self.wildcard && self.names.is_empty() {
            snapshot.listed(type_url)
        } else {
            snapshot.resources(type_url)
        }
    }

    /// From now on all resources.
    pub(super) fn subscribe_all(&mut self, type_url: &TypeUrl, snapshot: &Snapshot) {
        if std::mem::replace(&mut self.wildcard, true) {
            return;
        }
        self.seen = self.table(type_url, snapshot);
        self.is_owed = self.held.is_empty();
        for item in self.held.diff(&self.seen) {
            let (DiffItem::Add(name, _)
            | DiffItem::Update { new: (name, _), .. }
            | DiffItem::Remove(name, _)) = item;
            self.pending.entry(name.clone()).or_default();
        }
        self.share();
    }

    /// Adds a name. If it `is_owed`, the reader gets it even if it was sent before.
    pub(super) fn subscribe(&mut self, name: Name, is_owed: bool) {
        self.pending.entry(name.clone()).or_default().is_owed |= is_owed;
        let outstanding = self.outstanding.as_mut();
        if let Some(on_its_way) = outstanding.and_then(|outstanding| outstanding.given_up.remove(&name)) {
            self.held.insert(name.clone(), on_its_way);
        }
        self.names.insert(name);
    }

    /// Takes away a name. A reader of everything cannot know whether it still has to keep that one, and is told.
    pub(super) fn unsubscribe(&mut self, name: &str) {
        let Some(name) = self.names.take(name) else {
            return;
        };
        if self.wildcard {
            self.pending.entry(name).or_default().is_owed = true;
        } else {
            self.pending.remove(&name);
            let held = self.held.remove(&name);
            if let (Some(held), Some(outstanding)) = (held, &mut self.outstanding)
                && outstanding.replaced.contains_key(&name)
            {
                outstanding.given_up.insert(name, held);
            }
        }
    }

    /// From now on only the names.
    pub(super) fn unsubscribe_all(&mut self) {
        self.wildcard = false;
        self.is_owed = false;
        let names = &self.names;
        self.pending.retain(|name, _| names.contains(name));
        let kept = names
            .iter()
            .filter_map(|name| Some((name.clone(), self.held.get(name)?.clone())));
        self.held = kept.collect();
    }

    /// The reader's answer to the response `nonce`; an answer to any other says nothing new.
    pub(super) fn answer(&mut self, nonce: u64, rejection: Option<String>) {
        let Some(outstanding) = self.outstanding.take_if(|outstanding| outstanding.nonce == nonce) else {
            return;
        };
        if let Some(message) = rejection {
            for (name, kept) in outstanding.replaced {
                let Some(kept) = kept else { continue };
                self.rejected.entry(name).or_insert((kept, 0));
            }
            self.nack = Some(Nack {
                revision: outstanding.revision,
                message,
            });
        } else {
            for name in outstanding.replaced.keys() {
                self.rejected.remove(name);
            }
            self.acked = Some(outstanding.revision);
            self.nack = None;
        }
    }

    /// Notes what has to wait.
    pub(super) fn withhold(&mut self, steps: &[(Name, Step)]) {
        for (name, step) in steps {
            if let Some(pending) = self.pending.get_mut(name) {
                pending.is_withheld = matches!(step, Step::Withhold);
            }
        }
    }

    /// Whether a first answer would make the reader believe that there is less than there is, because the rest is withheld.
    pub(super) fn is_early(&self, steps: &[(Name, Step)], is_full: bool) -> bool {
        let mut waiting = steps.iter().filter(|(_, step)| matches!(step, Step::Withhold));
        let has_news = || {
            let mut steps = steps.iter();
            steps.any(|(_, step)| matches!(step, Step::Send(_) | Step::Remove))
        };
        self.is_owed && (is_full || !has_news()) && waiting.any(|(name, _)| !self.held.contains_key(name))
    }

    /// Takes the steps, as far as they are not to wait.
    pub(super) fn apply(&mut self, steps: Vec<(Name, Step)>) -> Sent {
        let mut sent = Sent::default();
        for (name, step) in steps {
            match step {
                Step::Send(resource) => {
                    let before = self.held.insert(name.clone(), resource.clone());
                    sent.replaced.insert(name.clone(), before);
                    sent.resources.push((name.clone(), resource));
                }
                Step::Remove => {
                    let before = self.held.remove(&name);
                    sent.replaced.insert(name.clone(), before);
                    sent.removed.push(name.clone());
                }
                Step::Forget => {}
                Step::Withhold => continue,
            }
            self.pending.remove(&name);
        }
        self.share();
        sent
    }

    /// A reader that has everything needs no table of its own.
    fn share(&mut self) {
        if self.wildcard && self.pending.is_empty() {
            self.held = self.seen.clone();
        }
    }

    /// What the reader may have that the cache no longer has in that form.
    pub(super) fn outdated(&self) -> impl Iterator<Item = &Resource> {
        let unsent = self.pending.keys().filter_map(|name| {
            let held = self.held.get(name)?;
            (self.seen.get(name) != Some(held)).then_some(held)
        });
        let unanswered = self.outstanding.iter().flat_map(|outstanding| {
            let replaced = outstanding.replaced.values().flatten();
            replaced.chain(outstanding.given_up.values())
        });
        let rejected = self.rejected.values().map(|(kept, _)| kept);
        unsent.chain(unanswered).chain(rejected).map(Arc::as_ref)
    }

    /// Time passes.
    pub(super) fn tick(&mut self) {
        for pending in self.pending.values_mut().filter(|pending| pending.is_withheld) {
            pending.ticks = pending.ticks.saturating_add(1);
        }
        self.rejected.retain(|_, (_, ticks)| {
            *ticks += 1;
            *ticks <= PATIENCE
        });
        self.resuming = self
            .resuming
            .map(|ticks| ticks + 1)
            .filter(|ticks| *ticks < PATIENCE);
        if let Some(outstanding) = &mut self.outstanding {
            outstanding.ticks += 1;
        }
    }

    /// Whether the reader may have more from an earlier stream than it said by now.
    pub(super) fn is_resuming(&self) -> bool {
        self.resuming.is_some()
    }

    /// Whether the time matters to it.
    pub(super) fn is_waiting(&self) -> bool {
        let is_done = self.pending.is_empty() && self.outstanding.is_none() && self.rejected.is_empty();
        !is_done || self.is_resuming()
    }

    /// Whether the reader has, or had, all there is for it.
    pub(super) fn is_filled(&self) -> bool {
        self.was_in_sync || self.is_in_sync()
    }

    fn is_in_sync(&self) -> bool {
        self.pending.is_empty() && self.outstanding.is_none() && !self.is_owed
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            wildcard: self.wildcard,
            names: self.names.len(),
            held: self.held.len(),
            acked: self.acked,
            nack: self.nack.clone(),
            in_sync: self.is_in_sync(),
        }
    }
}
