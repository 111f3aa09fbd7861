// SPDX-License-Identifier: Apache-2.0
//! Hands out the pairs of rows in `traffic`, one for each metered backend. Part of the ledger.
//!
//! Invariant: a pair is out for at most one backend id, and is zeroed before that backend's row first names it; the shared pair is
//! never out.

use std::collections::HashSet;

use nodemesh_abi::traffic::SHARED_PAIR;

use super::ids::IdPool;

/// The pairs.
#[derive(Debug)]
pub struct TrafficPairs {
    pool: IdPool,
    /// Pairs that were handed out but not zeroed: their counters are those of the former owner.
    unwritten: HashSet<u32>,
}

impl TrafficPairs {
    /// `capacity` pairs, the shared one included.
    pub fn new(capacity: u32) -> Self {
        let mut pool = IdPool::new(capacity);
        pool.claim(SHARED_PAIR);
        Self {
            pool,
            unwritten: HashSet::new(),
        }
    }

    /// Takes a pair for a backend; `None` if none is left.
    pub fn take(&mut self) -> Option<u32> {
        let pair = self.pool.take()?;
        self.unwritten.insert(pair);
        Some(pair)
    }

    /// Marks a pair as taken that a former agent handed out; false if there is no such pair or it is out already.
    pub fn adopt(&mut self, pair: u32) -> bool {
        !self.pool.is_out(pair) && self.pool.claim(pair)
    }

    /// Gives a pair back, unless it is the shared one.
    pub fn give_back(&mut self, pair: u32) {
        if pair != SHARED_PAIR {
            self.unwritten.remove(&pair);
            self.pool.give_back(pair);
        }
    }

    /// Whether the pair must be zeroed before a row may name it.
    pub fn is_unwritten(&self, pair: u32) -> bool {
        self.unwritten.contains(&pair)
    }

    /// The pair was zeroed, and its backend's row names it.
    pub fn mark_written(&mut self, pair: u32) {
        self.unwritten.remove(&pair);
    }

    /// Pairs in use, the shared one included, and how many there are.
    pub fn usage(&self) -> (u32, u32) {
        (self.pool.in_use(), self.pool.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shared_pair_is_nobodys() {
        let mut pairs = TrafficPairs::new(3);
        assert!(!pairs.adopt(SHARED_PAIR));
        assert_eq!(
            [pairs.take(), pairs.take(), pairs.take()],
            [Some(1), Some(2), None]
        );
        pairs.give_back(SHARED_PAIR);
        assert_eq!(pairs.take(), None);
        pairs.give_back(1);
        assert_eq!(pairs.usage(), (2, 3));
        assert_eq!(TrafficPairs::new(1).take(), None);
    }

    #[test]
    fn a_pair_must_be_zeroed_whenever_it_is_taken_but_not_when_it_is_adopted() {
        let mut pairs = TrafficPairs::new(4);
        assert!(pairs.adopt(2) && !pairs.adopt(2) && !pairs.adopt(4));
        assert!(!pairs.is_unwritten(2));
        let pair = pairs.take().unwrap();
        assert!(pairs.is_unwritten(pair));
        pairs.mark_written(pair);
        assert!(!pairs.is_unwritten(pair));
        pairs.give_back(pair);
        assert_eq!(pairs.take(), Some(pair));
        assert!(pairs.is_unwritten(pair));
    }
}
