// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Byte events: what applications send and receive on mesh sockets, once per call, from the tracepoints `sock_send_length` and
//! `sock_recv_length` (Linux 6.3).
//!
//! Invariant: a socket without a record costs one lookup in its own storage.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use nodemesh_abi::{MeterPath, Vantage, connection::Counted, turn::Counting};

use crate::{
    count::Subject, kernel_sock::KernelSock, place::current_settings, record::Record, shortcut::read, turn,
};

/// Which way bytes went through a socket of this node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The application sent them.
    Sent,
    /// The application received them.
    Received,
}

impl Way {
    /// Whether that is the direction of requests, seen from `vantage`.
    #[inline(always)]
    pub fn is_up(self, vantage: u8) -> bool {
        (self == Self::Sent) == (vantage == Vantage::Client as u8)
    }
}

/// Flag of `recv()`: what is returned stays to be read.
const MSG_PEEK: i32 = 2;

/// An application sent or received; `length` is what its call returned, `flags` how it received.
#[inline(always)]
pub fn transferred(sk: *const c_void, length: i32, flags: i32, way: Way) {
    if length <= 0 || way == Way::Received && flags & MSG_PEEK != 0 {
        return;
    }
    let Some(record) = Record::of(sk.cast_mut()) else {
        return;
    };
    let settings = current_settings();
    let counting = if way == Way::Sent {
        Counting::Sent
    } else {
        Counting::Received
    };
    if settings.meter_path != MeterPath::Tracepoint as u32 || !turn::is_ours(&settings, counting, record) {
        return;
    }
    // SAFETY: a live record.
    if way == Way::Received && unsafe { (*record.0).counted } & Counted::SHORT != 0 {
        read::completed(record, sk, length.cast_unsigned(), flags);
    }
    bytes(record, KernelSock::new(sk), length.cast_unsigned(), way);
}

/// Feeds a byte event to the meter.
#[inline(always)]
pub fn bytes(record: Record, sk: KernelSock, length: u32, way: Way) {
    let Some(subject) = Subject::of(record) else {
        return;
    };
    // SAFETY: a live record; the vantage is written before the record is.
    let up = way.is_up(unsafe { (*record.0).meter.vantage });
    // SAFETY: the helper takes no pointer.
    let now = unsafe { bpf_ktime_get_ns() };
    subject.step(
        sk,
        0,
        #[inline(always)]
        |meter, effects| {
            if up {
                meter.up(length, now, effects);
            } else {
                meter.down(length, now, effects);
            }
        },
    );
}

/// A segment is sent again.
#[inline(always)]
pub fn retransmitted(sk: *const c_void) {
    if let Some(record) = Record::of(sk.cast_mut())
        && turn::is_ours(&current_settings(), Counting::SentAgain, record)
        && let Some(subject) = Subject::of(record)
    {
        subject.retransmit();
    }
}
