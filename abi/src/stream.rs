// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The `streams` map, in `SK_STORAGE`: the exchanges of the HTTP/2 streams that are open on a connection in plaintext.
//!
//! A connection's own, so that it goes with its socket. Identifiers of a client's streams rise by two, so that each has a slot
//! of its own while no more than [`SLOTS`] follow each other; a stream that finds its slot taken is counted as lost and not
//! metered. Invariant: a slot is taken from the HEADERS of a request to the end of its stream.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Exchange, layout::abi_struct};

/// Slots of a connection; a power of two.
pub const SLOTS: usize = 128;

/// One stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Stream {
    /// Its exchange.
    pub exchange: Exchange,
    /// HTTP/2 stream identifier (RFC 9113, section 5.1.1); 0 for a free slot.
    pub id: u32,
    /// Class of the response's status, 1 to 5; 0 where it was not seen.
    pub status: u32,
}
abi_struct!(Stream: 104 { exchange: 0, id: 96, status: 100 });

impl Stream {
    /// Begins the stream `id` at `now`.
    #[inline(always)]
    pub fn open(&mut self, id: u32, now: u64) {
        self.id = id;
        self.status = 0;
        self.exchange.begin(0, now);
    }
}

/// The streams of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Streams {
    /// The stream `id` is in slot [`slot`].
    pub slots: [Stream; SLOTS],
}
abi_struct!(Streams: 13_312 { slots: 0 });

/// Where the stream `id` belongs.
#[inline(always)]
pub const fn slot(id: u32) -> usize {
    (id >> 1) as usize & (SLOTS - 1)
}
