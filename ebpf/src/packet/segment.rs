// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! A TCP segment inside an `__sk_buff` at `cgroup_skb`, where packets begin with their IP header.
//!
//! Headers are read in place; the payload through copies, so that paged data and offloaded segments of 64 KiB need no special case.
//! Invariant: `at < end`.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};
use nodemesh_abi::{Ip16, Port, Protocol};

use crate::{
    opaque::{is_zero, unknown},
    record::Record,
};

/// Words of eight bytes that are looked at with one copy.
pub const WINDOW: usize = 4;
/// The same in bytes.
pub const WINDOW_BYTES: u32 = WINDOW as u32 * 8;

/// Flags of a TCP header (RFC 9293, section 3.1).
const SYN: u8 = 1 << 1;
const ACK: u8 = 1 << 4;

/// Length of an IPv6 header (RFC 8200, section 3).
const IPV6_HEADER: u32 = 40;

/// Where bytes are read from.
pub trait Bytes: Copy {
    /// Copies `length` bytes at offset `at`; false if there are not as many.
    fn read(self, at: u32, to: *mut u8, length: u32) -> bool;
}

impl Bytes for *mut __sk_buff {
    #[inline(always)]
    fn read(self, at: u32, to: *mut u8, length: u32) -> bool {
        // SAFETY: callers pass room for `length` bytes; the helper checks the packet's bounds.
        unsafe { bpf_skb_load_bytes(self.cast_const().cast(), at, to.cast(), length) == 0 }
    }
}

/// A segment with a payload.
#[derive(Clone, Copy)]
pub struct Segment<S = *mut __sk_buff> {
    /// The packet, or the message.
    pub skb: S,
    /// Offset of the payload.
    pub at: u32,
    /// Offset of its end.
    pub end: u32,
    /// Sequence number of its first byte.
    pub seq: u32,
}

/// What is of interest in a packet.
pub enum Content {
    /// A payload.
    Data(Segment),
    /// Somebody asks for a connection; the offset of the TCP header.
    Syn(u32),
}

/// What a segment adds to what was seen.
#[derive(Clone, Copy)]
pub struct Order {
    /// It begins where the last one ended.
    pub in_order: bool,
    /// Bytes that were not seen before, those of a gap before it included.
    pub new_bytes: u32,
}

impl Segment {
    /// The TCP segment in `skb`, if it has a payload or asks for a connection.
    #[inline(always)]
    pub fn of(skb: *mut __sk_buff) -> Option<Content> {
        // Both protocol fields lie within the shortest header.
        let [first, _, _, _, _, _, v6_next, _, _, v4_protocol, ..] = *header::<20>(skb, 0)?;
        let (protocol, at) = if first >> 4 == 4 {
            (v4_protocol, u32::from(first & 0xf) * 4)
        } else {
            // Extension headers before TCP do not occur but for fragments, which hold no whole segment.
            (v6_next, IPV6_HEADER)
        };
        if protocol != Protocol::Tcp as u8 {
            return None;
        }
        let [_, _, _, _, a, b, c, d, _, _, _, _, offset, flags] = *header::<14>(skb, at)?;
        if flags & (SYN | ACK) == SYN {
            return Some(Content::Syn(at));
        }
        let at = at + u32::from(offset >> 4) * 4;
        // SAFETY: the kernel's context.
        let end = unsafe { (*skb).len };
        (at < end).then_some(Content::Data(Self {
            skb,
            at,
            end,
            seq: u32::from_be_bytes([a, b, c, d]),
        }))
    }

    /// The same, after `bytes` that took the shortcut: what the meter counts and TCP does not.
    #[inline(always)]
    pub fn after(self, bytes: u32) -> Self {
        Self {
            seq: self.seq.wrapping_add(bytes),
            ..self
        }
    }
}

impl<S: Bytes> Segment<S> {
    /// Sequence number after its last byte.
    #[inline(always)]
    pub fn seq_end(&self) -> u32 {
        self.seq.wrapping_add(self.end - self.at)
    }

    /// Moves the parser of this direction to the segment's end, and tells what is new.
    #[inline(always)]
    pub fn advance(&self, record: Record, up: bool) -> Order {
        // SAFETY: a live record. These fields are written by this program alone, and the packets of one direction of a
        // connection come one after the other.
        unsafe {
            let meter = &raw mut (*record.0).meter;
            let parsed = if up {
                &raw mut (*meter).up_parsed
            } else {
                &raw mut (*meter).down_parsed
            };
            let end = self.seq_end();
            let new = end.wrapping_sub(*parsed).cast_signed();
            let in_order = *parsed == self.seq;
            if new <= 0 {
                return Order {
                    in_order: false,
                    new_bytes: 0,
                };
            }
            *parsed = end;
            Order {
                in_order,
                new_bytes: new.cast_unsigned(),
            }
        }
    }

    /// The first bytes of the payload; what is beyond its end is 0.
    #[inline(always)]
    pub fn start<const LEN: usize>(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        copy(self.skb, self.at, self.end, &mut bytes);
        bytes
    }

    /// The first sixteen of them, in two big-endian words.
    #[inline(always)]
    pub fn first_words(&self) -> (u64, u64) {
        let mut words = [0; 2];
        copy_words(self.skb, self.at, self.end, &mut words);
        (words[0].to_be(), words[1].to_be())
    }
}

/// Who asks whom for a connection, in a segment whose TCP header is at `at`: client, address and port.
#[inline(always)]
pub fn parties(skb: *mut __sk_buff, at: u32) -> Option<(Ip16, Ip16, Port)> {
    let port = Port::from_be(u16::from_ne_bytes(load::<2>(skb, at + 2)?));
    if load::<1>(skb, 0)?[0] >> 4 == 6 {
        let client = Ip16::from_words(words(load(skb, 8)?));
        return Some((client, Ip16::from_words(words(load(skb, 24)?)), port));
    }
    let client = Ip16::from_v4_word(u32::from_ne_bytes(load(skb, 12)?));
    let addr = Ip16::from_v4_word(u32::from_ne_bytes(load(skb, 16)?));
    Some((client, addr, port))
}

/// An address in four words, each in network byte order.
#[inline(always)]
fn words(bytes: [u8; 16]) -> [u32; 4] {
    // SAFETY: sixteen bytes are four words.
    unsafe { core::mem::transmute(bytes) }
}

/// Copies what there is between `at` and `end`, `LEN` bytes at most, and returns how many these are; 0 as well if the packet is
/// shorter than it says.
#[inline(always)]
pub fn copy<const LEN: usize>(skb: impl Bytes, at: u32, end: u32, to: &mut [u8; LEN]) -> u32 {
    let left = unknown(u64::from(end.saturating_sub(at)));
    let length = if left > LEN as u64 { LEN as u64 } else { left };
    if is_zero(length) {
        return 0;
    }
    if skb.read(at, to.as_mut_ptr(), length as u32) {
        length as u32
    } else {
        0
    }
}

/// The same in words, whose bytes stand as in the packet.
#[inline(always)]
pub fn copy_words<const LEN: usize>(skb: impl Bytes, at: u32, end: u32, to: &mut [u64; LEN]) -> u32 {
    let left = unknown(u64::from(end.saturating_sub(at)));
    let most = LEN as u64 * 8;
    let length = if left > most { most } else { left };
    if is_zero(length) {
        return 0;
    }
    if skb.read(at, to.as_mut_ptr().cast(), length as u32) {
        length as u32
    } else {
        0
    }
}

/// Sixteen bytes at offset `at`, in two big-endian words.
#[inline(always)]
pub fn load_words(skb: impl Bytes, at: u32) -> Option<(u64, u64)> {
    let mut words = [0u64; 2];
    skb.read(at, words.as_mut_ptr().cast(), 16)
        .then_some((words[0].to_be(), words[1].to_be()))
}

/// `LEN` bytes at offset `at`.
#[inline(always)]
pub fn load<const LEN: usize>(skb: impl Bytes, at: u32) -> Option<[u8; LEN]> {
    let mut bytes = [0; LEN];
    skb.read(at, bytes.as_mut_ptr(), LEN as u32).then_some(bytes)
}

/// `LEN` bytes of the packet's headers, in place: headers are never in pages.
#[inline(always)]
fn header<'a, const LEN: usize>(skb: *mut __sk_buff, at: u32) -> Option<&'a [u8; LEN]> {
    // SAFETY: the kernel's context; the verifier demands the comparison and knows the bounds from it.
    unsafe {
        let start = (*skb).data as usize + at as usize;
        if start + LEN > (*skb).data_end as usize {
            return None;
        }
        Some(&*(start as *const [u8; LEN]))
    }
}
