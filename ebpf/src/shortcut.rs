// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The shortcut: two sockets of this node that hand each other small messages without TCP.
//!
//! ```text
//! sock_ops ─► enrol ─► (bulk, unusual readers, no peer) leave
//! hand_over ─► send ─► the peer's queue, or TCP;  recv_length ─► read ─► what the peer is to know
//! switched on again ─► rejoin
//! ```
//!
//! Invariant: what one end knows of the other is in `short_ends`, by cookies that are never used again.

mod enrol;
mod leave;
pub mod read;
pub mod rejoin;
pub mod send;
mod socket;

pub use enrol::{concerns, event};
use nodemesh_abi::{
    Connection,
    connection::Counted,
    shortcut::{End, Progress},
};

use crate::{maps, meter::Way, record::Record};

/// How far the application of an end has come.
///
/// # Safety
/// `end` is a map value.
#[inline(always)]
pub unsafe fn progress(end: *const End) -> Progress {
    // SAFETY: the caller's; volatile because other CPUs write it.
    unsafe {
        Progress {
            inbound: (&raw const (*end).inbound).read_volatile(),
            read: (&raw const (*end).read).read_volatile(),
            first: (*end).first,
            read_seq: (&raw const (*end).read_seq).read_volatile(),
            emptied: (&raw const (*end).emptied).read_volatile(),
        }
    }
}

/// Bytes that were handed to a socket and that its application has not read.
///
/// # Safety
/// `connection` is the record of a socket that the kernel keeps meanwhile.
#[inline(always)]
pub unsafe fn unread(connection: *const Connection) -> u32 {
    // SAFETY: the caller's.
    let (counted, cookie) = unsafe { ((*connection).counted, (*connection).cookie) };
    if counted & Counted::SHORT == 0 {
        return 0;
    }
    match maps::short_ends.get_ptr(cookie) {
        // SAFETY: a map value.
        Some(end) => unsafe { progress(end) }.unread() as u32,
        None => 0,
    }
}

/// The socket of an end is closed.
#[inline(always)]
pub fn ended(record: Record) {
    // SAFETY: a live record.
    let (counted, cookie) = unsafe { ((*record.0).counted, (*record.0).cookie) };
    if counted & Counted::SHORT != 0 {
        let _gone = maps::short_ends.remove(cookie);
    }
}

/// Bytes that took the shortcut through a socket, towards it or away from it: what TCP's sequence numbers lack.
#[inline(always)]
pub fn beside_tcp(record: Record, way: Way) -> u32 {
    // SAFETY: a live record.
    let (counted, cookie) = unsafe { ((*record.0).counted, (*record.0).cookie) };
    if counted & Counted::SHORT == 0 {
        return 0;
    }
    let Some(end) = maps::short_ends.get_ptr(cookie) else {
        return 0;
    };
    // SAFETY: a map value; other CPUs write it.
    unsafe {
        match way {
            Way::Sent => (&raw const (*end).outbound).read_volatile() as u32,
            Way::Received => (&raw const (*end).inbound).read_volatile() as u32,
        }
    }
}
