// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! HTTP/1.x in plaintext: where requests begin, what the head of a response says, tokens and ends of streams.
//!
//! Invariant: a packet that shows nothing new costs a few short copies.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_loop};
use nodemesh_abi::{
    meter::{DownFacts, MeterFlags},
    parse::{
        events::{self, Events},
        head::{self, Head},
        request::{self, START, Start},
    },
};

use super::{
    Shown,
    segment::{Segment, WINDOW, copy, load},
};
use crate::record::Record;

/// Most windows of a response's head.
const HEAD_WINDOWS: u32 = 256;

/// The end of a response in chunks, alone in its packet.
const LAST_CHUNK: [u8; 5] = *b"0\r\n\r\n";

/// A packet in request direction.
#[inline(always)]
pub fn request(segment: &Segment, shown: &mut Shown) {
    if let Start::Http1(facts) = request::recognise(&segment.start::<START>()) {
        shown.up = facts;
    }
}

/// A packet in response direction.
#[inline(never)]
pub fn response(segment: &Segment, record: Record, shown: &mut Shown) {
    let mut at = segment.at;
    let start: [u8; 16] = segment.start();
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = start;
    if let Some(status) = head::status(&[a, b, c, d, e, f, g, h, i, j, k, l]) {
        at = read_head(segment, at, status, record, shown);
        // An informational response and the final one may come together.
        if shown.down == DownFacts::INFORMATIONAL && at < segment.end {
            let Some(status) = load(segment.skb, at).and_then(|line| head::status(&line)) else {
                return;
            };
            at = read_head(segment, at, status, record, shown);
        }
        if !shown.down.has(DownFacts::HEADERS) {
            return;
        }
    }
    body(segment, at, &start, record, shown);
}

/// Reads the head at `at` and returns where it ends.
#[inline(always)]
fn read_head(segment: &Segment, at: u32, status: u16, record: Record, shown: &mut Shown) -> u32 {
    let mut reader = HeadReader {
        skb: segment.skb,
        at,
        end: segment.end,
        head: Head::new(record.zero()),
    };
    // SAFETY: the callback takes what is passed as its context.
    unsafe { bpf_loop(HEAD_WINDOWS, head_window as *mut _, (&raw mut reader).cast(), 0) };
    let (facts, length) = reader.head.says(status);
    let end = at + reader.head.bytes;
    shown.down = facts;
    shown.status = (status / 100) as u8;
    shown.response_end = segment.seq.wrapping_add(end - segment.at).wrapping_add(length);
    end
}

struct HeadReader {
    skb: *mut __sk_buff,
    at: u32,
    end: u32,
    head: Head,
}

unsafe extern "C" fn head_window(_index: u32, reader: *mut HeadReader) -> i64 {
    // SAFETY: `bpf_loop` passes the context of `read_head`.
    let reader = unsafe { &mut *reader };
    let mut window = [0; WINDOW];
    let length = copy(reader.skb, reader.at, reader.end, &mut window);
    for (index, byte) in window.iter().enumerate() {
        if index >= length as usize || reader.head.is_complete() {
            break;
        }
        reader.head.byte(*byte);
    }
    reader.at += WINDOW as u32;
    i64::from(length == 0 || reader.head.is_complete())
}

/// The part of the body that begins at `at`, in a packet that begins with `start`.
#[inline(always)]
fn body(segment: &Segment, at: u32, start: &[u8; 16], record: Record, shown: &mut Shown) {
    // SAFETY: a live record; volatile because other programs write it.
    let (flags, pending, token_ns) = unsafe {
        let meter = &raw const (*record.0).meter;
        (
            (&raw const (*meter).flags).read_volatile(),
            (&raw const (*meter).pending_down).read_volatile(),
            (&raw const (*meter).exchange.first_token_ns).read_volatile(),
        )
    };
    let head = shown.down;
    // Of this response as far as it is known: from its head in this packet, in one that the application has not reached, or before.
    let (length, events) = if head.has(DownFacts::HEADERS) {
        (head.has(DownFacts::LENGTH), head.has(DownFacts::EVENTS))
    } else if pending & DownFacts::HEADERS.0 != 0 {
        (
            pending & DownFacts::LENGTH.0 != 0,
            pending & DownFacts::EVENTS.0 != 0,
        )
    } else {
        (flags & MeterFlags::LENGTH != 0, flags & MeterFlags::EVENTS != 0)
    };
    if length {
        return;
    }
    let left = segment.end.saturating_sub(at);
    let tail = events::DONE.len() as u32;
    if left >= tail {
        let last = load(segment.skb, segment.end - tail).map_or(DownFacts(0), |bytes| events::tail(&bytes));
        shown.down = shown.down.with(last);
    } else if left >= LAST_CHUNK.len() as u32 {
        let last = load(segment.skb, segment.end - LAST_CHUNK.len() as u32);
        shown.down = shown.down.with_if(last == Some(LAST_CHUNK), DownFacts::END);
    }
    if left == 0 || !events {
        return;
    }
    let token_seen = !head.has(DownFacts::HEADERS) && (token_ns != 0 || pending & DownFacts::TOKEN.0 != 0);
    if token_seen && events::begins_with_data(start) {
        shown.down = shown.down.with(DownFacts::DATA);
        return;
    }
    let wanted = if token_seen {
        DownFacts::DATA
    } else {
        DownFacts::DATA.with(DownFacts::TOKEN)
    };
    let mut reader = EventReader {
        skb: segment.skb,
        at,
        end: segment.end,
        wanted,
        events: Events::new(record.zero()),
    };
    // SAFETY: as in `read_head`.
    unsafe {
        bpf_loop(
            events::SEARCHED / WINDOW as u32,
            event_window as *mut _,
            (&raw mut reader).cast(),
            0,
        )
    };
    shown.down = shown.down.with(reader.events.facts());
}

struct EventReader {
    skb: *mut __sk_buff,
    at: u32,
    end: u32,
    wanted: DownFacts,
    events: Events,
}

unsafe extern "C" fn event_window(_index: u32, reader: *mut EventReader) -> i64 {
    // SAFETY: `bpf_loop` passes the context of `body`.
    let reader = unsafe { &mut *reader };
    let mut window = [0; WINDOW];
    let length = copy(reader.skb, reader.at, reader.end, &mut window);
    for (index, byte) in window.iter().enumerate() {
        if index >= length as usize || reader.events.facts().has(reader.wanted) {
            break;
        }
        reader.events.byte(*byte);
    }
    reader.at += WINDOW as u32;
    i64::from(length == 0 || reader.events.facts().has(reader.wanted))
}
