// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Slot tables: the inner maps of `slot_tables`, one per service, replaced as a whole by one update.
//!
//! Two shapes share the row type. For `maglev`, slot `hash % len` names the backend. For every other algorithm the
//! table is an alias table (Walker 1974, Vose 1991) with one slot per backend: a uniformly drawn slot names its own
//! backend with probability `threshold / 2^32` and its alias otherwise, which makes the draw exactly weighted at
//! constant cost and memory, whatever the weights are.
//!
//! Invariant: `len` is the same in all slots of a table and is never larger than the inner map, so a reader that took
//! it from slot 0 can trust it for the whole run: the table it belongs to cannot change under it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::abi_struct;

/// One slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Slot {
    /// Backend chosen when the draw is at most `threshold`: an index into `backends`.
    pub backend: u32,
    /// Backend chosen otherwise.
    pub alias: u32,
    /// Upper bound, inclusive, of the draws that choose `backend`.
    pub threshold: u32,
    /// Number of slots in this table; 0 in the single slot of a table without backends.
    pub len: u32,
}
abi_struct!(Slot: 16 { backend: 0, alias: 4, threshold: 8, len: 12 });

impl Slot {
    /// The only slot of the table of a service without available backends.
    pub const EMPTY: Self = Self {
        backend: 0,
        alias: 0,
        threshold: 0,
        len: 0,
    };

    /// A slot of a table of `len` slots that always names `backend`.
    pub const fn certain(backend: u32, len: u32) -> Self {
        Self {
            backend,
            alias: backend,
            threshold: u32::MAX,
            len,
        }
    }

    /// The backend that `draw`, uniform over `u32`, chooses.
    #[inline(always)]
    pub const fn choose(&self, draw: u32) -> u32 {
        if draw <= self.threshold {
            self.backend
        } else {
            self.alias
        }
    }
}

/// Position of a uniform `draw` in a table of `len` slots: multiply-shift (Lemire 2019) instead of a division.
#[inline(always)]
pub const fn scale(draw: u32, len: u32) -> u32 {
    ((draw as u64 * len as u64) >> 32) as u32
}

/// Position in a table of `len` slots, and draw for [`Slot::choose`], of the `count`th round-robin pick.
///
/// The slots are visited in turn; the draw of each whole turn follows the Weyl sequence of the golden ratio, which
/// is equidistributed, so a slot that owns a fraction of its turns gets just that fraction, evenly spread in time.
/// `len` must not be 0.
#[inline(always)]
pub const fn rotate(count: u64, len: u32) -> (u32, u32) {
    const GOLDEN: u32 = 0x9e37_79b9;
    let turn = count / len as u64;
    let position = (count % len as u64) as u32;
    (position, (turn as u32).wrapping_mul(GOLDEN))
}

/// Whether a backend with `active` connections and `weight` is at most as loaded as another one.
///
/// Ties go to the first, so that idle backends are drawn by weight alone.
#[inline(always)]
pub const fn less_loaded(active: u64, weight: u32, other_active: u64, other_weight: u32) -> bool {
    active.wrapping_mul(other_weight as u64) <= other_active.wrapping_mul(weight as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certain_slot_ignores_the_draw() {
        let slot = Slot::certain(7, 3);
        for draw in [0, 1, u32::MAX / 2, u32::MAX] {
            assert_eq!(slot.choose(draw), 7);
        }
    }

    #[test]
    fn scale_covers_every_position_and_stays_inside() {
        for len in [1, 2, 3, 10_000, u32::MAX] {
            assert_eq!(scale(0, len), 0);
            assert_eq!(scale(u32::MAX, len), len - 1);
        }
    }

    #[test]
    fn rotation_visits_the_slots_in_turn() {
        let positions: [u32; 7] = core::array::from_fn(|count| rotate(count as u64, 3).0);
        assert_eq!(positions, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn rotation_gives_a_fractional_slot_its_fraction() {
        let slot = Slot {
            backend: 0,
            alias: 1,
            threshold: u32::MAX / 4,
            len: 1,
        };
        let own = (0..10_000)
            .filter(|&count| slot.choose(rotate(count, 1).1) == 0)
            .count();
        assert!((2_495..=2_505).contains(&own), "{own}");
    }

    #[test]
    fn load_is_relative_to_weight_and_ties_go_to_the_first() {
        assert!(less_loaded(0, 1, 0, 100));
        assert!(less_loaded(0, 100, 0, 1));
        assert!(less_loaded(2, 2, 1, 1));
        assert!(!less_loaded(3, 2, 1, 1));
        assert!(less_loaded(9, 10, 1, 1));
    }
}
