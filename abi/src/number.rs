// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The `numbers` map: which number stands for which name in the kernel. Written and read by the agent alone, so that a number means the
//! same to the next agent: records of connections and counts by client hold numbers.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::abi_struct;

/// What a number is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum NumberKind {
    /// Identity of clients: index into the tables of `policies`.
    Identity = 1,
    /// Service: index into `rules` and `rule_states`.
    Rules = 2,
}

/// Key of `numbers`; the value is the number, `u32`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct NumberKey {
    /// Hash of the name.
    pub name: u64,
    /// A [`NumberKind`].
    pub kind: u32,
    /// Zero.
    pub pad: u32,
}
abi_struct!(NumberKey: 16 { name: 0, kind: 8, pad: 12 });

impl NumberKey {
    /// The key of the name with hash `name`.
    pub const fn new(kind: NumberKind, name: u64) -> Self {
        Self {
            name,
            kind: kind as u32,
            pad: 0,
        }
    }
}
