// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Opens a flow: takes a row, finds a source port that nobody uses toward the backend, and puts both tuples into the index.
//!
//! Invariants: the tuple of the replies is put in first, and the index refuses one that is there, so a port is never used twice toward one
//! backend; when the table is full, only a flow that is not established makes room.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use nodemesh_abi::{
    BackendFlags, FlowEvent, FlowMode, FlowSettings, Ip16, Port, Track,
    flow::{
        TrackMode,
        headers::Kind,
        index::{self, NotInserted, Place},
        port::{TRIES, candidate},
        state::Life,
        track::ticks,
    },
};

use super::{
    admit, count, end,
    find::{self, KernelSets},
    scratch::Scratch,
};
use crate::{
    atomic::{add, exchange, fetch_add},
    maps,
    opaque::zero,
};

/// The bit of what [`open`] gives that says "no flow": the rest is the number of a [`FlowEvent`].
pub const FAILED: u32 = 1 << 30;

/// Ports that a client's own flows may be moved to where two of them would meet at a backend.
const CLIENT_PORTS: (u16, u16) = (1_024, u16::MAX);

/// Which of a row's tuples.
const REPLY: u32 = 0;
const FORWARD: u32 = 1;

/// What became of an insertion.
const INSERTED: u32 = 0;
const TAKEN: u32 = 1;
const FULL: u32 = 2;

/// Opens the flow of the packet in the scratch of `hook`, which is admitted. Returns its row; or [`FAILED`] and why.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn open(hook: u32, now: u64) -> u32 {
    let (Some(scratch), Some(settings)) = (Scratch::of(hook), maps::flow_settings.get(0)) else {
        return FAILED | FlowEvent::TableFull as u32;
    };
    // SAFETY: the scratch of this hook, on this CPU.
    let scratch = unsafe { &mut *scratch };
    let opened = try_open(scratch, settings, now);
    if opened & FAILED != 0 {
        admit::give_back(scratch);
    }
    let event = opened & !FAILED;
    let had_place = opened & FAILED == 0 || event != FlowEvent::TableFull as u32;
    count::source(scratch.headers.tuple.src, had_place);
    opened
}

#[inline(always)]
fn try_open(scratch: &mut Scratch, settings: &FlowSettings, now: u64) -> u32 {
    if scratch.backend.is_v4() != scratch.headers.tuple.src.is_v4() {
        return FAILED | FlowEvent::Family as u32;
    }
    let (mode, nat) = source(scratch, settings);
    if nat.is_unspecified() {
        return FAILED | FlowEvent::NoNatAddress as u32;
    }
    let row = take_row(settings, now);
    let Some(track) = maps::tracks.get_ptr_mut(row) else {
        return FAILED | FlowEvent::TableFull as u32;
    };
    if row == 0 {
        return FAILED | FlowEvent::TableFull as u32;
    }
    fill(track, scratch, mode, nat, now);
    let ports = if mode as u8 == TrackMode::Nat as u8 {
        (settings.nat_first, settings.nat_last)
    } else {
        CLIENT_PORTS
    };
    let outcome = claim_port(row, track, ports, mode);
    if outcome != INSERTED {
        end::discard(row);
        let event = if outcome == FULL {
            FlowEvent::TableFull
        } else {
            FlowEvent::NoPort
        };
        return FAILED | event as u32;
    }
    let mut outcome = insert(row, FORWARD);
    if outcome == FULL && end::make_room(row, ticks(now)) != 0 {
        outcome = insert(row, FORWARD);
    }
    if outcome != INSERTED {
        // Its sets are full of established flows; or another CPU has just opened the same one, and this packet is sent again.
        withdraw(row);
        end::discard(row);
        return FAILED | FlowEvent::TableFull as u32;
    }
    if let Some(state) = maps::track_state.get_ptr_mut(0) {
        // SAFETY: a map value.
        unsafe { add(&raw mut (*state).entries, 1) };
    }
    count::flow(FlowEvent::Opened);
    // SAFETY: a map value that no other CPU changes but for its counts.
    scratch.track = unsafe { *track };
    row
}

/// What is done to the flow's packets, and the source that the backend sees.
#[inline(always)]
fn source(scratch: &Scratch, settings: &FlowSettings) -> (TrackMode, Ip16) {
    let client = scratch.headers.tuple.src;
    if scratch.direct != 0 {
        return (TrackMode::Direct, client);
    }
    let returns = scratch.backend_flags & u32::from(BackendFlags::RETURNS) != 0;
    // A backend that dials its own service would not take a packet from itself.
    if scratch.backend != client && (returns || scratch.service.mode == FlowMode::Keep as u8) {
        return (TrackMode::Keep, client);
    }
    let nat = if client.is_v4() {
        settings.nat4
    } else {
        settings.nat6
    };
    (TrackMode::Nat, nat)
}

/// A row that belongs to nobody; 0 if there is none.
#[inline(always)]
fn take_row(settings: &FlowSettings, now: u64) -> u32 {
    if let Ok(Some(row)) = maps::track_free.pop() {
        return row;
    }
    if let Some(state) = maps::track_state.get_ptr_mut(0) {
        // SAFETY: a map value; volatile because other CPUs write it.
        let fresh = unsafe { (&raw const (*state).fresh).read_volatile() };
        if fresh < u64::from(settings.rows) {
            // SAFETY: as above.
            let row = unsafe { fetch_add(&raw mut (*state).fresh, 1) } + 1;
            if row <= u64::from(settings.rows) {
                return row as u32;
            }
        }
    }
    end::evict(ticks(now))
}

/// Makes a row that nobody else has the flow of the packet in the scratch.
#[inline(always)]
fn fill(track: *mut Track, scratch: &Scratch, mode: TrackMode, nat: Ip16, now: u64) {
    let headers = &scratch.headers;
    let (tuple, is_direct) = (&headers.tuple, mode as u8 == TrackMode::Direct as u8);
    let (backend, backend_port) = if is_direct {
        (tuple.dst, tuple.dst_port)
    } else {
        (scratch.backend, scratch.backend_port)
    };
    let life = if headers.kind as u8 == Kind::Datagram as u8 {
        Life::datagram(is_direct)
    } else {
        Life::begin(headers.flags, is_direct)
    };
    // SAFETY: a map value that is in nobody's hands: readers notice by its sequence that it changes.
    unsafe {
        let seq = (&raw const (*track).seq).read_volatile() | 1;
        exchange(&raw mut (*track).seq, seq);
        (*track).client = tuple.src;
        (*track).service = tuple.dst;
        (*track).backend = backend;
        (*track).nat = nat;
        (*track).client_port = tuple.src_port;
        (*track).service_port = tuple.dst_port;
        (*track).backend_port = backend_port;
        (*track).nat_port = tuple.src_port;
        (*track).protocol = tuple.protocol as u8;
        (*track).mode = mode as u8;
        (*track).counted = scratch.counted as u8;
        (*track).pad = 0;
        (*track).backend_id = scratch.backend_id;
        (*track).service_id = scratch.service.service.id;
        (*track).identity = scratch.identity;
        (*track).opened = ticks(now);
        (*track).seen = ticks(now);
        (*track).packets_up = 0;
        (*track).packets_down = 0;
        (*track).bytes_up = 0;
        (*track).bytes_down = 0;
        (&raw mut (*track).life).write_volatile(life.0);
        exchange(&raw mut (*track).seq, seq.wrapping_add(1));
    }
}

/// Gives the row a source port toward its backend that no other flow has.
#[inline(always)]
fn claim_port(row: u32, track: *mut Track, (first, last): (u16, u16), mode: TrackMode) -> u32 {
    // SAFETY: a map value that only this program changes; the helper takes no pointer.
    let (wished, draw) = unsafe { ((*track).client_port, bpf_get_prandom_u32()) };
    let may_use = mode as u8 != TrackMode::Nat as u8 || wished.get() >= first && wished.get() <= last;
    // Another port leads to other sets too.
    let mut outcome = if may_use { insert(row, REPLY) } else { TAKEN };
    if mode as u8 == TrackMode::Direct as u8 {
        return outcome;
    }
    // Unknown to the verifier, which else walks through each round on its own.
    let mut attempt = zero() as u32;
    for _ in 0..TRIES {
        if outcome == INSERTED {
            return outcome;
        }
        let port = candidate(Port::new(0), first, last, draw, attempt);
        // SAFETY: as above; the row is in the index under no tuple of this port.
        unsafe { (&raw mut (*track).nat_port).write_volatile(port) };
        outcome = insert(row, REPLY);
        // A port that only rests is better than none.
        if outcome == TAKEN && attempt >= TRIES / 2 && recycle(row) != 0 {
            outcome = insert(row, REPLY);
        }
        attempt = attempt.wrapping_add(1);
    }
    outcome
}

/// Ends the flow that has the port which `row` wishes, if it is over and only rests. 1 if it did.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn recycle(row: u32) -> u32 {
    let (Some(track), Some(settings)) = (maps::tracks.get_ptr(row), maps::flow_settings.get(0)) else {
        return 0;
    };
    // SAFETY: a map value that only this program changes.
    let tuple = unsafe { (*track).reply() };
    let place = Place::of(tuple.hash(settings.seed), settings.sets);
    let Some(other) = index::find(&KernelSets, place, |other| find::has(other, &tuple)) else {
        return 0;
    };
    end::forget(other)
}

/// Puts one tuple of `row` into the index.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn insert(row: u32, which: u32) -> u32 {
    let (Some(track), Some(settings)) = (maps::tracks.get_ptr(row), maps::flow_settings.get(0)) else {
        return FULL;
    };
    // SAFETY: a map value that only this program changes.
    let track = unsafe { &*track };
    let tuple = if which == FORWARD {
        track.forward()
    } else {
        track.reply()
    };
    let place = Place::of(tuple.hash(settings.seed), settings.sets);
    match index::insert(&KernelSets, place, row, |other| find::has(other, &tuple)) {
        Ok(()) => INSERTED,
        Err(NotInserted::Taken) => TAKEN,
        Err(NotInserted::Full) => FULL,
    }
}

/// Takes the tuple of the replies out again.
#[inline(always)]
fn withdraw(row: u32) {
    end::remove(row, 0);
}
