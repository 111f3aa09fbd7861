// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The `streams` map: the exchanges of HTTP/2 streams in plaintext. Written by the programs alone.
//!
//! Invariant: an entry lives from the HEADERS of a request to the end of its stream; entries of a connection that ended before its
//! streams are evicted by newer ones.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Exchange, layout::abi_struct};

/// Key of `streams`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct StreamKey {
    /// Cookie of the socket.
    pub cookie: u64,
    /// HTTP/2 stream identifier (RFC 9113, section 5.1.1).
    pub stream: u32,
    /// Zero.
    pub pad: u32,
}
abi_struct!(StreamKey: 16 { cookie: 0, stream: 8, pad: 12 });

/// Value of `streams`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Stream {
    /// Its exchange.
    pub exchange: Exchange,
    /// Class of the response's status, 1 to 5; 0 where it was not seen.
    pub status: u32,
    /// Zero.
    pub pad: u32,
}
abi_struct!(Stream: 104 { exchange: 0, status: 96, pad: 100 });

impl Stream {
    /// A stream whose request begins at `now`.
    #[inline(always)]
    pub fn opened(now: u64) -> Self {
        let mut stream = Self::default();
        stream.exchange.begin(0, now);
        stream
    }
}
