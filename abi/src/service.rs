// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The `services` map and the counters beside it.
//!
//! One row is one (address, port, protocol) of a service; a service with several addresses or ports has several.
//! Written by the agent, read by every `sock_addr` program; `service_states` is written by the programs.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Ip16, Port, Refusal, layout::abi_struct};

/// Transport protocol, by its IANA number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Protocol {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
}

/// Key of `services`: a virtual address that a client may dial.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ServiceKey {
    /// Virtual address.
    pub addr: Ip16,
    /// Virtual port.
    pub port: Port,
    /// IANA protocol number, see [`Protocol`].
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}
abi_struct!(ServiceKey: 20 { addr: 0, port: 16, protocol: 18, pad: 19 });

impl ServiceKey {
    /// The key of (`addr`, `port`, `protocol`).
    #[inline(always)]
    pub const fn new(addr: Ip16, port: Port, protocol: u8) -> Self {
        Self {
            addr,
            port,
            protocol,
            pad: 0,
        }
    }
}

/// How a replica is chosen among the slots of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Algorithm {
    /// A random slot.
    Random = 0,
    /// The slots in turn.
    RoundRobin = 1,
    /// The less loaded of two random slots (load = active connections / weight).
    LeastRequest = 2,
    /// The slot that the client's key hashes to in a Maglev table.
    Maglev = 3,
}

/// What identifies a client to `maglev` and to session affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ClientKeySource {
    /// The workload behind the socket's cgroup, or the cgroup itself where no workload is known.
    Workload = 0,
    /// The client's address: the one the socket is bound to, else its workload's, else its network namespace.
    Address = 1,
}

/// Most tiers of backends after the first; their tables are in `tier_tables`.
pub const TIERS: u32 = 3;

/// Value of `services`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Service {
    /// Index into `slot_tables` and `service_states`.
    pub id: u32,
    /// Seconds that a client stays with its backend after its last connection; 0 turns affinity off.
    pub affinity_timeout_s: u32,
    /// An [`Algorithm`].
    pub algorithm: u8,
    /// A [`ClientKeySource`].
    pub client_key: u8,
    /// Tiers after the first, at most [`TIERS`]: which backends to take when those of `slot_tables` will not do.
    pub tiers: u8,
    /// Zero.
    pub pad: u8,
    /// Index into `rules`.
    pub rules: u32,
    /// Index into `policies`; 0 if every client may connect.
    pub policy: u32,
}
abi_struct!(Service: 20 {
    id: 0, affinity_timeout_s: 4, algorithm: 8, client_key: 9, tiers: 10, pad: 11, rules: 12, policy: 16,
});

/// Index into `tier_tables` of tier `tier`, from 1 on, of the service with id `id`.
#[inline(always)]
pub const fn tier_table(id: u32, tier: u32) -> u32 {
    id.wrapping_mul(TIERS).wrapping_add(tier).wrapping_sub(1)
}

/// Value of `service_states`, indexed by [`Service::id`]; written by the programs with atomic additions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ServiceState {
    /// Picks made by `round-robin`.
    pub rotation: u64,
    /// Connections refused, by [`Refusal`].
    pub refused: [u64; Refusal::COUNT],
    /// Something that a later version counts.
    #[cfg(feature = "next")]
    pub later: u64,
}
#[cfg(not(feature = "next"))]
abi_struct!(ServiceState: 48 { rotation: 0, refused: 8 });
#[cfg(feature = "next")]
abi_struct!(ServiceState: 56 { rotation: 0, refused: 8, later: 48 });
