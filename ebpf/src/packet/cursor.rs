// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Finds the headers of records or frames in a stream that comes in packets: jumps over what they announce, and keeps the
//! beginning of a header that a packet cuts.
//!
//! Invariant: between packets, either the bytes to skip or the carried ones are 0.

use aya_ebpf::bindings::__sk_buff;

use super::segment::{Segment, load};
use crate::record::Record;

/// The longest header that can be carried.
const CARRY: usize = 9;

/// A place in a segment, with what is carried from the one before.
pub struct Cursor {
    skb: *mut __sk_buff,
    at: u32,
    end: u32,
    /// Sequence number of `at`.
    pub seq: u32,
    /// Bytes to skip before the next header.
    pub skip: *mut u32,
    carry: *mut [u8; CARRY],
    carried: *mut u8,
}

impl Cursor {
    /// At the beginning of `segment`.
    #[inline(always)]
    pub fn new(segment: &Segment, record: Record, up: bool) -> Self {
        // SAFETY: addresses of fields of a live record.
        let (skip, carry, carried) = unsafe {
            let meter = &raw mut (*record.0).meter;
            if up {
                (
                    &raw mut (*meter).up_skip,
                    &raw mut (*meter).up_carry,
                    &raw mut (*meter).up_carried,
                )
            } else {
                (
                    &raw mut (*meter).down_skip,
                    &raw mut (*meter).down_carry,
                    &raw mut (*meter).down_carried,
                )
            }
        };
        Self {
            skb: segment.skb,
            at: segment.at,
            end: segment.end,
            seq: segment.seq,
            skip,
            carry,
            carried,
        }
    }

    /// The next header, if it ends in this segment; the cursor is after it then.
    #[inline(always)]
    pub fn header<const LEN: usize>(&mut self) -> Option<[u8; LEN]> {
        const { assert!(LEN <= CARRY) };
        let left = self.end.saturating_sub(self.at);
        // SAFETY: `skip` and `carried` are fields of a live record, written by the packets of this direction alone.
        let carried = unsafe {
            let skip = *self.skip;
            if skip >= left {
                *self.skip = skip - left;
                return None;
            }
            *self.skip = 0;
            self.pass(skip);
            *self.carried
        };
        if carried == 0 && self.end - self.at >= LEN as u32 {
            let header = load(self.skb, self.at)?;
            self.pass(LEN as u32);
            return Some(header);
        }
        self.joined(carried)
    }

    /// The next header, of which `carried` bytes came before.
    #[inline(always)]
    fn joined<const LEN: usize>(&mut self, carried: u8) -> Option<[u8; LEN]> {
        let mut header = [0; LEN];
        for (index, place) in header.iter_mut().enumerate() {
            // SAFETY: `index` is below `CARRY`; the fields are of a live record.
            unsafe {
                let kept = self.carry.cast::<u8>().add(index);
                if index < usize::from(carried) {
                    *place = *kept;
                    continue;
                }
                if self.at >= self.end {
                    *self.carried = index as u8;
                    return None;
                }
                let [byte] = load::<1>(self.skb, self.at)?;
                *kept = byte;
                *place = byte;
            }
            self.pass(1);
        }
        // SAFETY: as above.
        unsafe { *self.carried = 0 };
        Some(header)
    }

    /// Whether the segment ends where a record or frame does.
    #[inline(always)]
    pub fn is_between(&self) -> bool {
        // SAFETY: fields of a live record, written by the packets of this direction alone.
        unsafe { *self.skip == 0 && *self.carried == 0 }
    }

    /// The byte at the cursor; 0 if the segment ends there.
    #[inline(always)]
    pub fn peek(&self) -> u8 {
        load::<1>(self.skb, self.at).map_or(0, |[byte]| byte)
    }

    #[inline(always)]
    fn pass(&mut self, bytes: u32) {
        self.at += bytes;
        self.seq = self.seq.wrapping_add(bytes);
    }
}
