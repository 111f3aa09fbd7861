// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The index over `tracks`: a set-associative table of (fingerprint, row), with both tuples of each flow in it.
//!
//! A tuple has a home set and, for when that is full, a second one; a set knows how many of its own had to go to their second one, so that
//! nearly every lookup reads one cache line. An entry is one word that is only ever compared and exchanged: there is no lock. Invariant:
//! of two rows that are inserted with the same tuple at the same time, at most one stays, because each looks again after it has claimed
//! its place, and whoever sees the other withdraws.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{layout::abi_struct, slot::scale};

/// Entries of a set.
pub const WAYS: usize = 7;

/// Value of `track_index`: one cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IndexSet {
    /// Tuples at home here that are in their second set.
    pub spilled: u64,
    /// Fingerprint in the upper half, row in the lower; 0 where nothing is.
    pub entries: [u64; WAYS],
}
abi_struct!(IndexSet: 64 { spilled: 0, entries: 8 });

/// Where a tuple may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its home set.
    pub home: u32,
    /// Its second set, another one unless there is only one.
    pub second: u32,
    /// Its fingerprint.
    pub fingerprint: u32,
}

impl Place {
    /// Of a tuple with `hash`, among `sets`.
    #[inline(always)]
    pub const fn of(hash: u64, sets: u32) -> Self {
        let home = scale((hash >> 32) as u32, sets);
        let fingerprint = hash as u32;
        let jump = scale(fingerprint.wrapping_mul(0x9e37_79b9), sets.wrapping_sub(1)).wrapping_add(1);
        let sum = home.wrapping_add(jump);
        let second = if sum >= sets { sum.wrapping_sub(sets) } else { sum };
        Self {
            home,
            second,
            fingerprint,
        }
    }

    /// The entry of `row`.
    #[inline(always)]
    pub const fn entry(&self, row: u32) -> u64 {
        (self.fingerprint as u64) << 32 | row as u64
    }
}

/// The sets, wherever they are: an array in the kernel, a vector in a test.
pub trait Sets {
    /// A set.
    type Set: Copy;

    /// The set with this number.
    fn set(&self, number: u32) -> Option<Self::Set>;
    /// The entry at `way`.
    fn entry(&self, set: Self::Set, way: usize) -> u64;
    /// Makes the entry at `way` `new` if it is `old`; returns whether it did.
    fn replace(&self, set: Self::Set, way: usize, old: u64, new: u64) -> bool;
    /// [`IndexSet::spilled`].
    fn spilled(&self, set: Self::Set) -> u64;
    /// Adds to it, two's complement.
    fn add_spilled(&self, set: Self::Set, delta: u64);
}

/// Why a row was not inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotInserted {
    /// Another row has the tuple.
    Taken,
    /// Both sets are full.
    Full,
}

/// The row of a tuple; `is` says whether a row has it.
#[inline(always)]
pub fn find<S: Sets>(sets: &S, place: Place, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
    let home = sets.set(place.home)?;
    if let Some(row) = find_in(sets, home, place.fingerprint, &mut is) {
        return Some(row);
    }
    if sets.spilled(home) == 0 {
        return None;
    }
    find_in(sets, sets.set(place.second)?, place.fingerprint, &mut is)
}

#[inline(always)]
fn find_in<S: Sets>(
    sets: &S,
    set: S::Set,
    fingerprint: u32,
    is: &mut impl FnMut(u32) -> bool,
) -> Option<u32> {
    for way in 0..WAYS {
        let entry = sets.entry(set, way);
        if (entry >> 32) as u32 == fingerprint && entry as u32 != 0 && is(entry as u32) {
            return Some(entry as u32);
        }
    }
    None
}

/// Inserts `row`, whose tuple is at `place`; `is` says whether another row has the same one.
#[inline(always)]
pub fn insert<S: Sets>(
    sets: &S,
    place: Place,
    row: u32,
    mut is: impl FnMut(u32) -> bool,
) -> Result<(), NotInserted> {
    let (Some(home), Some(second)) = (sets.set(place.home), sets.set(place.second)) else {
        return Err(NotInserted::Full);
    };
    let mut other = |found: u32| found != row && is(found);
    if find_in(sets, home, place.fingerprint, &mut other).is_some()
        || find_in(sets, second, place.fingerprint, &mut other).is_some()
    {
        return Err(NotInserted::Taken);
    }
    let entry = place.entry(row);
    if !claim(sets, home, entry) {
        // Told first, so that whoever looks at home goes on to the second set.
        sets.add_spilled(home, 1);
        if place.home == place.second || !claim(sets, second, entry) {
            sets.add_spilled(home, u64::MAX);
            return Err(NotInserted::Full);
        }
    }
    if find_in(sets, home, place.fingerprint, &mut other).is_some()
        || find_in(sets, second, place.fingerprint, &mut other).is_some()
    {
        remove(sets, place, row);
        return Err(NotInserted::Taken);
    }
    Ok(())
}

#[inline(always)]
fn claim<S: Sets>(sets: &S, set: S::Set, entry: u64) -> bool {
    for way in 0..WAYS {
        if sets.entry(set, way) == 0 && sets.replace(set, way, 0, entry) {
            return true;
        }
    }
    false
}

/// Removes `row` from `place`; nothing if it is not there.
#[inline(always)]
pub fn remove<S: Sets>(sets: &S, place: Place, row: u32) {
    let entry = place.entry(row);
    let Some(home) = sets.set(place.home) else { return };
    if clear(sets, home, entry) {
        return;
    }
    if let Some(second) = sets.set(place.second)
        && clear(sets, second, entry)
    {
        sets.add_spilled(home, u64::MAX);
    }
}

#[inline(always)]
fn clear<S: Sets>(sets: &S, set: S::Set, entry: u64) -> bool {
    for way in 0..WAYS {
        if sets.entry(set, way) == entry && sets.replace(set, way, entry, 0) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests;
