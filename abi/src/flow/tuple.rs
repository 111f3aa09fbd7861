// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The five numbers that name one direction of a flow, and their hash. Key of the index, and what the parser gives.
//!
//! Invariant: the hash depends on the seed, so that who does not know it cannot choose tuples that meet in one set.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    Ip16, Port,
    client::{ClientKey, mix},
    layout::abi_struct,
};

/// One direction of a flow, as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Tuple {
    /// Source address.
    pub src: Ip16,
    /// Destination address.
    pub dst: Ip16,
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// IANA protocol number.
    pub protocol: u32,
}
abi_struct!(Tuple: 40 { src: 0, dst: 16, src_port: 32, dst_port: 34, protocol: 36 });

impl Tuple {
    /// The other direction of the same tuple.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            protocol: self.protocol,
        }
    }

    /// A well mixed hash: its upper half chooses the set, its lower half is the fingerprint.
    #[inline(always)]
    pub const fn hash(&self, seed: u64) -> u64 {
        let [a, b, c, d] = self.src.words();
        let [e, f, g, h] = self.dst.words();
        // One round for each pair of words that both families have, one for those that only IPv6 has.
        let far = pair(a, b) ^ pair(e, f).rotate_left(32) ^ pair(c, g).rotate_left(16);
        let ports = pair(self.src_port.be() as u32, self.dst_port.be() as u32);
        let near = mix(seed ^ pair(d, h));
        let inner = mix(near ^ far.wrapping_mul(0xd6e8_feb8_6659_fd93));
        mix(inner ^ ports ^ ((self.protocol as u64) << 56))
    }

    /// A hash that every node computes alike: of the whole tuple, where a service spreads flows.
    #[inline(always)]
    pub fn spread(&self) -> u32 {
        let client = ClientKey::address(self.src).hash();
        let service = ClientKey::address(self.dst).hash();
        let ports = u64::from(self.src_port.get()) << 16 | u64::from(self.dst_port.get());
        (mix(pair(client, service) ^ mix(ports << 8 | u64::from(self.protocol))) >> 32) as u32
    }
}

#[inline(always)]
const fn pair(high: u32, low: u32) -> u64 {
    (high as u64) << 32 | low as u64
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    fn tuple(src: &str, dst: &str, src_port: u16) -> Tuple {
        let addr = |text: &str| Ip16::from(text.parse::<IpAddr>().unwrap());
        Tuple {
            src: addr(src),
            dst: addr(dst),
            src_port: Port::new(src_port),
            dst_port: Port::new(80),
            protocol: 6,
        }
    }

    #[test]
    fn reversing_twice_changes_nothing() {
        let forward = tuple("10.0.0.1", "10.96.0.1", 40_000);
        assert_ne!(forward, forward.reversed());
        assert_eq!(forward, forward.reversed().reversed());
    }

    #[test]
    fn every_field_moves_the_hash() {
        let base = tuple("fd00::1", "fd00::2", 40_000);
        let others = [
            tuple("fd00:1::1", "fd00::2", 40_000),
            tuple("fd00::1:0:0:1", "fd00::2", 40_000),
            tuple("fd00::1", "fd01::2", 40_000),
            tuple("fd00::1", "fd00::1:0:0:2", 40_000),
            tuple("fd00::1", "fd00::2", 40_001),
            base.reversed(),
            Tuple { protocol: 17, ..base },
            Tuple {
                dst_port: Port::new(81),
                ..base
            },
        ];
        for other in others {
            assert_ne!(base.hash(7), other.hash(7), "{other:?}");
            assert_ne!(base.spread(), other.spread(), "{other:?}");
        }
        assert_ne!(base.hash(7), base.hash(8));
    }

    #[test]
    fn neighbouring_ports_spread_evenly() {
        let mut buckets = [0_u32; 16];
        for port in 0..16_000 {
            let hash = tuple("10.0.0.1", "10.96.0.1", port).hash(0x1234_5678_9abc_def1);
            buckets[(hash >> 60) as usize] += 1;
        }
        assert!(buckets.iter().all(|n| (880..=1120).contains(n)), "{buckets:?}");
    }
}
