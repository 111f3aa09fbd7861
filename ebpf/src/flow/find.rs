// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Finds the flow of a packet: the index in the kernel's array, and what a row's tuples are.
//!
//! Invariant: a row is copied before it is used, and used only if it was the same flow's before and after.

use nodemesh_abi::{
    Track,
    flow::{
        Direction, FlowState, IndexSet, Tuple,
        index::{self, Place, Sets},
    },
};

use super::scratch::Scratch;
use crate::{
    atomic::{add, replace_if_u64},
    maps,
};

/// The bit of what [`row`] gives that says "from the backend".
const REPLY: u32 = 1 << 31;

/// `track_index`.
pub struct KernelSets;

impl Sets for KernelSets {
    type Set = *mut IndexSet;

    #[inline(always)]
    fn set(&self, number: u32) -> Option<*mut IndexSet> {
        maps::track_index.get_ptr_mut(number)
    }

    #[inline(always)]
    fn entry(&self, set: *mut IndexSet, way: usize) -> u64 {
        // SAFETY: a map value, and `way` is below the number of ways; volatile because other CPUs write it.
        unsafe { (&raw const (*set).entries).cast::<u64>().add(way).read_volatile() }
    }

    #[inline(always)]
    fn replace(&self, set: *mut IndexSet, way: usize, old: u64, new: u64) -> bool {
        // SAFETY: as above.
        unsafe { replace_if_u64((&raw mut (*set).entries).cast::<u64>().add(way), old, new) }
    }

    #[inline(always)]
    fn spilled(&self, set: *mut IndexSet) -> u64 {
        // SAFETY: as above.
        unsafe { (&raw const (*set).spilled).read_volatile() }
    }

    #[inline(always)]
    fn add_spilled(&self, set: *mut IndexSet, delta: u64) {
        // SAFETY: as above.
        unsafe { add(&raw mut (*set).spilled, delta) };
    }
}

/// Row of the packet in the scratch of `hook`, with [`REPLY`] if the backend sent it; 0 if it belongs to no flow. `quoted` is 1 for an ICMP
/// error, whose tuple is that of a packet that went the other way. The row is copied to the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn row(hook: u32, quoted: u32) -> u32 {
    let (Some(scratch), Some(settings)) = (Scratch::of(hook), maps::flow_settings.get(0)) else {
        return 0;
    };
    // SAFETY: the scratch of this hook, on this CPU.
    let scratch = unsafe { &mut *scratch };
    let tuple = if quoted == 0 {
        scratch.headers.tuple
    } else {
        scratch.headers.tuple.reversed()
    };
    let place = Place::of(tuple.hash(settings.seed), settings.sets);
    let mut way = 0;
    let found = index::find(&KernelSets, place, |row| {
        match copy(row, &tuple, &mut scratch.track) {
            Some(direction) => {
                way = if direction as u8 == Direction::Reply as u8 {
                    REPLY
                } else {
                    0
                };
                true
            }
            None => false,
        }
    });
    match found {
        Some(row) => row | way,
        None => 0,
    }
}

/// Number of the row that was found.
#[inline(always)]
pub fn number(found: u32) -> u32 {
    found & !REPLY
}

/// Which way the packet goes that it was found for.
#[inline(always)]
pub fn direction(found: u32) -> Direction {
    if found & REPLY == 0 {
        Direction::Forward
    } else {
        Direction::Reply
    }
}

/// Copies a row to `to` if `tuple` is one of its own, and says which.
#[inline(always)]
fn copy(row: u32, tuple: &Tuple, to: &mut Track) -> Option<Direction> {
    let track = maps::tracks.get_ptr(row)?;
    let direction = side(track, tuple)?;
    // SAFETY: a map value. Volatile, so that the row is read between the two readings of its sequence.
    unsafe {
        let before = (&raw const (*track).seq).read_volatile();
        *to = track.read_volatile();
        let after = (&raw const (*track).seq).read_volatile();
        let is_live = to.life as u8 != FlowState::Free as u8;
        if before != after || before & 1 != 0 || !is_live {
            return None;
        }
    }
    side(to, tuple).filter(|again| *again as u8 == direction as u8)
}

/// Which of a row's tuples this is.
#[inline(always)]
fn side(track: *const Track, tuple: &Tuple) -> Option<Direction> {
    // SAFETY: a map value or a copy of one; a row that changes meanwhile is noticed by its sequence.
    let track = unsafe { &*track };
    if u32::from(track.protocol) != tuple.protocol {
        return None;
    }
    if track.client_port == tuple.src_port
        && track.service_port == tuple.dst_port
        && track.client == tuple.src
        && track.service == tuple.dst
    {
        return Some(Direction::Forward);
    }
    let is_reply = track.backend_port == tuple.src_port
        && track.nat_port == tuple.dst_port
        && track.backend == tuple.src
        && track.nat == tuple.dst;
    is_reply.then_some(Direction::Reply)
}

/// Whether `tuple` is one of a row's; for who inserts another row.
#[inline(always)]
pub fn has(row: u32, tuple: &Tuple) -> bool {
    maps::tracks
        .get_ptr(row)
        .is_some_and(|track| side(track, tuple).is_some())
}
