// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The Internet checksum by increments (RFC 1624), so that a packet is never read beyond its headers.
//!
//! A [`Change`] is what to add, in ones' complement, to the sum that a checksum stands for. Invariant: words are those of memory, in
//! network byte order, whatever the host's order is: ones' complement sums do not care (RFC 1071, section 2).

use crate::{Ip16, Port};

/// The difference that new words make to a sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change(u64);

impl Change {
    /// Nothing changes.
    pub const NONE: Self = Self(0);

    /// One 32-bit word becomes another.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: u32, new: u32) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// One 16-bit word becomes another.
    #[inline(always)]
    #[must_use]
    pub const fn half(self, old: u16, new: u16) -> Self {
        Self(self.0 + !old as u64 + new as u64)
    }

    /// A port becomes another.
    #[inline(always)]
    #[must_use]
    pub const fn port(self, old: Port, new: Port) -> Self {
        self.half(old.be(), new.be())
    }

    /// An address becomes another of the same family; of a v4-mapped one, only the word that is on the wire counts.
    #[inline(always)]
    #[must_use]
    pub const fn addr(self, old: Ip16, new: Ip16) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (old.words(), new.words());
        if old.is_v4() {
            return self.word(d, h);
        }
        self.word(a, e).word(b, f).word(c, g).word(d, h)
    }

    /// Both changes.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// As the 32-bit sum that `bpf_l4_csum_replace` adds.
    #[inline(always)]
    pub const fn sum(self) -> u32 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        ((sum & 0xffff_ffff) + (sum >> 32)) as u32
    }

    /// The checksum, as it lies in memory, after the change (RFC 1624, equation 3).
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        let mut sum = !checksum as u64 + self.sum() as u64;
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        !(sum as u16)
    }

    /// The same for UDP (RFC 768): no checksum stays none, and one that comes to 0 is sent as all ones.
    #[inline(always)]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => u16::MAX,
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// The checksum of `bytes` from scratch (RFC 1071), as it lies in memory.
    fn full(bytes: &[u8]) -> u16 {
        let mut sum = 0_u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    proptest! {
        #[test]
        fn increments_agree_with_recomputing(
            mut bytes in proptest::collection::vec(any::<u8>(), 24..80),
            new in any::<[u32; 2]>(),
            half in any::<u16>(),
        ) {
            // A real header is never all zero, the one case in which 0 and all ones stand for different sums.
            bytes[0] |= 0x40;
            let before = full(&bytes);
            let old_half = u16::from_ne_bytes([bytes[12], bytes[13]]);
            let change = Change::NONE.word(word(&bytes, 4), new[0]).word(word(&bytes, 8), new[1]).half(old_half, half);
            bytes[4..8].copy_from_slice(&new[0].to_ne_bytes());
            bytes[8..12].copy_from_slice(&new[1].to_ne_bytes());
            bytes[12..14].copy_from_slice(&half.to_ne_bytes());
            prop_assert_eq!(change.apply(before), full(&bytes));
            let sum = Change(u64::from(change.sum()));
            prop_assert_eq!(sum.apply(before), full(&bytes), "folded to what the helper takes");
        }

        #[test]
        fn a_change_and_its_opposite_cancel(checksum in 1_u16..u16::MAX, old in any::<u32>(), new in any::<u32>()) {
            let there = Change::NONE.word(old, new).apply(checksum);
            let back = Change::NONE.word(new, old).apply(there);
            // Zero has two forms in ones' complement; both stand for the same sum.
            prop_assert!(back == checksum || (back ^ checksum) == u16::MAX && (back == 0 || checksum == 0));
        }

        #[test]
        fn udp_without_a_checksum_gets_none(old in any::<u32>(), new in any::<u32>()) {
            prop_assert_eq!(Change::NONE.word(old, new).apply_udp(0), 0);
        }

        #[test]
        fn udp_never_loses_its_checksum(checksum in 1_u16.., words in proptest::collection::vec(any::<[u32; 2]>(), 1..6)) {
            let change = words.iter().fold(Change::NONE, |change, [old, new]| change.word(*old, *new));
            prop_assert_ne!(change.apply_udp(checksum), 0);
        }
    }

    #[test]
    fn both_families_count_what_is_on_the_wire() {
        let v4 = |last: u8| Ip16::from(core::net::IpAddr::from([10, 0, 0, last]));
        assert_eq!(
            Change::NONE.addr(v4(1), v4(2)),
            Change::NONE.word(v4(1).v4_word(), v4(2).v4_word())
        );
        let bytes: Vec<u8> = (0..16).collect();
        assert_ne!(full(&bytes), 0);
    }
}
