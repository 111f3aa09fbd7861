// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What plaintext shows of a connection: pure, byte-wise parsers that the packet programs feed and the host tests.
//!
//! Each is a few registers of state and a step, because a BPF program reads a packet through small windows and may stop between
//! any two bytes. Invariant: no parser reads beyond what it was given, and an unknown byte is never an error, only less known.

pub mod events;
pub mod head;
pub mod http2;
pub mod request;
pub mod tls;

/// The eight bytes as they stand in a rolling window: the first is the most significant.
const fn word(bytes: [u8; 8]) -> u64 {
    u64::from_be_bytes(bytes)
}

/// 1 if `a` and `b` are the same, else 0.
///
/// By arithmetic, because BPF has no conditional moves: a comparison is a branch, from which the verifier learns about what is
/// compared, and then walks the rest of a loop once for each thing that it learnt.
const fn same(a: u64, b: u64) -> u64 {
    let difference = a ^ b;
    (difference.wrapping_sub(1) & !difference) >> 63
}

/// 1 if `byte` is from `first` to `last`, else 0; by arithmetic as well.
const fn within(byte: u8, first: u8, last: u8) -> u64 {
    let (byte, first, after) = (byte as u64, first as u64, last as u64 + 1);
    (byte.wrapping_sub(after) & !byte.wrapping_sub(first)) >> 63
}
