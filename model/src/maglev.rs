// SPDX-License-Identifier: Apache-2.0
//! Maglev lookup tables (Eisenbud et al., NSDI 2016, section 3.4): a client's hash keeps naming the same backend while the
//! set of backends changes little. Called by `Frontend::slot_table`.
//!
//! Invariant: the table depends on the set of (hash, weight) pairs only, not on their order nor on the machine, so every node
//! sends a client to the same backend.

use std::{cmp::Reverse, collections::BinaryHeap};

use nodemesh_abi::client::mix;

/// Makes the second hash of a backend differ from the first.
const SKIP_SEED: u64 = 0x6d61_676c_6576_0001;
const FREE: u32 = u32::MAX;

/// Where a backend is in its permutation of the slots.
struct Walk {
    index: u32,
    weight: u64,
    position: u32,
    skip: u32,
}

/// A table of `size` slots of indices into `backends`, which are pairs of a stable hash and a weight.
///
/// As in Katran and Cilium, a backend of weight `w` takes `w / max(w)` turns where the heaviest takes one; one whose share is
/// less than a slot may get none. `size` should be a prime. Empty if there is no backend, no weight or no slot.
pub fn maglev_table(backends: &[(u64, u32)], size: u32) -> Vec<u32> {
    let heaviest = u64::from(backends.iter().map(|(_, weight)| *weight).max().unwrap_or(0));
    if heaviest == 0 || size == 0 {
        return Vec::new();
    }
    let mut walks = walks(backends, size);
    // Turns in order of (round, rank), the round of a backend's k-th turn being the first in which k * heaviest / weight
    // rounds have passed. A heap, since with uneven weights most backends have no turn in most rounds.
    let mut turns: BinaryHeap<_> = walks
        .iter()
        .enumerate()
        .map(|(rank, walk)| Reverse((heaviest.div_ceil(walk.weight), rank, 1_u64)))
        .collect();
    let mut table = vec![FREE; size as usize];
    for _ in 0..size {
        let Some(mut turn) = turns.peek_mut() else { break };
        let Reverse((_, rank, taken)) = *turn;
        let walk = &mut walks[rank];
        *turn = Reverse(((heaviest * (taken + 1)).div_ceil(walk.weight), rank, taken + 1));
        drop(turn);
        let slot = walk.next_free(&table);
        table[slot] = walk.index;
    }
    table
}

/// The backends that have a weight, in an order of their own.
fn walks(backends: &[(u64, u32)], size: u32) -> Vec<Walk> {
    let mut order: Vec<(u64, u32, usize)> = backends
        .iter()
        .enumerate()
        .filter(|(_, (_, weight))| *weight > 0)
        .map(|(index, (hash, weight))| (*hash, *weight, index))
        .collect();
    order.sort_unstable();
    order
        .into_iter()
        .map(|(hash, weight, index)| Walk::new(index as u32, hash, weight, size))
        .collect()
}

impl Walk {
    fn new(index: u32, hash: u64, weight: u32, size: u32) -> Self {
        let slots = u64::from(size);
        let position = (mix(hash) % slots) as u32;
        let mut skip = mix(hash ^ SKIP_SEED) % (slots - 1).max(1) + 1;
        // A no-op for primes; with any other size a permutation would miss slots without it.
        while gcd(skip, slots) != 1 {
            skip += 1;
        }
        Self {
            index,
            weight: weight.into(),
            position,
            skip: (skip % slots) as u32,
        }
    }

    /// The next slot of the permutation that is free; `table` must have one.
    fn next_free(&mut self, table: &[u32]) -> usize {
        let size = table.len() as u32;
        while table[self.position as usize] != FREE {
            // Sizes stay far below 2^31, so the sum does not overflow.
            self.position += self.skip;
            if self.position >= size {
                self.position -= size;
            }
        }
        self.position as usize
    }
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests;
