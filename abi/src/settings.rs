// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What the agent tells the programs: `settings` at run time, [`SockOffsets`] at load time.
//!
//! Invariant: an all-zero `settings` row is a valid one (nothing exempt, nothing logged), so the programs work before the
//! agent has written it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::abi_struct;

/// The only value of `settings`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Settings {
    /// Process id, in the initial pid namespace, of the agent, whose own sockets are left alone; 0 for none.
    pub agent_tgid: u32,
    /// Most verbose [`LogLevel`] that the programs log.
    pub log_level: u32,
    /// Bit n is set if `cgroups` has an entry at depth n below the cgroup root: the depths worth a lookup.
    pub cgroup_depths: u32,
    /// Number of UDP services: 0 lets the datagram hooks return at once.
    pub udp_services: u32,
}
abi_struct!(Settings: 16 { agent_tgid: 0, log_level: 4, cgroup_depths: 8, udp_services: 12 });

/// Verbosity of the programs, the numbers of `aya-log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum LogLevel {
    /// Nothing.
    Off = 0,
    /// Internal errors.
    Error = 1,
    /// Refused connections.
    Warn = 2,
    /// Nothing more at present.
    Info = 3,
    /// Every pick.
    Debug = 4,
    /// Every connection's start and end.
    Trace = 5,
}

/// Offsets, in bytes, of fields of the kernel's `struct sock`, read from the running kernel's BTF by the agent and placed
/// in the programs' read-only data. Rust has no CO-RE relocations yet; this is the same idea with one indirection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SockOffsets {
    /// `sk_err`: int.
    pub err: u32,
    /// `__sk_common.skc_family`: unsigned short.
    pub family: u32,
    /// `__sk_common.skc_num`: local port, u16 in host byte order.
    pub num: u32,
    /// `__sk_common.skc_rcv_saddr`: local IPv4 address.
    pub rcv_saddr: u32,
    /// `__sk_common.skc_v6_rcv_saddr`: local IPv6 address.
    pub v6_rcv_saddr: u32,
}
abi_struct!(SockOffsets: 20 { err: 0, family: 4, num: 8, rcv_saddr: 12, v6_rcv_saddr: 16 });
