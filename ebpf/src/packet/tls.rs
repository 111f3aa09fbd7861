// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! TLS: what the client's hello offers, where its application's data begins, and how large the server's last record is.
//!
//! Invariant: once the application's data has begun, no packet in request direction is looked at any more.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_loop};
use nodemesh_abi::{
    Wire,
    exchange::SMALL_BYTES,
    meter::{DownFacts, MeterFlags},
    parse::tls::{self, HEADER, Record as Meaning},
};

use super::{
    AppData, Shown,
    cursor::Cursor,
    segment::{Segment, load},
};
use crate::record::Record;

/// Most records of one packet that are looked at: more are no handshake.
const RECORDS: u32 = 16;
/// Most records of one packet of an answer: 64 KiB of the smallest ones that carry a token.
const ANSWER_RECORDS: u32 = 1_024;
/// Most extensions of a hello.
const EXTENSIONS: u32 = 48;
/// From the beginning of the record to the session id's length: two headers, version and random (RFC 8446, section 4.1.2).
const SESSION_ID: u32 = 5 + 4 + 2 + 32;

/// Reads ALPN in the client's hello, which begins the segment.
#[inline(always)]
pub fn hello(segment: &Segment, shown: &mut Shown) {
    let Some(at) = extensions(segment) else {
        return;
    };
    let mut reader = ExtensionReader {
        skb: segment.skb,
        at,
        offers_http2: false,
    };
    // SAFETY: the callback takes what is passed as its context.
    unsafe { bpf_loop(EXTENSIONS, extension as *mut _, (&raw mut reader).cast(), 0) };
    if reader.offers_http2 {
        shown.flags |= MeterFlags::OFFERS_HTTP2;
    }
}

/// Where the extensions begin.
#[inline(always)]
fn extensions(segment: &Segment) -> Option<u32> {
    let skb = segment.skb;
    let [session] = load::<1>(skb, segment.at + SESSION_ID)?;
    let suites_at = segment.at + SESSION_ID + 1 + u32::from(session);
    let suites = u32::from(u16::from_be_bytes(load(skb, suites_at)?));
    let compressions_at = suites_at + 2 + suites;
    let [compressions] = load::<1>(skb, compressions_at)?;
    Some(compressions_at + 1 + u32::from(compressions) + 2)
}

struct ExtensionReader {
    skb: *mut __sk_buff,
    at: u32,
    offers_http2: bool,
}

unsafe extern "C" fn extension(_index: u32, reader: *mut ExtensionReader) -> i64 {
    // SAFETY: `bpf_loop` passes the context of `hello`.
    let reader = unsafe { &mut *reader };
    let Some([a, b, c, d]) = load::<4>(reader.skb, reader.at) else {
        return 1;
    };
    if u16::from_be_bytes([a, b]) == tls::ALPN {
        // After the extension's header and the length of its list.
        let names = load::<12>(reader.skb, reader.at + 6).or_else(|| {
            load::<3>(reader.skb, reader.at + 6).map(|[x, y, z]| [x, y, z, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        });
        reader.offers_http2 = names.is_some_and(|names| tls::offers_http2(&names));
        return 1;
    }
    reader.at += 4 + u32::from(u16::from_be_bytes([c, d]));
    0
}

/// Walks the records of a packet in request direction.
#[inline(never)]
pub fn records(segment: &Segment, record: Record, in_order: bool, shown: &mut Shown) {
    if !in_order {
        shown.wire = Wire::Other;
        return;
    }
    // SAFETY: a live record; volatile because other programs write it.
    let flags = unsafe { (&raw const (*record.0).meter.flags).read_volatile() };
    let mut walk = Walk {
        cursor: Cursor::new(segment, record, true),
        flags: flags | shown.flags,
        app: AppData::Unseen,
        app_start: 0,
        other: false,
    };
    // SAFETY: the callback takes what is passed as its context.
    unsafe { bpf_loop(RECORDS, one as *mut _, (&raw mut walk).cast(), 0) };
    if walk.other {
        shown.wire = Wire::Other;
    }
    shown.flags |= walk.flags & MeterFlags::TLS12;
    shown.app = walk.app;
    shown.app_start = walk.app_start;
    if shown.flags & MeterFlags::TLS12 != 0 {
        // SAFETY: as above; only the packets of this direction set this flag, and `show` may have nothing else to tell.
        unsafe { (*record.0).meter.flags |= MeterFlags::TLS12 };
    }
}

/// Follows the records of a packet in response direction: the size of the last one is the size of the server's last write.
#[inline(never)]
pub fn answer(segment: &Segment, record: Record, in_order: bool, shown: &mut Shown) {
    // SAFETY: a live record; volatile because other programs write it.
    let flags = unsafe { (&raw const (*record.0).meter.flags).read_volatile() };
    if flags & (MeterFlags::UNFRAMED | MeterFlags::ADOPTED) != 0 {
        return;
    }
    if !in_order {
        // SAFETY: as above; only the packets of this direction set this flag.
        unsafe { (*record.0).meter.flags |= MeterFlags::UNFRAMED };
        return;
    }
    if flags & MeterFlags::OFFERS_HTTP2 == 0 && is_one_record(segment, record) {
        // SAFETY: as above; only the packets of this direction write the field.
        unsafe { (*record.0).meter.tail = 0 };
        return;
    }
    // SAFETY: as above; on TLS the field counts the records that were looked at, which only the packets of this direction do.
    let (wire, looked) = unsafe { ((*record.0).meter.wire, (*record.0).meter.last_stream) };
    let looks = wire == Wire::Tls as u8 && flags & MeterFlags::OFFERS_HTTP2 != 0;
    let mut walk = Answer {
        cursor: Cursor::new(segment, record, false),
        last: 0,
        kind: 0,
        looks: if looks {
            tls::records_before_answer(flags).saturating_sub(looked)
        } else {
            0
        },
        is_http2: false,
    };
    // SAFETY: the callback takes what is passed as its context.
    unsafe { bpf_loop(ANSWER_RECORDS, next as *mut _, (&raw mut walk).cast(), 0) };
    if looks {
        // SAFETY: as above.
        unsafe { (*record.0).meter.last_stream = tls::records_before_answer(flags) - walk.looks };
    }
    if walk.is_http2 {
        shown.wire = Wire::TlsHttp2;
        return;
    }
    let is_whole = walk.cursor.is_between() && (walk.kind == tls::APPLICATION || walk.kind == tls::ALERT);
    if is_whole && u32::from(walk.last) <= SMALL_BYTES {
        shown.down = DownFacts::RECORD;
        shown.tail = walk.last;
    } else {
        // SAFETY: as above; only the packets of this direction write the field.
        unsafe { (*record.0).meter.tail = 0 };
    }
}

/// Whether the segment is one record of the application, as most are, and too long to end a stream.
#[inline(always)]
fn is_one_record(segment: &Segment, record: Record) -> bool {
    // SAFETY: a live record; only the packets of this direction write these fields.
    let is_between = unsafe { (*record.0).meter.down_skip == 0 && (*record.0).meter.down_carried == 0 };
    let bytes = segment.end - segment.at;
    is_between
        && bytes > SMALL_BYTES
        && load::<5>(segment.skb, segment.at).is_some_and(|[kind, _, _, high, low]| {
            let length = u32::from(u16::from_be_bytes([high, low]));
            kind == tls::APPLICATION && length + tls::RECORD == bytes
        })
}

struct Answer {
    cursor: Cursor,
    last: u16,
    kind: u8,
    /// How many more records may be the settings of an HTTP/2 server.
    looks: u32,
    is_http2: bool,
}

unsafe extern "C" fn next(_index: u32, walk: *mut Answer) -> i64 {
    // SAFETY: `bpf_loop` passes the context of `answer`.
    let walk = unsafe { &mut *walk };
    let Some([kind, _, _, high, low]) = walk.cursor.header() else {
        return 1;
    };
    let length = u16::from_be_bytes([high, low]);
    walk.kind = kind;
    walk.last = length.saturating_add(tls::RECORD as u16);
    if walk.looks > 0 {
        walk.looks -= 1;
        walk.is_http2 |= tls::may_be_settings(walk.last);
    }
    // SAFETY: a field of a live record.
    unsafe { *walk.cursor.skip = u32::from(length) };
    0
}

struct Walk {
    cursor: Cursor,
    flags: u32,
    app: AppData,
    app_start: u32,
    other: bool,
}

unsafe extern "C" fn one(_index: u32, walk: *mut Walk) -> i64 {
    // SAFETY: `bpf_loop` passes the context of `records`.
    let walk = unsafe { &mut *walk };
    let Some(header) = walk.cursor.header::<HEADER>() else {
        return 1;
    };
    // The header includes the first byte of the content.
    let rest = u32::from(tls::length(&header)).saturating_sub(1);
    // SAFETY: a field of a live record.
    unsafe { *walk.cursor.skip = rest };
    match tls::record(&header, walk.flags) {
        Meaning::Handshake => return 0,
        Meaning::Tls12 => {
            walk.flags |= MeterFlags::TLS12;
            return 0;
        }
        Meaning::Application => {
            walk.app = AppData::Begins;
            walk.app_start = walk.cursor.seq.wrapping_sub(HEADER as u32);
        }
        Meaning::Finished => {
            walk.app = AppData::BeginsWithTickets;
            walk.app_start = walk.cursor.seq.wrapping_add(rest);
        }
        Meaning::Other => walk.other = true,
    }
    1
}
