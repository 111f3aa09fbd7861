// SPDX-License-Identifier: Apache-2.0
//! How long nodes have been behind: since when there is something that they do not have.
//!
//! Follows the snapshots of the xDS server. Invariant: bounded; what is older than the oldest publication that is remembered
//! counts as published then.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::xds::{Snapshot, TypeUrl};

/// Publications that are remembered.
const REMEMBERED: usize = 4096;

/// When which revision was published. A copy is the same.
#[derive(Clone, Debug, Default)]
pub struct Lag {
    published: Arc<Mutex<VecDeque<(u64, Instant)>>>,
}

impl Lag {
    /// Notes each of `snapshots` until there are no more.
    pub async fn follow(self, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        loop {
            let revision = newest(&snapshots.borrow_and_update());
            self.note(revision, Instant::now());
            if snapshots.changed().await.is_err() {
                return;
            }
        }
    }

    /// How long a node that has applied `revision` has been behind; zero if it has everything.
    pub fn of(&self, revision: u64, now: Instant) -> Duration {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let first_missed = published.partition_point(|(published, _)| *published <= revision);
        let missed = published.get(first_missed);
        missed.map_or(Duration::ZERO, |(_, at)| now.duration_since(*at))
    }

    fn note(&self, revision: u64, at: Instant) {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        if published.back().is_some_and(|(last, _)| *last >= revision) {
            return;
        }
        if published.len() >= REMEMBERED {
            published.pop_front();
        }
        published.push_back((revision, at));
    }
}

fn newest(snapshot: &Snapshot) -> u64 {
    let types = [
        TypeUrl::Cluster,
        TypeUrl::Endpoints,
        TypeUrl::Listener,
        TypeUrl::Route,
        TypeUrl::Workloads,
        TypeUrl::Policies,
    ];
    types
        .iter()
        .map(|type_url| snapshot.revision(type_url))
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_behind_since_the_first_revision_that_it_missed() {
        let (lag, start) = (Lag::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        for (revision, seconds) in [(0, 0), (5, 10), (5, 11), (9, 20)] {
            lag.note(revision, after(seconds));
        }
        for (applied, seconds) in [(0, 20), (4, 20), (5, 10), (8, 10), (9, 0), (12, 0)] {
            assert_eq!(
                lag.of(applied, after(30)),
                Duration::from_secs(seconds),
                "{applied}"
            );
        }
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let (lag, start) = (Lag::default(), Instant::now());
        for revision in 1..=REMEMBERED as u64 + 10 {
            lag.note(revision, start + Duration::from_secs(revision));
        }
        let now = start + Duration::from_secs(10_000);
        assert_eq!(lag.of(0, now), Duration::from_secs(10_000 - 11));
    }
}
