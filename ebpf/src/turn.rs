// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Whether this program counts an event of its tracepoint: of two that an upgrade has attached there, exactly one does.
//!
//! Called by `meter`. Invariant: but for the moments of a switch, the answer is one comparison.

use nodemesh_abi::{
    Settings,
    turn::{Counting, SWITCHING, Turn},
};

use crate::{maps, record::Record};

/// Whether this program counts an event of a socket.
#[inline(always)]
pub fn is_ours(settings: &Settings, counting: Counting, record: Record) -> bool {
    let (own, epoch) = (maps::EPOCH.load(), settings.epoch);
    if epoch == own || epoch & SWITCHING == 0 {
        return epoch == own;
    }
    // SAFETY: a live record.
    taken(counting as u32, unsafe { (*record.0).cookie }, epoch) != 0
}

/// The same while a switch is announced: 1 or 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn taken(counting: u32, cookie: u64, epoch: u32) -> u32 {
    let Some(turn) = maps::turns.get_ptr_mut(counting) else {
        return 0;
    };
    // SAFETY: a value of this CPU, which the tracepoint's programs hold for the time of an event.
    unsafe {
        let note: Turn = *turn;
        let taken = note.take(cookie, maps::EPOCH.load(), epoch);
        *turn = taken.note;
        u32::from(taken.counts)
    }
}
