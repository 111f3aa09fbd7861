// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What a completed read of an end tells the peer: how far it has come, and whether it reads in a way that the shortcut serves. And
//! what the bytes that it returned had shown to the peer's program, since no packet shows them here.
//!
//! Called for each read, before the meter's byte event. Invariant: `read_seq` is written after the read has returned: while a read
//! waits inside TCP, nothing is handed to its socket.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use nodemesh_abi::{
    meter::DownFacts,
    shortcut::{End, EndFlags, FACTS, Fact, room},
};

use crate::{
    atomic,
    kernel_sock::KnownTcp,
    maps,
    meter::Way,
    opaque::unknown,
    packet::{self, Shown},
    record::Record,
    shortcut::progress,
};

/// Flag of `recv()`: do not wait. The kernel adds it where the file is non-blocking.
const MSG_DONTWAIT: i32 = 0x40;

/// A read of the socket returned `length` bytes.
#[inline(always)]
pub fn completed(record: Record, sk: *const c_void, length: u32, flags: i32) {
    // SAFETY: a live record.
    let Some(end) = maps::short_ends.get_ptr_mut(unsafe { (*record.0).cookie }) else {
        return;
    };
    // SAFETY: what the tracepoint passed.
    let Some(socket) = (unsafe { KnownTcp::of(sk) }) else {
        return;
    };
    // A read that waits, `MSG_WAITALL` among them: one of a socket in a map of sockets returns EAGAIN when it is woken for another reason
    // than data (`tcp_bpf_recvmsg()`, Linux 6.18): a signal, a reset, room for a writer.
    let waits = flags & MSG_DONTWAIT == 0 || socket.low_water() > 1 || socket.has_upper_protocol();
    let copied = socket.copied();
    // SAFETY: a map value; other CPUs read it.
    unsafe {
        if (*end).room == 0 {
            (&raw mut (*end).first).write_volatile(copied);
        } else {
            atomic::add(&raw mut (*end).read, u64::from(length));
        }
        (&raw mut (*end).read_seq).write_volatile(copied);
        let is_fresh = (&raw const (*end).flags).read_volatile() & EndFlags::FRESH != 0;
        if is_fresh {
            (&raw mut (*end).emptied).write_volatile(0);
        } else if socket.unread(copied) == 0 {
            (*end).emptied = (*end).emptied.saturating_add(1);
        }
        (&raw mut (*end).room).write_volatile(room(socket.receive_buffer()));
        let splices = progress(end).splices();
        let found = (EndFlags::WAITS * u32::from(waits)) | (EndFlags::SPLICES * u32::from(splices));
        if found != 0 {
            atomic::or(&raw mut (*end).flags, found);
        }
        // What it has read by now is written: something may be handed to it again.
        if is_fresh {
            atomic::fetch_and(&raw mut (*end).flags, !EndFlags::FRESH);
        }
    }
    tell(record, end, sk, length);
}

/// Tells the meter what was shown of the messages that the read returned, or a part of.
#[inline(always)]
fn tell(record: Record, end: *mut End, sk: *const c_void, length: u32) {
    // SAFETY: map values; other CPUs write them.
    let (up, position, waiting) = unsafe {
        let meter = &raw const (*record.0).meter;
        let up = Way::Received.is_up((*meter).vantage);
        let from = if up {
            &raw const (*meter).up_seq
        } else {
            &raw const (*meter).down_seq
        };
        let put = (&raw const (*end).put).read_volatile();
        (up, from.read_volatile(), put.wrapping_sub((*end).taken))
    };
    let to = position.wrapping_add(length);
    if waiting != 0 {
        let mut reading = Reading {
            record,
            end,
            sk,
            from: position,
            to,
            is_marked: 0,
        };
        // SAFETY: the callback takes what is passed as its context.
        unsafe { bpf_loop(FACTS as u32 + 1, next as *mut _, (&raw mut reading).cast(), 0) };
    }
    // SAFETY: a live record. Only packets write this field beside this, and they come after what was handed over.
    unsafe {
        let meter = &raw mut (*record.0).meter;
        let parsed = if up {
            &raw mut (*meter).up_parsed
        } else {
            &raw mut (*meter).down_parsed
        };
        if to.wrapping_sub(*parsed).cast_signed() > 0 {
            *parsed = to;
        }
    }
}

/// A read that ends at `to`, as the meter counts.
struct Reading {
    record: Record,
    end: *mut End,
    sk: *const c_void,
    /// Where it begins, and after what it begins with of heartbeats and end markers.
    from: u32,
    to: u32,
    /// 1 if it begins with one.
    is_marked: u32,
}

/// Tells of one message, if the read has reached it; 1 if there is nothing more to tell.
unsafe extern "C" fn next(_index: u32, reading: *mut Reading) -> i64 {
    // SAFETY: `bpf_loop` passes the context of `tell`.
    let reading = unsafe { &mut *reading };
    let (fact, is_last) = match take(reading) {
        Some(fact) => (as_read(fact, reading), 0),
        None if reading.is_marked == 0 || reading.from == reading.to => return 1,
        None => (data(reading), 1),
    };
    packet::show(reading.record, reading.sk, &Shown::of(&fact), fact.mark);
    is_last
}

/// The next message that the read has reached.
#[inline(always)]
fn take(reading: &mut Reading) -> Option<Fact> {
    // SAFETY: map values; `put` is written after the fact that it counts.
    unsafe {
        let end = reading.end;
        let taken = (*end).taken;
        if (&raw const (*end).put).read_volatile() == taken {
            return None;
        }
        let index = unknown(u64::from(taken)) as usize % FACTS;
        let fact: Fact = *(&raw const (*end).facts).cast::<Fact>().add(index);
        if reading.to.wrapping_sub(fact.start).cast_signed() <= 0 {
            return None;
        }
        (*end).taken = taken.wrapping_add(1);
        Some(fact)
    }
}

/// What the read holds after the markers that it begins with: data, as everything is that a stream goes on with.
#[inline(always)]
fn data(reading: &Reading) -> Fact {
    Fact {
        start: reading.from,
        mark: reading.to,
        facts: DownFacts::DATA.0,
        ..Fact::default()
    }
}

/// The fact as the parser of packets would tell it of bytes that are read. A heartbeat that comes after data in the same read is data.
#[inline(always)]
fn as_read(mut fact: Fact, reading: &mut Reading) -> Fact {
    let facts = DownFacts(fact.facts);
    if fact.is_up != 0 || !facts.has(DownFacts::MARKER) {
        return fact;
    }
    if fact.start == reading.from {
        reading.is_marked = 1;
        reading.from = fact.mark;
    } else {
        fact.facts = facts.0 & !DownFacts::MARKER.0 | DownFacts::DATA.0;
    }
    fact
}
