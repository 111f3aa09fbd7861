// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What the agent tells the programs: `settings` at run time, [`SockOffsets`] at load time.
//!
//! Invariant: an all-zero `settings` row is a valid one (nothing exempt, nothing logged), so the programs work before the
//! agent has written it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{ABI_VERSION, layout::abi_struct, turn::SWITCHING};

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
    /// One of this many finished requests and connections is written to the access log; 0 for none.
    pub access_sample: u32,
    /// A [`MeterPath`].
    pub meter_path: u32,
    /// Most connections that are tracked at once; 0 for no limit.
    pub connection_limit: u32,
    /// Which programs at tracepoints are in force: those that were loaded with this number. Two may be attached during an upgrade,
    /// since a link to a tracepoint cannot be updated in place. One of [`SWITCHING`] is set shortly before a
    /// switch and shortly after it.
    pub epoch: u32,
    /// The version of the ABI whose programs may let messages take the shortcut; 0 for none. Those of another version, which sockets
    /// that were enrolled by it run until they are closed, leave everything to TCP.
    pub shortcut: u32,
}
abi_struct!(Settings: 36 {
    agent_tgid: 0, log_level: 4, cgroup_depths: 8, udp_services: 12, access_sample: 16, meter_path: 20, connection_limit: 24,
    epoch: 28, shortcut: 32,
});

impl Settings {
    /// What [`Self::shortcut`] says of programs of this version.
    pub const fn shortcut(enabled: bool) -> u32 {
        if enabled { ABI_VERSION } else { 0 }
    }

    /// The epoch itself.
    #[inline(always)]
    pub const fn epoch_in_force(&self) -> u32 {
        self.epoch & !SWITCHING
    }

    /// Whether programs of this version may let messages take the shortcut.
    #[inline(always)]
    pub const fn has_shortcut(&self) -> bool {
        self.shortcut == ABI_VERSION
    }
}

/// Where the meter's byte events come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MeterPath {
    /// The tracepoints `sock_send_length` and `sock_recv_length` (Linux 6.3): one event per application read and write.
    Tracepoint = 0,
    /// Packets at `cgroup_skb`: one event per packet with new bytes.
    Packet = 1,
    /// Nowhere: nothing is metered.
    Off = 2,
}

impl MeterPath {
    /// The word for people and labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tracepoint => "tracepoint",
            Self::Packet => "packet",
            Self::Off => "off",
        }
    }
}

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
    /// `__sk_common.skc_dport`: remote port, network byte order.
    pub dport: u32,
    /// `__sk_common.skc_daddr`: remote IPv4 address.
    pub daddr: u32,
    /// `__sk_common.skc_v6_daddr`: remote IPv6 address.
    pub v6_daddr: u32,
    /// `__sk_common.skc_state`: volatile unsigned char.
    pub state: u32,
    /// `sk_flags`: unsigned long.
    pub flags: u32,
    /// `sk_lingertime`: unsigned long.
    pub lingertime: u32,
    /// `tcp_sock.write_seq`: u32.
    pub write_seq: u32,
    /// `tcp_sock.rcv_nxt`: u32.
    pub rcv_nxt: u32,
    /// `tcp_sock.copied_seq`: u32.
    pub copied_seq: u32,
    /// `tcp_sock.srtt_us`: u32, eighths of a microsecond.
    pub srtt_us: u32,
    /// `tcp_sock.total_retrans`: u32.
    pub total_retrans: u32,
    /// `sk_protocol`: u16, the IANA protocol number.
    pub protocol: u32,
    /// `socket.sk`: pointer to the `struct sock` of a `struct socket`.
    pub socket_sk: u32,
    /// `sk_rcvbuf`: int.
    pub rcvbuf: u32,
    /// `sk_rcvlowat`: int.
    pub rcvlowat: u32,
    /// `sk_cgrp_data.cgroup`: pointer to the `struct cgroup` of the task that made the socket.
    pub cgroup: u32,
    /// `cgroup.level`: int, how deep it is.
    pub cgroup_level: u32,
    /// `cgroup.ancestors`: pointers to the cgroups from the root down to itself (Linux 6.1); 0 before.
    pub cgroup_ancestors: u32,
    /// `cgroup.kn`: pointer to its `struct kernfs_node`.
    pub cgroup_node: u32,
    /// `kernfs_node.id`: u64.
    pub node_id: u32,
    /// `inet_connection_sock.icsk_ulp_ops`: pointer, not null if the kernel itself speaks a protocol above TCP (kTLS).
    pub ulp: u32,
    /// `sk_socket`: pointer, null if no application has or ever had the socket.
    pub sk_socket: u32,
    /// `tcp_sock.snd_una`: u32.
    pub snd_una: u32,
    /// `tcp_sock.bytes_acked`: u64.
    pub bytes_acked: u32,
    /// `tcp_sock.bytes_received`: u64.
    pub bytes_received: u32,
    /// `sk_user_data`: pointer, not null if the socket is in a map of sockets.
    pub user_data: u32,
}
abi_struct!(SockOffsets: 124 {
    err: 0, family: 4, num: 8, rcv_saddr: 12, v6_rcv_saddr: 16, dport: 20, daddr: 24, v6_daddr: 28, state: 32, flags: 36,
    lingertime: 40, write_seq: 44, rcv_nxt: 48, copied_seq: 52, srtt_us: 56, total_retrans: 60, protocol: 64, socket_sk: 68, rcvbuf: 72,
    rcvlowat: 76, cgroup: 80, cgroup_level: 84, cgroup_ancestors: 88, cgroup_node: 92, node_id: 96, ulp: 100,
    sk_socket: 104, snd_una: 108, bytes_acked: 112, bytes_received: 116,
    user_data: 120,
});
