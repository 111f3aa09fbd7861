// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! HTTP/1.x in plaintext: where requests begin, what the head of a response says, tokens and ends of streams.
//!
//! Invariant: a packet that shows nothing new costs a few short copies.

use aya_ebpf::helpers::generated::bpf_loop;
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
    segment::{Bytes, Segment, WINDOW, WINDOW_BYTES, copy_words, load, load_words},
};
use crate::{opaque::unknown, record::Record};

/// Most windows of a response's head.
const HEAD_WINDOWS: u32 = 128;

/// Events of at most this many bytes may be heartbeats.
const SMALL: u8 = 96;
/// The end of a response in chunks, alone in its packet.
const LAST_CHUNK: [u8; 5] = *b"0\r\n\r\n";

/// A packet in request direction.
#[inline(always)]
pub fn request(segment: &Segment<impl Bytes>, shown: &mut Shown) {
    if let Start::Http1(facts) = request::recognise(&segment.start::<START>()) {
        shown.up = facts;
    }
}

/// A packet in response direction.
#[inline(never)]
pub fn response(segment: &Segment<impl Bytes>, record: Record, shown: &mut Shown) {
    let known = known(record);
    if known.has(DownFacts::TOKEN) && segment.end - segment.at > u32::from(SMALL) {
        // In the middle of a stream, and too large for a heartbeat: text, of which only the end is of interest.
        let last = tail(segment, segment.at);
        shown.down = last.with_if(last.0 != 0 || known.has(DownFacts::MARKER), DownFacts::DATA);
        return;
    }
    let mut at = segment.at;
    let start = segment.first_words();
    if let Some(status) = head::status(start.0, start.1) {
        at = read_head(segment, at, status, record, shown);
        // An informational response and the final one may come together.
        if shown.down == DownFacts::INFORMATIONAL && at < segment.end {
            let line = load_words(segment.skb, at).unwrap_or_default();
            let Some(status) = head::status(line.0, line.1) else {
                return;
            };
            at = read_head(segment, at, status, record, shown);
        }
        if !shown.down.has(DownFacts::HEADERS) {
            return;
        }
    }
    body(segment, at, start, known, record, shown);
}

/// Reads the head at `at` and returns where it ends.
#[inline(always)]
fn read_head<S: Bytes>(segment: &Segment<S>, at: u32, status: u16, record: Record, shown: &mut Shown) -> u32 {
    let mut reader = HeadReader {
        skb: segment.skb,
        at,
        end: segment.end,
        head: Head::new(record.zero()),
    };
    // SAFETY: the callback takes what is passed as its context.
    unsafe {
        bpf_loop(
            HEAD_WINDOWS,
            head_window::<S> as *mut _,
            (&raw mut reader).cast(),
            0,
        )
    };
    let (facts, length) = reader.head.says(status);
    let end = at + reader.head.length_so_far;
    shown.down = facts;
    shown.status = (status / 100) as u8;
    shown.response_end = segment.seq.wrapping_add(end - segment.at).wrapping_add(length);
    end
}

struct HeadReader<S> {
    skb: S,
    at: u32,
    end: u32,
    head: Head,
}

unsafe extern "C" fn head_window<S: Bytes>(_index: u32, reader: *mut HeadReader<S>) -> i64 {
    // SAFETY: `bpf_loop` passes the context of `read_head`.
    let reader = unsafe { &mut *reader };
    let mut words = [0; WINDOW];
    let mut left = copy_words(reader.skb, reader.at, reader.end, &mut words);
    let mut is_over = left == 0;
    for word in words {
        let (word, head) = (word.to_be(), &mut reader.head);
        if left < 8 || !head.skip(word) {
            // SAFETY: a head on the stack, all of it written.
            is_over |= unsafe { head_bytes(head, word, left) } != 0;
        }
        if is_over || left <= 8 {
            break;
        }
        left -= 8;
    }
    reader.at += WINDOW_BYTES;
    ends(is_over)
}

/// What the callback of a loop returns if that `is_over`: the verifier wants to see that it is 0 or 1.
#[inline(always)]
fn ends(is_over: bool) -> i64 {
    (unknown(u64::from(is_over)) & 1).cast_signed()
}

/// Reads bytes of a head, as [`Head::bytes`]; 1 if the head ends there. A global function, which the verifier walks through once, not
/// once per call and per thing known about it.
///
/// # Safety
/// `head` is one or null.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn head_bytes(head: *mut Head, word: u64, count: u32) -> u32 {
    // SAFETY: the caller's.
    let Some(head) = (unsafe { head.as_mut() }) else {
        return 1;
    };
    head.bytes(word, count);
    u32::from(head.is_complete())
}

/// The part of the body that begins at `at`, in a packet that begins with `start`.
#[inline(always)]
fn body(
    segment: &Segment<impl Bytes>,
    at: u32,
    start: (u64, u64),
    before: DownFacts,
    record: Record,
    shown: &mut Shown,
) {
    let known = if shown.down.has(DownFacts::HEADERS) {
        shown.down
    } else {
        before
    };
    if known.has(DownFacts::LENGTH) || at >= segment.end {
        return;
    }
    let mut is_data = false;
    if known.has(DownFacts::EVENTS) {
        let of_text = text(
            segment,
            at,
            start,
            known.has(DownFacts::TOKEN),
            record,
            &mut is_data,
        );
        shown.down = shown.down.with(of_text);
    }
    // After the text, because the verifier walks its loop once for each thing that is known before.
    let last = tail(segment, at);
    // An end that comes with text is told with it.
    shown.down = shown
        .down
        .with(last)
        .with_if(is_data && last.0 != 0, DownFacts::DATA);
}

/// What the end of a packet shows whose body begins at `at`.
#[inline(always)]
fn tail(segment: &Segment<impl Bytes>, at: u32) -> DownFacts {
    let left = segment.end - at;
    if left >= events::TAIL {
        let last = load_words(segment.skb, segment.end - events::TAIL);
        return last.map_or(DownFacts(0), |(first, second)| events::tail(first, second));
    }
    if left < LAST_CHUNK.len() as u32 {
        return DownFacts(0);
    }
    let last = load(segment.skb, segment.end - LAST_CHUNK.len() as u32);
    DownFacts(0).with_if(last == Some(LAST_CHUNK), DownFacts::END)
}

/// What is known of the present response before this packet: from its head in one that the application has not reached, or from
/// what it has. With `TOKEN` once its first token has come, and `MARKER` while one waits to be read.
#[inline(always)]
pub fn known(record: Record) -> DownFacts {
    // SAFETY: a live record; volatile because other programs write it.
    let (flags, pending, token_ns) = unsafe {
        let meter = &raw const (*record.0).meter;
        (
            (&raw const (*meter).flags).read_volatile(),
            (&raw const (*meter).pending_down).read_volatile(),
            (&raw const (*meter).exchange.first_token_ns).read_volatile(),
        )
    };
    if pending & DownFacts::HEADERS.0 != 0 {
        return DownFacts(pending);
    }
    DownFacts(pending)
        .with_if(flags & MeterFlags::LENGTH != 0, DownFacts::LENGTH)
        .with_if(flags & MeterFlags::EVENTS != 0, DownFacts::EVENTS)
        .with_if(token_ns != 0, DownFacts::TOKEN)
}

/// What a packet of a stream of events shows of its text, and whether it `is_data`.
#[inline(always)]
fn text<S: Bytes>(
    segment: &Segment<S>,
    at: u32,
    start: (u64, u64),
    token_seen: bool,
    record: Record,
    is_data: &mut bool,
) -> DownFacts {
    // SAFETY: as in `known`.
    let (down_seq, down_mark, pending) = unsafe {
        let meter = &raw const (*record.0).meter;
        (
            (&raw const (*meter).down_seq).read_volatile(),
            (&raw const (*meter).down_mark).read_volatile(),
            (&raw const (*meter).pending_down).read_volatile(),
        )
    };
    if token_seen && events::begins_with_data(start.0, start.1) {
        *is_data = true;
        return events::goes_on(true, pending, false);
    }
    let wanted = DownFacts::DATA.with_if(!token_seen, DownFacts::TOKEN);
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
            events::SEARCHED / WINDOW_BYTES,
            event_window::<S> as *mut _,
            (&raw mut reader).cast(),
            0,
        )
    };
    let found = reader.events.facts();
    *is_data = found.has(DownFacts::DATA);
    if token_seen {
        let unread = events::is_data_unread(down_seq, segment.seq, pending, down_mark);
        events::goes_on(*is_data, pending, unread)
    } else {
        found
    }
}

struct EventReader<S> {
    skb: S,
    at: u32,
    end: u32,
    wanted: DownFacts,
    events: Events,
}

unsafe extern "C" fn event_window<S: Bytes>(_index: u32, reader: *mut EventReader<S>) -> i64 {
    // SAFETY: `bpf_loop` passes the context of `text`.
    let reader = unsafe { &mut *reader };
    let mut words = [0; WINDOW];
    let mut left = copy_words(reader.skb, reader.at, reader.end, &mut words);
    let mut is_over = left == 0;
    for word in words {
        // SAFETY: what lies on the stack, all of it written.
        is_over |= unsafe { event_bytes(&raw mut reader.events, word.to_be(), left, reader.wanted.0) } != 0;
        if is_over || left <= 8 {
            break;
        }
        left -= 8;
    }
    reader.at += WINDOW_BYTES;
    ends(is_over)
}

/// Reads bytes of a stream of events, as [`Events::bytes`]; 1 if what is `wanted` was found. A global function as [`head_bytes`].
///
/// # Safety
/// `events` are some or null.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn event_bytes(events: *mut Events, word: u64, count: u32, wanted: u16) -> u32 {
    // SAFETY: the caller's.
    let Some(events) = (unsafe { events.as_mut() }) else {
        return 1;
    };
    events.bytes(word, count, DownFacts(wanted));
    u32::from(events.facts().has(DownFacts(wanted)))
}
