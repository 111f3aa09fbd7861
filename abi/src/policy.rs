// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Who may connect: the `identities` trie, and the tables of `policies`, one per set of rules, replaced as a whole by one update.
//!
//! A client is a number, its *identity*: the one of its cgroup where it runs (`cgroups`), the one of its address elsewhere
//! (`identities`). A policy is a table of two bits per identity, so a decision costs one lookup however many rules it stands for.
//! Invariant: what is not there is denied: a table that is missing, and an identity beyond its end.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Ip16, layout::abi_struct};

/// The identity of a client that is none of the known ones.
pub const UNKNOWN: u32 = 0;

/// Data of a key of `identities`, after its prefix length in bits (32 bits, host byte order): v4-mapped for IPv4, so a prefix of
/// an IPv4 network is 96 bits longer than in its usual notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IdentityAddr {
    /// The address, of which the prefix counts.
    pub addr: Ip16,
}
abi_struct!(IdentityAddr: 16 { addr: 0 });

/// What a policy says about a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Access {
    /// It may not connect.
    #[default]
    Deny = 0,
    /// It may.
    Allow = 1,
    /// It may, and each connection is told of: a rule that is tried out would deny it.
    Audit = 2,
    /// Its address decides, which is known at the server's node: allowed at `connect()`, denied there.
    ByAddress = 3,
}

impl Access {
    /// From two bits.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        match bits & 3 {
            1 => Self::Allow,
            2 => Self::Audit,
            3 => Self::ByAddress,
            _ => Self::Deny,
        }
    }

    /// Grows with how much is denied.
    pub const fn strictness(self) -> u8 {
        match self {
            Self::Allow => 0,
            Self::Audit => 1,
            Self::ByAddress => 2,
            Self::Deny => 3,
        }
    }
}

/// Value of an inner map of `policies`: what it says about 32 identities, that of the lowest number in the lowest bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AccessWord {
    bits: u64,
}
abi_struct!(AccessWord: 8 { bits: 0 });

impl AccessWord {
    /// Identities in a word.
    pub const PER_WORD: u32 = 32;

    /// Index of the word of `identity`.
    #[inline(always)]
    pub const fn index(identity: u32) -> u32 {
        identity / Self::PER_WORD
    }

    /// What it says about `identity`, one of its own.
    #[inline(always)]
    pub const fn get(self, identity: u32) -> Access {
        Access::from_bits(self.bits >> (identity % Self::PER_WORD * 2))
    }

    /// The same with `access` for `identity`.
    #[must_use]
    pub const fn with(self, identity: u32, access: Access) -> Self {
        let shift = identity % Self::PER_WORD * 2;
        Self {
            bits: self.bits & !(3 << shift) | (access as u64) << shift,
        }
    }

    /// The table of `count` identities, with at least one word.
    #[cfg(feature = "user")]
    pub fn table(count: u32, access: impl Fn(u32) -> Access) -> impl ExactSizeIterator<Item = Self> {
        (0..count.div_ceil(Self::PER_WORD).max(1)).map(move |word| {
            let identities = word * Self::PER_WORD..count.min((word + 1) * Self::PER_WORD);
            identities.fold(Self::default(), |word, identity| {
                word.with(identity, access(identity))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Access; 4] = [Access::Deny, Access::Allow, Access::Audit, Access::ByAddress];

    #[test]
    fn each_identity_has_bits_of_its_own() {
        for identity in 0..AccessWord::PER_WORD {
            for access in ALL {
                let word = AccessWord { bits: u64::MAX }.with(identity, access);
                assert_eq!(word.get(identity), access);
                for other in (0..AccessWord::PER_WORD).filter(|other| *other != identity) {
                    assert_eq!(word.get(other), Access::ByAddress);
                }
            }
        }
    }

    #[test]
    fn what_was_not_written_is_denied() {
        assert_eq!(AccessWord::default().get(7), Access::Deny);
        assert_eq!(AccessWord::index(31), 0);
        assert_eq!(AccessWord::index(32), 1);
    }

    #[cfg(feature = "user")]
    #[test]
    fn a_table_has_a_word_for_each_identity_and_denies_the_rest() {
        extern crate std;
        let table: std::vec::Vec<_> = AccessWord::table(33, |_| Access::Allow).collect();
        assert_eq!(table.len(), 2);
        assert_eq!(table[1].get(32), Access::Allow);
        assert_eq!(table[1].get(33), Access::Deny);
        assert_eq!(AccessWord::table(0, |_| Access::Allow).len(), 1);
    }
}
