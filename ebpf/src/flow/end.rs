// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Ends flows: those whose time is over, those that are closed, and under pressure those that nobody has answered.
//!
//! Invariants: who takes the state of a row to "free" ends the flow, and one does; an established flow whose time is not over is ended by
//! nobody.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use nodemesh_abi::{
    ConnectFailure, FlowEvent, FlowSettings, Track,
    flow::{
        FlowState, TrackMode,
        index::{self, Place, Sets as _, WAYS},
        state::Life,
        track::{is_expired, ticks},
    },
    limits::SWEEP_ROWS,
    slot::scale,
};

use super::{count, find::KernelSets};
use crate::{
    atomic::{add, exchange, fetch_add, replace_if},
    health::{self, News},
    limit, maps,
    opaque::{unknown, zero},
    place::now,
    stats::{self, Ending},
};

/// Rows that are looked at for one that may make room: with a quarter of the table in such flows, one in 10^4 searches finds none.
const SAMPLE: u32 = 32;

/// The tuples of a row, as [`remove`] names them.
const REPLY: u32 = 0;
const FORWARD: u32 = 1;

/// Ends the flow of a row that the client replaces by a new one.
#[inline(always)]
pub fn reopen(row: u32) {
    if finish(row, FlowEvent::Reopened as u32, u32::MAX) != 0 {
        discard(row);
    }
}

/// Ends the flow of a row that rests after its end. 1 if it did.
#[inline(always)]
pub fn forget(row: u32) -> u32 {
    let Some(track) = maps::tracks.get_ptr(row) else {
        return 0;
    };
    // SAFETY: a map value; volatile because other CPUs write it.
    let life = unsafe { (&raw const (*track).life).read_volatile() };
    if !Life(life).state().is_ended() || finish(row, FlowEvent::Closed as u32, life) == 0 {
        return 0;
    }
    discard(row);
    1
}

/// Gives back a row that is in nobody's hands.
#[inline(always)]
pub fn discard(row: u32) {
    if let Some(track) = maps::tracks.get_ptr_mut(row) {
        // SAFETY: a map value.
        unsafe { (&raw mut (*track).life).write_volatile(FlowState::Free as u32) };
    }
    // There is room for each row.
    let _ = maps::track_free.push(row, 0);
}

/// Looks at the next [`SWEEP_ROWS`] rows and ends the flows whose time is over.
#[inline(always)]
pub fn sweep() {
    let (Some(state), Some(settings)) = (maps::track_state.get_ptr_mut(0), maps::flow_settings.get(0)) else {
        return;
    };
    if settings.rows == 0 {
        return;
    }
    // SAFETY: a map value.
    let first = unsafe { fetch_add(&raw mut (*state).swept, u64::from(SWEEP_ROWS)) } as u32;
    let (now, mut at) = (ticks(now()), first.wrapping_add(zero() as u32));
    for _ in 0..SWEEP_ROWS {
        expire(1 + at % settings.rows, now);
        at = at.wrapping_add(1);
    }
}

/// Ends the flow of `row` if its time is over.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn expire(row: u32, now: u32) -> u32 {
    let (Some(track), Some(settings)) = (maps::tracks.get_ptr(row), maps::flow_settings.get(0)) else {
        return 0;
    };
    // SAFETY: a map value; volatile because other CPUs write it.
    let (life, seen) = unsafe {
        (
            (&raw const (*track).life).read_volatile(),
            (&raw const (*track).seen).read_volatile(),
        )
    };
    if life as u8 == FlowState::Free as u8 || !is_over(settings, life, seen, now) {
        return 0;
    }
    let state = Life(life).state();
    let event = if state.is_ended() {
        FlowEvent::Closed
    } else {
        FlowEvent::Expired
    };
    if finish(row, event as u32, life) != 0 {
        discard(row);
    }
    0
}

#[inline(always)]
fn is_over(settings: &FlowSettings, life: u32, seen: u32, now: u32) -> bool {
    let state = unknown(u64::from(life as u8)) as usize;
    if state >= FlowState::COUNT {
        return false;
    }
    is_expired(seen, now, settings.timeouts_s[state])
}

/// The row of a flow that made room, which belongs to the caller now; 0 if none was found: the one that was quiet the longest of some
/// that are drawn and not established.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn evict(now: u32) -> u32 {
    let Some(settings) = maps::flow_settings.get(0) else {
        return 0;
    };
    let mut best = zero() as u32;
    let (mut best_idle, mut best_life) = (zero(), zero() as u32);
    for _ in 0..SAMPLE {
        // SAFETY: the helper takes no pointer.
        let row = 1 + scale(unsafe { bpf_get_prandom_u32() }, settings.rows);
        let Some(track) = maps::tracks.get_ptr(row) else {
            return 0;
        };
        // SAFETY: a map value; volatile because other CPUs write it.
        let (life, seen) = unsafe {
            (
                (&raw const (*track).life).read_volatile(),
                (&raw const (*track).seen).read_volatile(),
            )
        };
        let idle = now.wrapping_sub(seen).cast_signed();
        if may_go(settings, life, seen, now) && i64::from(idle) + 1 > best_idle.cast_signed() {
            (best, best_life) = (row, life);
            best_idle = (i64::from(idle) + 1).cast_unsigned();
        }
    }
    if best != 0 && finish(best, FlowEvent::Evicted as u32, best_life) != 0 {
        return best;
    }
    0
}

/// Makes room in the sets of the tuple that the client of `row` sends, where there is a flow that may go; 1 if there was.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn make_room(row: u32, now: u32) -> u32 {
    let (Some(track), Some(settings)) = (maps::tracks.get_ptr(row), maps::flow_settings.get(0)) else {
        return 0;
    };
    // SAFETY: a map value that only the caller changes.
    let hash = unsafe { (*track).forward() }.hash(settings.seed);
    let place = Place::of(hash, settings.sets);
    for way in 0..2 * WAYS {
        let number = if way < WAYS { place.home } else { place.second };
        let Some(set) = KernelSets.set(number) else {
            return 0;
        };
        let found = KernelSets.entry(set, way % WAYS) as u32;
        if found == row || found == 0 {
            continue;
        }
        let Some(other) = maps::tracks.get_ptr(found) else {
            continue;
        };
        // SAFETY: a map value; volatile because other CPUs write it.
        let (life, seen) = unsafe {
            (
                (&raw const (*other).life).read_volatile(),
                (&raw const (*other).seen).read_volatile(),
            )
        };
        if may_go(settings, life, seen, now) && finish(found, FlowEvent::Evicted as u32, life) != 0 {
            discard(found);
            return 1;
        }
    }
    0
}

/// Whether a flow may make room for another.
#[inline(always)]
fn may_go(settings: &FlowSettings, life: u32, seen: u32, now: u32) -> bool {
    Life(life).state().may_be_evicted()
        || life as u8 != FlowState::Free as u8 && is_over(settings, life, seen, now)
}

/// Ends the flow of `row` if its state is `life` still, whatever it is for `u32::MAX`, and says whether this call did: the row belongs to
/// the caller then.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn finish(row: u32, event: u32, life: u32) -> u32 {
    let Some(track) = maps::tracks.get_ptr_mut(row) else {
        return 0;
    };
    // SAFETY: a map value.
    unsafe {
        let life = if life == u32::MAX {
            (&raw const (*track).life).read_volatile()
        } else {
            life
        };
        if life as u8 == FlowState::Free as u8 || !replace_if(&raw mut (*track).life, life, 0) {
            return 0;
        }
        let seq = (&raw const (*track).seq).read_volatile() | 1;
        exchange(&raw mut (*track).seq, seq);
        remove(row, REPLY);
        remove(row, FORWARD);
        if !Life(life).state().is_ended() {
            let silent = event == FlowEvent::Expired as u32;
            account(
                &*track,
                life,
                if silent { Reason::Silence } else { Reason::Other },
            );
        }
    }
    if let Some(state) = maps::track_state.get_ptr_mut(0) {
        // SAFETY: a map value.
        unsafe { add(&raw mut (*state).entries, u64::MAX) };
    }
    count::packet(event, 0);
    1
}

/// Why a flow ends for its backend.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The backend has reset it.
    Refused,
    /// Nothing has come for too long.
    Silence,
    /// Anything else.
    Other,
}

/// Gives back what a flow in the state of `life` held of its backend and of the service's limits. Called once per flow: when it ends, or
/// when its row is needed before that.
#[inline(always)]
pub fn account(track: &Track, life: u32, reason: Reason) {
    let state = Life(life).state();
    let timed_out = state as u8 == FlowState::SynSent as u8 && reason == Reason::Silence;
    let ending = if state.was_established() {
        Ending::Closed
    } else if timed_out {
        Ending::Failed(ConnectFailure::Timeout)
    } else if reason == Reason::Refused {
        Ending::Failed(ConnectFailure::Refused)
    } else {
        Ending::Failed(ConnectFailure::Aborted)
    };
    stats::ended(track.backend_id, ending);
    if let Some(state) = stats::backend(track.backend_id) {
        // SAFETY: a map value.
        unsafe { add(&raw mut (*state).load, u64::MAX) };
    }
    if timed_out && track.mode != TrackMode::Direct as u8 {
        health::learn(track.backend_id, News::NOT_CONNECTED);
    }
    let rules = maps::backends.get(track.backend_id).map_or(0, |row| row.rules);
    limit::requests(u32::from(track.counted), rules, track.identity, -1);
    limit::connection_ended(u32::from(track.counted), rules, track.identity);
}

/// Takes a tuple of `row` out of the index.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn remove(row: u32, which: u32) -> u32 {
    let (Some(track), Some(settings)) = (maps::tracks.get_ptr(row), maps::flow_settings.get(0)) else {
        return 0;
    };
    // SAFETY: a map value whose identity only the caller changes.
    let track = unsafe { &*track };
    let tuple = if which == FORWARD {
        track.forward()
    } else {
        track.reply()
    };
    index::remove(
        &KernelSets,
        Place::of(tuple.hash(settings.seed), settings.sets),
        row,
    );
    0
}
