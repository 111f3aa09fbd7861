// SPDX-License-Identifier: Apache-2.0
//! When leases expire: deadlines on the monotonic clock, which no change of the wall clock moves. Owned by `committer`; the time is
//! passed in.
//!
//! Invariant: a lease is in both indexes or in none.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use super::database::LeaseRow;

#[derive(Clone, Copy, Debug)]
struct Armed {
    ttl: Duration,
    deadline: Instant,
    /// Whether the file says that it was renewed (or granted) since the store was opened.
    is_noted: bool,
}

/// A renewed lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Renewed {
    pub(super) ttl: Duration,
    /// Whether the file says so already.
    pub(super) is_noted: bool,
}

/// The leases that run.
#[derive(Debug, Default)]
pub(super) struct Leases {
    armed: HashMap<i64, Armed>,
    by_deadline: BTreeSet<(Instant, i64)>,
}

impl Leases {
    /// Starts the time of a lease that the file has.
    pub(super) fn arm(&mut self, id: i64, row: LeaseRow, now: Instant) {
        self.disarm(id);
        let deadline = now + row.remaining;
        self.by_deadline.insert((deadline, id));
        let armed = Armed {
            ttl: row.ttl,
            deadline,
            is_noted: row.is_renewed,
        };
        self.armed.insert(id, armed);
    }

    /// Starts the time of a lease anew; `None` if it does not run.
    pub(super) fn renew(&mut self, id: i64, now: Instant) -> Option<Renewed> {
        let armed = self.armed.get_mut(&id)?;
        self.by_deadline.remove(&(armed.deadline, id));
        armed.deadline = now + armed.ttl;
        self.by_deadline.insert((armed.deadline, id));
        Some(Renewed {
            ttl: armed.ttl,
            is_noted: armed.is_noted,
        })
    }

    /// The file says now that it was renewed.
    pub(super) fn noted(&mut self, id: i64) {
        if let Some(armed) = self.armed.get_mut(&id) {
            armed.is_noted = true;
        }
    }

    /// Forgets a lease that ended.
    pub(super) fn disarm(&mut self, id: i64) {
        if let Some(armed) = self.armed.remove(&id) {
            self.by_deadline.remove(&(armed.deadline, id));
        }
    }

    /// Whether it runs.
    pub(super) fn contains(&self, id: i64) -> bool {
        self.armed.contains_key(&id)
    }

    /// Forgets those that `is_kept` is not true of.
    pub(super) fn retain(&mut self, is_kept: impl Fn(i64) -> bool) {
        self.armed.retain(|id, _| is_kept(*id));
        self.by_deadline.retain(|(_, id)| is_kept(*id));
    }

    /// The first leases, at most `most`, whose time is over.
    pub(super) fn expired(&self, now: Instant, most: usize) -> Vec<i64> {
        self.by_deadline
            .iter()
            .take_while(|(deadline, _)| *deadline <= now)
            .take(most)
            .map(|(_, id)| *id)
            .collect()
    }

    /// When the next lease expires.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    /// Gives every lease more time: for a while in which none could be renewed.
    pub(super) fn postpone(&mut self, by: Duration) {
        self.by_deadline.clear();
        for (id, armed) in &mut self.armed {
            armed.deadline += by;
            self.by_deadline.insert((armed.deadline, *id));
        }
    }

    /// What the file should say of the leases that nobody has renewed since the store was opened.
    pub(super) fn unrenewed(&self, now: Instant) -> Vec<(i64, LeaseRow)> {
        let rows = self.armed.iter().filter(|(_, armed)| !armed.is_noted);
        rows.map(|(id, armed)| {
            let row = LeaseRow {
                ttl: armed.ttl,
                remaining: armed.deadline.saturating_duration_since(now),
                is_renewed: false,
            };
            (*id, row)
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seconds: u64, is_renewed: bool) -> LeaseRow {
        LeaseRow {
            ttl: Duration::from_secs(10),
            remaining: Duration::from_secs(seconds),
            is_renewed,
        }
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_expires_unless_it_is_renewed() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        leases.arm(1, row(10, true), start);
        leases.arm(2, row(3, false), start);
        assert_eq!(leases.next_deadline(), Some(after(start, 3)));
        assert_eq!(leases.expired(after(start, 2), 9), [0; 0]);
        assert_eq!(leases.expired(after(start, 10), 9), [2, 1]);
        assert_eq!(leases.expired(after(start, 10), 1), [2]);
        let renewed = leases.renew(2, after(start, 2)).unwrap();
        assert_eq!((renewed.ttl.as_secs(), renewed.is_noted), (10, false));
        leases.noted(2);
        assert!(leases.renew(2, after(start, 2)).unwrap().is_noted);
        assert_eq!(leases.expired(after(start, 10), 9), [1]);
        leases.disarm(1);
        assert_eq!(leases.renew(1, start), None);
        assert_eq!(leases.next_deadline(), Some(after(start, 12)));
    }

    #[test]
    fn nothing_expires_for_a_time_in_which_nothing_could_be_renewed() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        leases.arm(1, row(10, true), start);
        leases.postpone(Duration::from_secs(60));
        assert_eq!(leases.expired(after(start, 69), 9), [0; 0]);
        assert_eq!(leases.expired(after(start, 70), 9), [1]);
    }

    #[test]
    fn what_is_left_is_kept_of_leases_that_nobody_renews() {
        let (mut leases, start) = (Leases::default(), Instant::now());
        leases.arm(1, row(10, false), start);
        leases.arm(2, row(10, true), start);
        let rows = leases.unrenewed(after(start, 4));
        assert_eq!(rows, [(1, row(6, false))]);
    }
}
