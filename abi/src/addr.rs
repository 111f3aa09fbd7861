// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Addresses and ports as the kernel's socket hooks hold them. Used in every key and row.
//!
//! Invariant: the bytes in memory are in network byte order, whatever the host's order is.

use core::net::{IpAddr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::abi_struct;

/// The third word of a v4-mapped address: 16 zero bits and 16 one bits.
const V4_PREFIX: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// An IPv6 or v4-mapped IPv4 address: four words in network byte order, as in `bpf_sock_addr.user_ip6`.
///
/// Words rather than bytes, so that the BPF backend moves and compares four registers instead of sixteen bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ip16 {
    words: [u32; 4],
}
abi_struct!(Ip16: 16 { words: 0 });

impl Ip16 {
    /// The unspecified address `::`.
    pub const UNSPECIFIED: Self = Self { words: [0; 4] };

    /// From the four words of `bpf_sock_addr.user_ip6` (network byte order).
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// From the word of `bpf_sock_addr.user_ip4` (network byte order).
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self {
            words: [0, 0, V4_PREFIX, word],
        }
    }

    /// The four words, in network byte order.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        self.words
    }

    /// The IPv4 address of a v4-mapped address (network byte order); meaningless for other addresses.
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        self.words[3]
    }

    /// Whether this is a v4-mapped IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == V4_PREFIX
    }

    /// Whether this is `::1` or in `127.0.0.0/8`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        let [a, b, c, d] = self.words;
        if self.is_v4() {
            return d.to_ne_bytes()[0] == 127;
        }
        a == 0 && b == 0 && c == 0 && d == u32::from_be(1)
    }

    /// Whether this is `::` or `0.0.0.0`.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.words[0] == 0
            && self.words[1] == 0
            && (self.words[2] == 0 || self.words[2] == V4_PREFIX)
            && self.words[3] == 0
    }
}

impl From<IpAddr> for Ip16 {
    fn from(addr: IpAddr) -> Self {
        let octets = match addr {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Self { words }
    }
}

impl From<Ip16> for IpAddr {
    fn from(addr: Ip16) -> Self {
        let mut octets = [0; 16];
        for (bytes, word) in octets.chunks_exact_mut(4).zip(addr.words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Ipv6Addr::from(octets).to_canonical()
    }
}

impl core::fmt::Debug for Ip16 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

/// A port in network byte order.
#[derive(
    Default, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Port {
    be: u16,
}
abi_struct!(Port: 2 { be: 0 });

impl Port {
    /// From a port number in host byte order.
    #[inline(always)]
    pub const fn new(port: u16) -> Self {
        Self { be: port.to_be() }
    }

    /// From the low half of `bpf_sock_addr.user_port` (network byte order).
    #[inline(always)]
    pub const fn from_be(be: u16) -> Self {
        Self { be }
    }

    /// The port number in host byte order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.be)
    }

    /// The port in network byte order.
    #[inline(always)]
    pub const fn be(self) -> u16 {
        self.be
    }
}

impl core::fmt::Debug for Port {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.get(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v4_and_v6_survive_the_way_through_words() {
        for text in [
            "10.96.0.10",
            "0.0.0.0",
            "255.255.255.255",
            "fd00::1",
            "::",
            "2001:db8::8000:1",
        ] {
            let addr: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Ip16::from(addr)), addr, "{text}");
        }
    }

    #[test]
    fn v4_word_is_what_user_ip4_holds() {
        let addr: IpAddr = "10.1.2.3".parse().unwrap();
        let word = u32::from_ne_bytes([10, 1, 2, 3]);
        assert_eq!(Ip16::from(addr), Ip16::from_v4_word(word));
        assert_eq!(Ip16::from(addr).v4_word(), word);
        assert!(Ip16::from(addr).is_v4());
    }

    #[test]
    fn only_mapped_addresses_are_v4() {
        assert!(!Ip16::from("fd00::1".parse::<IpAddr>().unwrap()).is_v4());
        assert!(!Ip16::UNSPECIFIED.is_v4());
        assert!(Ip16::UNSPECIFIED.is_unspecified());
        assert!(Ip16::from_v4_word(0).is_unspecified());
    }

    #[test]
    fn ports_are_stored_in_network_order() {
        assert_eq!(Port::new(8000).as_bytes(), [0x1f, 0x40]);
        assert_eq!(Port::from_be(Port::new(8000).be()).get(), 8000);
    }
}
