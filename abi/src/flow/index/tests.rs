// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The index against a map of the standard library, and under threads that fight for the same tuples.

extern crate std;
use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    vec::Vec,
};

use proptest::prelude::*;

use super::*;
use crate::client::mix;

struct Memory {
    sets: Vec<[AtomicU64; WAYS + 1]>,
    /// Key of each row.
    keys: Vec<AtomicU64>,
}

impl Memory {
    fn new(sets: u32, rows: usize) -> Self {
        Self {
            sets: (0..sets).map(|_| Default::default()).collect(),
            keys: (0..rows).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn place(&self, key: u64) -> Place {
        Place::of(mix(key), self.sets.len() as u32)
    }

    fn is(&self, key: u64) -> impl FnMut(u32) -> bool {
        move |row| self.keys[row as usize].load(Ordering::SeqCst) == key
    }

    fn insert(&self, key: u64, row: u32) -> Result<(), NotInserted> {
        self.keys[row as usize].store(key, Ordering::SeqCst);
        insert(self, self.place(key), row, self.is(key))
    }

    fn find(&self, key: u64) -> Option<u32> {
        find(self, self.place(key), self.is(key))
    }

    fn spilled(&self) -> u64 {
        self.sets.iter().map(|set| set[WAYS].load(Ordering::SeqCst)).sum()
    }
}

impl Sets for Memory {
    type Set = usize;

    fn set(&self, number: u32) -> Option<usize> {
        let number = number as usize;
        (number < self.sets.len()).then_some(number)
    }

    fn entry(&self, set: usize, way: usize) -> u64 {
        self.sets[set][way].load(Ordering::SeqCst)
    }

    fn replace(&self, set: usize, way: usize, old: u64, new: u64) -> bool {
        let order = Ordering::SeqCst;
        self.sets[set][way]
            .compare_exchange(old, new, order, order)
            .is_ok()
    }

    fn spilled(&self, set: usize) -> u64 {
        self.sets[set][WAYS].load(Ordering::SeqCst)
    }

    fn add_spilled(&self, set: usize, delta: u64) {
        self.sets[set][WAYS].fetch_add(delta, Ordering::SeqCst);
    }
}

proptest! {
    #[test]
    fn it_is_a_map(steps in prop::collection::vec((0_u64..60, any::<bool>()), 1..400), sets in 1_u32..10) {
        const NONE: u64 = u64::MAX;
        let memory = Memory::new(sets, steps.len() + 1);
        let mut model = HashMap::new();
        for (row, (key, inserts)) in (1..).zip(steps) {
            if inserts {
                let outcome = memory.insert(key, row);
                match outcome {
                    Ok(()) => prop_assert!(model.insert(key, row).is_none(), "a tuple is there twice"),
                    Err(NotInserted::Taken) => prop_assert!(model.contains_key(&key)),
                    Err(NotInserted::Full) => prop_assert!(model.len() >= WAYS && !model.contains_key(&key)),
                }
                if outcome.is_err() {
                    memory.keys[row as usize].store(NONE, Ordering::SeqCst);
                }
            } else if let Some(row) = model.remove(&key) {
                remove(&memory, memory.place(key), row);
                memory.keys[row as usize].store(NONE, Ordering::SeqCst);
            }
            for key in 0..60 {
                prop_assert_eq!(memory.find(key), model.get(&key).copied());
            }
        }
        for (key, row) in model {
            remove(&memory, memory.place(key), row);
        }
        prop_assert_eq!(memory.spilled(), 0);
    }
}

#[test]
fn a_full_table_has_room_for_nearly_every_tuple() {
    const ROWS: u32 = 20_000;
    let sets = crate::limits::index_sets(ROWS);
    let memory = Memory::new(sets, ROWS as usize * 2 + 1);
    let failed = (1..=ROWS * 2)
        .filter(|row| memory.insert(u64::from(*row), *row).is_err())
        .count();
    assert!(failed == 0, "{failed} of {} tuples had no place", ROWS * 2);
    let lost = (1..=ROWS * 2)
        .filter(|row| memory.find(u64::from(*row)) != Some(*row))
        .count();
    assert_eq!(lost, failed);
    assert!(
        memory.spilled() < u64::from(ROWS) / 20,
        "{} tuples take two lookups",
        memory.spilled()
    );
}

#[test]
fn of_those_that_want_one_tuple_at_once_at_most_one_gets_it() {
    const THREADS: u32 = 4;
    const ROUNDS: u64 = 3_000;
    let memory = Memory::new(2, THREADS as usize + 1);
    let won: Vec<AtomicU64> = (0..ROUNDS).map(|_| AtomicU64::new(0)).collect();
    let barrier = std::sync::Barrier::new(THREADS as usize);
    thread::scope(|scope| {
        for row in 1..=THREADS {
            let (memory, won, barrier) = (&memory, &won, &barrier);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    // The key of a row is that of its round before anybody compares it.
                    memory.keys[row as usize].store(round, Ordering::SeqCst);
                    barrier.wait();
                    let inserted = memory.insert(round, row).is_ok();
                    won[round as usize].fetch_add(inserted.into(), Ordering::SeqCst);
                    barrier.wait();
                    if inserted {
                        remove(memory, memory.place(round), row);
                    }
                    barrier.wait();
                }
            });
        }
    });
    let most = won.iter().map(|won| won.load(Ordering::SeqCst)).max();
    assert_eq!(most, Some(1));
    assert_eq!(memory.spilled(), 0);
}
