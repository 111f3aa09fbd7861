// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The ring buffer `access`: one record per finished request or connection, while the access log is on.
//!
//! Written by the programs, which drop and count a record rather than wait; read by the agent. Times are nanoseconds of
//! `CLOCK_MONOTONIC`, durations nanoseconds, 0 where they were not measured.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Ip16, Port, layout::abi_struct};

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AccessKind {
    /// A finished request.
    Request = 0,
    /// A connection that ended.
    Connection = 1,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AccessRecord {
    /// Address of the client's end.
    pub client_addr: Ip16,
    /// Address of the backend.
    pub backend_addr: Ip16,
    /// Cookie of the socket.
    pub cookie: u64,
    /// Hash of the client workload's name; 0 where none is known.
    pub workload: u64,
    /// First byte of the request, or beginning of the connection.
    pub start_ns: u64,
    /// Last byte of the response, or end of the connection.
    pub end_ns: u64,
    /// Time to first byte.
    pub first_byte_ns: u64,
    /// Time to first token.
    pub first_token_ns: u64,
    /// Bytes of the request, or of the connection in request direction.
    pub request_bytes: u64,
    /// Bytes of the response, or of the connection in response direction.
    pub response_bytes: u64,
    /// [`crate::Service::id`].
    pub service: u32,
    /// Index into `backends`.
    pub backend: u32,
    /// Chunks of the response; of a connection, its finished requests.
    pub chunks: u32,
    /// HTTP/2 stream; 0 for other protocols.
    pub stream: u32,
    /// Smoothed round-trip time, microseconds.
    pub rtt_us: u32,
    /// Segments sent again on this connection so far.
    pub retransmits: u32,
    /// Port of the client's end.
    pub client_port: Port,
    /// Port of the backend.
    pub backend_port: Port,
    /// An [`AccessKind`].
    pub kind: u8,
    /// A [`crate::Vantage`].
    pub vantage: u8,
    /// A [`crate::Wire`].
    pub wire: u8,
    /// A [`crate::Outcome`]; of a connection, 0.
    pub outcome: u8,
    /// Class of the status, 1 to 5; 0 where it was not seen.
    pub status: u8,
    /// 1 + a [`crate::Cancel`]; 0 where the client did not give up.
    pub cancel: u8,
    /// Zero.
    pub pad: [u8; 6],
}
abi_struct!(AccessRecord: 136 {
    client_addr: 0, backend_addr: 16, cookie: 32, workload: 40, start_ns: 48, end_ns: 56, first_byte_ns: 64, first_token_ns: 72,
    request_bytes: 80, response_bytes: 88, service: 96, backend: 100, chunks: 104, stream: 108, rtt_us: 112, retransmits: 116,
    client_port: 120, backend_port: 122, kind: 124, vantage: 125, wire: 126, outcome: 127, status: 128, cancel: 129, pad: 130,
});
