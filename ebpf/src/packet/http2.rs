// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! HTTP/2 in plaintext: walks frames, and keeps an exchange for each stream in the storage of its socket.
//!
//! Invariant: frames are only walked in order; a connection of which a packet was missed is no longer told apart.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    helpers::generated::{bpf_loop, bpf_sk_storage_get},
};
use nodemesh_abi::{
    InternalError, Stream, Streams,
    parse::http2::{self, Frame, HEADER, Kind, PREFACE},
    stream,
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
        up,
    };
    // SAFETY: the callback takes what is passed as its context.
    unsafe { bpf_loop(FRAMES, one as *mut _, (&raw mut walk).cast(), 0) };
}

struct Walk {
    cursor: Cursor,
    record: Record,
    tcp: *const c_void,
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
        count(walk, frame);
    }
    0
}

/// A frame of a stream.
#[inline(always)]
fn count(walk: &Walk, frame: Frame) {
    let Some(subject) = Subject::of(walk.record) else {
        return;
    };
    let is_new = walk.up
        && frame.kind == Kind::Headers
        // SAFETY: a live record; only the packets of this direction write the field.
        && frame.stream > unsafe { (*walk.record.0).meter.last_stream };
    let Some(place) = slot(walk.tcp, frame.stream, is_new) else {
        return;
    };
    let (up, now) = (walk.up, now());
    // SAFETY: a slot in the storage of the socket; the lock of its connection guards it, and what is read here is checked again.
    let taken = unsafe { (&raw const (*place).id).read_volatile() };
    if is_new && taken != 0 {
        stats::internal_error(InternalError::StreamRecord);
        return;
    }
    let status = if frame.kind == Kind::Headers && frame.bare {
        http2::status_class(walk.cursor.peek())
    } else {
        0
    };
    subject.step(
        KernelSock::new(walk.tcp),
        frame.stream,
        #[inline(always)]
        |meter, effects| {
            // SAFETY: as above; the lock is held.
            let stream = unsafe { &mut *place };
            if is_new {
                stream.open(frame.stream, now);
                meter.stream_opened(frame.stream, effects);
            } else if stream.id != frame.stream {
                // It has ended, or was never metered.
            } else if up {
                http2::request(meter, stream, frame, now, effects);
            } else {
                http2::response(meter, stream, frame, status, now, effects);
            }
        },
    );
}

/// The slot of the stream `id` in the storage of the socket `tcp`, which is created for the first stream.
#[inline(always)]
fn slot(tcp: *const c_void, id: u32, is_new: bool) -> Option<*mut Stream> {
    let map = (&raw const maps::streams).cast_mut().cast();
    let flags = if is_new {
        u64::from(BPF_SK_STORAGE_GET_F_CREATE)
    } else {
        0
    };
    // SAFETY: the verifier checks that `tcp` is a socket; the storage lives as long as it.
    let all = unsafe { bpf_sk_storage_get(map, tcp.cast_mut(), ptr::null_mut(), flags) }.cast::<Streams>();
    if all.is_null() {
        if is_new {
            stats::internal_error(InternalError::StreamRecord);
        }
        return None;
    }
    // SAFETY: `slot` stays inside the array.
    Some(unsafe { (&raw mut (*all).slots).cast::<Stream>().add(stream::slot(id)) })
}
