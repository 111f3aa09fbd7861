// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What a packet changes in its flow: state, time, counts. Called once it is certain that the packet goes on.

use nodemesh_abi::{
    FlowEvent, Track,
    flow::{Direction, FlowState, headers::Kind, state::Life, track::ticks},
};

use super::{
    count,
    end::{self, Reason},
    find,
    scratch::Scratch,
};
use crate::{
    atomic::{add, add_u32, replace_if},
    health::{self, News},
    maps,
    place::{coarse_now, now},
    stats,
};

/// Tries to change a state that the other direction changes too.
const TRIES: usize = 3;

/// Counts the packet in the scratch of `hook` on the row `found`, and takes the flow to its next state.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn seen(hook: u32, found: u32) -> u32 {
    let (Some(scratch), Some(track)) = (Scratch::of(hook), maps::tracks.get_ptr_mut(find::number(found)))
    else {
        return 0;
    };
    // SAFETY: the scratch of this hook, on this CPU.
    let headers = unsafe { &(*scratch).headers };
    let from_client = find::direction(found) as u8 == Direction::Forward as u8;
    if headers.kind as u8 == Kind::Error as u8 {
        // It is about the flow, not of it: who can forge one shall not keep the flow alive.
        count::packet(FlowEvent::Related as u32, headers.bytes);
        return 0;
    }
    let event = if from_client {
        FlowEvent::Forwarded
    } else {
        FlowEvent::Returned
    };
    count::packet(event as u32, headers.bytes);
    let seen = ticks(coarse_now());
    // SAFETY: a map value.
    unsafe {
        let (packets, bytes) = if from_client {
            (&raw mut (*track).packets_up, &raw mut (*track).bytes_up)
        } else {
            (&raw mut (*track).packets_down, &raw mut (*track).bytes_down)
        };
        add_u32(packets, 1);
        add(bytes, u64::from(headers.bytes));
        if (&raw const (*track).seen).read_volatile() != seen {
            (&raw mut (*track).seen).write_volatile(seen);
        }
        // The copy is as old as the lookup: nearly always the state still is what it says.
        let mut old = Life((*scratch).track.life);
        for _ in 0..TRIES {
            let next = if headers.kind as u8 == Kind::Segment as u8 {
                old.after_segment(from_client, headers.flags)
            } else {
                old.after_datagram(from_client)
            };
            if next == old || old.raw_state() == FlowState::Free as u8 {
                return 0;
            }
            if replace_if(&raw mut (*track).life, old.0, next.0) {
                changed(track, old, next, from_client);
                return 0;
            }
            old = Life((&raw const (*track).life).read_volatile());
        }
    }
    0
}

/// Tells the backend's counters and its health what a change of state means.
#[inline(always)]
fn changed(track: *const Track, old: Life, new: Life, from_client: bool) {
    let (was, is) = (old.raw_state(), new.raw_state());
    let was_opening = was == FlowState::SynSent as u8 || was == FlowState::SynReceived as u8;
    // SAFETY: a map value.
    let row = unsafe { &*track };
    if was_opening && is == FlowState::Established as u8 {
        let ns = u64::from(ticks(now()).wrapping_sub(row.opened)) << 20;
        stats::established(row.backend_id, ns);
        health::learn(row.backend_id, News::CONNECTED);
    }
    if new.state().is_ended() && !old.state().is_ended() {
        let refused = was_opening && !from_client;
        end::account(row, old.0, if refused { Reason::Refused } else { Reason::Other });
        if refused {
            health::learn(row.backend_id, News::NOT_CONNECTED);
        }
    }
}
