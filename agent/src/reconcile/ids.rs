// SPDX-License-Identifier: Apache-2.0
//! Hands out indices into the kernel's arrays. Used by the ledger for service ids, backend ids and pairs of
//! rows in `traffic`.
//!
//! Invariant: an id is out at most once; the lowest free one goes first, so the arrays stay dense.

use std::collections::BTreeSet;

/// A pool of the ids `0..capacity`.
#[derive(Debug, Clone)]
pub struct IdPool {
    capacity: u32,
    /// Every id from here on is free.
    fresh: u32,
    /// Free ids below `fresh`.
    returned: BTreeSet<u32>,
}

impl IdPool {
    /// A pool with all ids free.
    pub fn new(capacity: u32) -> Self {
        Self {
            capacity,
            fresh: 0,
            returned: BTreeSet::new(),
        }
    }

    /// Takes the lowest free id.
    pub fn take(&mut self) -> Option<u32> {
        if let Some(id) = self.returned.pop_first() {
            return Some(id);
        }
        (self.fresh < self.capacity).then(|| {
            self.fresh += 1;
            self.fresh - 1
        })
    }

    /// Marks an id as taken that a former agent handed out; false if there is no such id.
    pub fn claim(&mut self, id: u32) -> bool {
        if id >= self.capacity {
            return false;
        }
        self.returned.extend(self.fresh..id);
        self.fresh = self.fresh.max(id + 1);
        self.returned.remove(&id);
        true
    }

    /// Whether an id is out.
    pub fn is_out(&self, id: u32) -> bool {
        id < self.fresh && !self.returned.contains(&id)
    }

    /// Gives an id back.
    pub fn give_back(&mut self, id: u32) {
        debug_assert!(id < self.fresh, "id {id} was never handed out");
        self.returned.insert(id);
    }

    /// Number of ids that are out.
    pub fn in_use(&self) -> u32 {
        self.fresh - self.returned.len() as u32
    }

    /// Number of ids there are.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_id_goes_first_and_none_beyond_the_capacity() {
        let mut pool = IdPool::new(3);
        assert_eq!(
            [pool.take(), pool.take(), pool.take(), pool.take()],
            [Some(0), Some(1), Some(2), None]
        );
        pool.give_back(2);
        pool.give_back(0);
        assert_eq!([pool.take(), pool.take(), pool.take()], [Some(0), Some(2), None]);
        assert_eq!(pool.in_use(), 3);
    }

    #[test]
    fn a_claimed_id_is_not_handed_out() {
        let mut pool = IdPool::new(4);
        assert!(pool.claim(2) && pool.claim(2));
        assert_eq!([0, 2, 3].map(|id| pool.is_out(id)), [false, true, false]);
        assert!(!pool.claim(4));
        assert_eq!(pool.in_use(), 1);
        assert_eq!(
            [pool.take(), pool.take(), pool.take(), pool.take()],
            [Some(0), Some(1), Some(3), None]
        );
    }
}
