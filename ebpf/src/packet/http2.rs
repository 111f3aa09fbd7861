// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! HTTP/2 in plaintext: walks frames, and keeps an exchange for each stream in `streams`.
//!
//! Invariant: frames are only walked in order; a connection of which a packet was missed is no longer told apart.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use nodemesh_abi::{
    InternalError, Stream, StreamKey,
    parse::http2::{self, Frame, HEADER, Kind, PREFACE},
};

use super::{cursor::Cursor, now, segment::Segment};
use crate::{count::Subject, kernel_sock::KernelSock, maps, record::Record, stats};

/// Most frames of one packet: 64 KiB of the smallest ones that carry anything.
const FRAMES: u32 = 4_096;

/// The client's preface comes first.
#[inline(always)]
pub fn preface(record: Record) {
    // SAFETY: a live record; only the packets of this direction write the field.
    unsafe { (*record.0).meter.up_skip = PREFACE };
}

/// Walks the frames of a segment.
#[inline(never)]
pub fn frames(segment: &Segment, record: Record, tcp: *const c_void, up: bool) {
    let mut walk = Walk {
        cursor: Cursor::new(segment, record, up),
        record,
        tcp,
        // SAFETY: a live record; written before it is.
        cookie: unsafe { (*record.0).cookie },
        up,
    };
    // SAFETY: the callback takes what is passed as its context.
    unsafe { bpf_loop(FRAMES, one as *mut _, (&raw mut walk).cast(), 0) };
}

struct Walk {
    cursor: Cursor,
    record: Record,
    tcp: *const c_void,
    cookie: u64,
    up: bool,
}

unsafe extern "C" fn one(_index: u32, walk: *mut Walk) -> i64 {
    // SAFETY: `bpf_loop` passes the context of `frames`.
    let walk = unsafe { &mut *walk };
    let Some(header) = walk.cursor.header::<HEADER>() else {
        return 1;
    };
    let Some(frame) = http2::frame(&header) else {
        return 1;
    };
    // SAFETY: a field of a live record.
    unsafe { *walk.cursor.skip = frame.length };
    if frame.kind != Kind::Control {
        stream(walk, frame);
    }
    0
}

/// A frame of a stream.
#[inline(always)]
fn stream(walk: &Walk, frame: Frame) {
    let key = StreamKey {
        cookie: walk.cookie,
        stream: frame.stream,
        pad: 0,
    };
    // SAFETY: a live record; only the packets of this direction write the field.
    let is_new = walk.up
        && frame.kind == Kind::Headers
        && frame.stream > unsafe { (*walk.record.0).meter.last_stream };
    let Some(subject) = Subject::of(walk.record) else {
        return;
    };
    if is_new {
        if maps::streams.insert(key, Stream::opened(now()), 0).is_err() {
            stats::internal_error(InternalError::StreamRecord);
            return;
        }
        subject.step(
            &KernelSock::new(walk.tcp),
            0,
            #[inline(always)]
            |meter, effects| meter.stream_opened(frame.stream, effects),
        );
        return;
    }
    let Some(stream) = maps::streams.get_ptr_mut(key) else {
        return;
    };
    let status = if frame.kind == Kind::Headers && frame.bare {
        http2::status_class(walk.cursor.peek())
    } else {
        0
    };
    let (up, now) = (walk.up, now());
    let is_over = subject.step(
        &KernelSock::new(walk.tcp),
        frame.stream,
        #[inline(always)]
        |meter, effects| {
            // SAFETY: an entry of the map, which stays readable until this program ends; the lock of its connection is held.
            let stream = unsafe { &mut *stream };
            if up {
                http2::request(meter, stream, frame, now, effects);
            } else {
                http2::response(meter, stream, frame, status, now, effects);
            }
        },
    );
    if is_over {
        // It may have been evicted meanwhile.
        let _gone = maps::streams.remove(key);
    }
}
