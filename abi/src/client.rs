// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Who dials: the key of a client, what is configured for its cgroup, and the `affinity` table.
//!
//! Invariant: two clients have the same [`ClientKey`] only if they are the same workload, cgroup, address or network
//! namespace; the four kinds never collide.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Ip16, layout::abi_struct};

/// Identifies a client to `maglev` and to session affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ClientKey {
    /// A v6 address in two halves, or a tag that is no global or mapped address and a number.
    words: [u64; 2],
}
abi_struct!(ClientKey: 16 { words: 0 });

// The first half of an address of the reserved block ::/8 other than the v4-mapped ones: no client has such an address.
const WORKLOAD: u64 = u64::from_be(1);
const CGROUP: u64 = u64::from_be(2);
const NETNS: u64 = u64::from_be(3);

impl ClientKey {
    /// A workload, by the hash of its name: the same on every node.
    #[inline(always)]
    pub const fn workload(hash: u64) -> Self {
        Self {
            words: [WORKLOAD, hash],
        }
    }

    /// A cgroup, by its id.
    #[inline(always)]
    pub const fn cgroup(id: u64) -> Self {
        Self { words: [CGROUP, id] }
    }

    /// A network namespace, by its cookie.
    #[inline(always)]
    pub const fn netns(cookie: u64) -> Self {
        Self {
            words: [NETNS, cookie],
        }
    }

    /// An address: the same on every node.
    #[inline(always)]
    pub const fn address(addr: Ip16) -> Self {
        let [a, b, c, d] = addr.words();
        Self {
            words: [join(a, b), join(c, d)],
        }
    }

    /// A well mixed 32-bit hash; every node computes the same one from the same key.
    #[inline(always)]
    pub const fn hash(&self) -> u32 {
        (mix(mix(self.words[0].to_be()) ^ self.words[1].to_be()) >> 32) as u32
    }
}

/// The 64-bit number whose bytes in memory are those of `high` followed by those of `low`.
#[inline(always)]
const fn join(high: u32, low: u32) -> u64 {
    if cfg!(target_endian = "big") {
        (high as u64) << 32 | low as u64
    } else {
        (low as u64) << 32 | high as u64
    }
}

/// The finalizer of `SplitMix64` (Steele, Lea, Flood 2014): a bijection in which every input bit moves every output bit.
#[inline(always)]
pub const fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Value of `cgroups`, keyed by cgroup id (`u64`): what is configured for a cgroup and everything below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CgroupEntry {
    /// Hash of the workload's name, the same on every node; 0 where the entry names no workload.
    pub workload: u64,
    /// First address of the workload, or unspecified.
    pub addr: Ip16,
    /// What sockets of this subtree are kept from, [`CgroupEntry::ALONE`] and [`CgroupEntry::NO_SHORTCUT`], or let into,
    /// [`CgroupEntry::SHORTCUT`].
    pub excluded: u32,
    /// Identity of the workload; [`crate::policy::UNKNOWN`] if it has none.
    pub identity: u32,
}
abi_struct!(CgroupEntry: 32 { workload: 0, addr: 8, excluded: 24, identity: 28 });

impl CgroupEntry {
    /// Bit of [`Self::excluded`]: they are left alone.
    pub const ALONE: u32 = 1;
    /// Bit of [`Self::excluded`]: they take no shortcut.
    pub const NO_SHORTCUT: u32 = 2;
    /// Bit of [`Self::excluded`]: connections that they open take the shortcut, whatever the service says.
    pub const SHORTCUT: u32 = 4;
}

/// Key of `affinity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AffinityKey {
    /// The client.
    pub client: ClientKey,
    /// [`crate::Service::id`].
    pub service: u32,
    /// Zero.
    pub pad: u32,
}
abi_struct!(AffinityKey: 24 { client: 0, service: 16, pad: 20 });

/// Value of `affinity`: where the client's last connection went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AffinityValue {
    /// Index into `backends`.
    #[cfg(not(feature = "next"))]
    pub backend: u32,
    /// Incarnation of that id which was meant.
    pub generation: u32,
    /// Index into `backends`.
    #[cfg(feature = "next")]
    pub backend: u32,
    /// Time of the last pick, nanoseconds of `CLOCK_MONOTONIC`.
    pub used_ns: u64,
}
#[cfg(not(feature = "next"))]
abi_struct!(AffinityValue: 16 { backend: 0, generation: 4, used_ns: 8 });
#[cfg(feature = "next")]
abi_struct!(AffinityValue: 16 { generation: 0, backend: 4, used_ns: 8 });

impl AffinityValue {
    /// Whether the affinity still holds at `now_ns`.
    #[inline(always)]
    pub const fn is_fresh(&self, now_ns: u64, timeout_s: u32) -> bool {
        now_ns.saturating_sub(self.used_ns) < timeout_s as u64 * 1_000_000_000
    }
}

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    #[test]
    fn kinds_of_client_do_not_collide() {
        let addr = Ip16::from("10.0.0.1".parse::<IpAddr>().unwrap());
        let keys = [
            ClientKey::workload(5),
            ClientKey::cgroup(5),
            ClientKey::netns(5),
            ClientKey::address(addr),
        ];
        for (i, a) in keys.iter().enumerate() {
            for b in &keys[i + 1..] {
                assert_ne!(a, b);
                assert_ne!(a.hash(), b.hash());
            }
        }
    }

    #[test]
    fn the_hash_does_not_depend_on_the_machine() {
        let addr = Ip16::from("2001:db8::1".parse::<IpAddr>().unwrap());
        let expected = mix(mix(0x2001_0db8_0000_0000) ^ 1) >> 32;
        assert_eq!(u64::from(ClientKey::address(addr).hash()), expected);
    }

    #[test]
    fn neighbouring_addresses_spread_evenly() {
        let mut buckets = [0_u32; 16];
        for host in 0..16_000_u32 {
            let addr = Ip16::from_v4_word((0x0a00_0000 + host).to_be());
            buckets[ClientKey::address(addr).hash() as usize % buckets.len()] += 1;
        }
        assert!(buckets.iter().all(|n| (880..=1120).contains(n)), "{buckets:?}");
    }

    #[test]
    fn affinity_ends_at_its_timeout() {
        let value = AffinityValue {
            backend: 0,
            generation: 1,
            used_ns: 5,
        };
        assert!(value.is_fresh(5, 1));
        assert!(value.is_fresh(1_000_000_004, 1));
        assert!(!value.is_fresh(1_000_000_005, 1));
        assert!(!value.is_fresh(5, 0));
    }
}
