// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The record of a mesh socket, kept in `SK_STORAGE` (map `connections`): it lives and dies with the socket.
//!
//! Created by `connect4/6` on the client's side and by `inet_sock_set_state` on the server's, ended by `sock_release`, listed
//! by the iterator `bpf_sk_storage_map`. Invariants: [`Connection::state`] changes only by an atomic exchange, so each end is
//! counted once even when a reset and a close meet on two CPUs; [`Connection::meter`] changes only while the lock is held.

use core::mem::offset_of;

use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout};

use crate::{Effects, Ip16, Meter, Port, layout::abi_struct};

/// Values of [`Connection::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ConnectionState {
    /// No longer counted on its backend: closed, failed, or never placed.
    Ended = 0,
    /// The SYN is on its way.
    Connecting = 1,
    /// Established, or a connected UDP socket.
    Established = 2,
}

impl ConnectionState {
    /// From the number in a record; an unknown one counts as ended.
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            1 => Self::Connecting,
            2 => Self::Established,
            _ => Self::Ended,
        }
    }
}

/// The kernel's lock for a part of a map value (`bpf_spin_lock()`), found by the name of its type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct bpf_spin_lock {
    val: u32,
}

impl bpf_spin_lock {
    /// A lock that nobody holds.
    pub const FREE: Self = Self { val: 0 };
}

/// One mesh connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Connection {
    /// Held while [`Connection::meter`] is read and written.
    pub lock: bpf_spin_lock,
    /// A [`ConnectionState`].
    pub state: u32,
    /// Address that the client dialled; unspecified at the server's vantage.
    pub service_addr: Ip16,
    /// Address of the backend.
    pub backend_addr: Ip16,
    /// Address of the client's end; unspecified until established.
    pub client_addr: Ip16,
    /// Cookie of the socket.
    pub cookie: u64,
    /// Cgroup of the task that called `connect()`; 0 at the server's vantage.
    pub cgroup: u64,
    /// Hash of the client workload's name; 0 where none is known.
    pub workload: u64,
    /// Time of `connect()`, or of the handshake's end at the server's vantage; nanoseconds of `CLOCK_MONOTONIC`.
    pub opened_ns: u64,
    /// [`crate::Service::id`].
    pub service: u32,
    /// Index into `backends`.
    pub backend: u32,
    /// Port that the client dialled.
    pub service_port: Port,
    /// Port that it was sent to.
    pub backend_port: Port,
    /// Port of the client's end; 0 until established.
    pub client_port: Port,
    /// IANA protocol number.
    pub protocol: u16,
    /// Task group (process) that called `connect()`, in the initial pid namespace; 0 at the server's vantage.
    pub tgid: u32,
    /// Index into `traffic`.
    pub traffic: u32,
    /// Client's identity.
    pub identity: u32,
    /// Index into `rules`.
    pub rules: u32,
    /// Where else than on its backend it is counted: bits of [`Counted`].
    pub counted: u32,
    /// Index into `policies`, of the policy that let it through.
    pub policy: u32,
    /// What travels on it.
    pub meter: Meter,
    /// What of that is not in its row yet. Guarded by the lock too.
    pub untold: Untold,
    /// Something that a later version remembers.
    #[cfg(feature = "next")]
    pub later: u64,
}
#[cfg(not(feature = "next"))]
abi_struct!(Connection: 376 {
    lock: 0, state: 4, service_addr: 8, backend_addr: 24, client_addr: 40, cookie: 56, cgroup: 64, workload: 72, opened_ns: 80,
    service: 88, backend: 92, service_port: 96, backend_port: 98, client_port: 100, protocol: 102, tgid: 104, traffic: 108,
    identity: 112, rules: 116, counted: 120, policy: 124, meter: 128, untold: 352,
});
#[cfg(feature = "next")]
abi_struct!(Connection: 384 {
    lock: 0, state: 4, service_addr: 8, backend_addr: 24, client_addr: 40, cookie: 56, cgroup: 64, workload: 72, opened_ns: 80,
    service: 88, backend: 92, service_port: 96, backend_port: 98, client_port: 100, protocol: 102, tgid: 104, traffic: 108,
    identity: 112, rules: 116, counted: 120, policy: 124, meter: 128, untold: 352, later: 376,
});

/// Bits of [`Connection::counted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted;

impl Counted {
    /// In `rule_states`.
    pub const SERVICE: u32 = 1;
    /// In `clients`.
    pub const CLIENT: u32 = 2;
    /// In `short_ends`: the socket is an end of a shortcut. Set once, when the connection is established.
    pub const SHORT: u32 = 4;
}

/// What every token adds, gathered by its socket and added to the row at most every 100 ms, because the CPUs of a node share the row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Untold {
    /// Sum of inter-token gaps, nanoseconds.
    pub gaps_ns: u64,
    /// Bytes in request direction.
    pub bytes_up: u32,
    /// Bytes in response direction.
    pub bytes_down: u32,
    /// Chunks.
    pub chunks: u32,
    /// When the row was told last, in units of 2^20 ns.
    pub told: u32,
}
abi_struct!(Untold: 24 { gaps_ns: 0, bytes_up: 8, bytes_down: 12, chunks: 16, told: 20 });

/// Units of [`Untold::told`] between two tellings: 100 ms.
const TELL_EVERY: u32 = 95;

impl Untold {
    /// Gathers what `effects` add to it.
    #[inline(always)]
    pub fn gather(&mut self, effects: &Effects) {
        let [a, b, c] = effects.gaps_ns;
        self.gaps_ns += match effects.gap_count {
            0 => 0,
            1 => a,
            2 => a + b,
            _ => a + b + c,
        };
        self.bytes_up = self.bytes_up.wrapping_add(effects.bytes_up);
        self.bytes_down = self.bytes_down.wrapping_add(effects.bytes_down);
        self.chunks = self.chunks.wrapping_add(effects.chunks);
    }

    /// Whether it is to be told at `now`, when a request begins or ends, or what was gathered is much or old.
    #[inline(always)]
    pub fn is_due(&self, effects: &Effects, now: u64) -> bool {
        let old = ((now >> 20) as u32).wrapping_sub(self.told) >= TELL_EVERY;
        let much = (self.bytes_up | self.bytes_down) >> 30 != 0;
        old || much || effects.tell || effects.in_flight != 0 || effects.finished.is_some()
    }
}

/// The only value of `conn_table`: how full the table of connections is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TableState {
    /// Records that have not ended.
    pub entries: u64,
}
abi_struct!(TableState: 8 { entries: 0 });

/// One connection as `list_conns` and `sweep` tell of it: the record, and what the socket itself knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ListedConnection {
    /// The record. Of its meter, what [`Excerpt`] has.
    pub connection: Connection,
    /// Smoothed round-trip time, microseconds; 0 before the first sample and for UDP.
    pub rtt_us: u32,
    /// Segments sent again.
    pub retransmits: u32,
    /// State of the socket: the number of the kernel's `net/tcp_states.h`.
    pub tcp_state: u32,
    /// Bytes that the application has not read.
    pub unread: u32,
}
#[cfg(not(feature = "next"))]
abi_struct!(ListedConnection: 392 {
    connection: 0, rtt_us: 376, retransmits: 380, tcp_state: 384, unread: 388,
});
#[cfg(feature = "next")]
abi_struct!(ListedConnection: 400 {
    connection: 0, rtt_us: 384, retransmits: 388, tcp_state: 392, unread: 396,
});

/// Bytes of a [`Connection`] before its meter.
pub const IDENTITY_BYTES: usize = offset_of!(Connection, meter);

/// What the iterators write after the first [`IDENTITY_BYTES`] of a record. An excerpt, because the kernel hands out 32 KiB at a
/// time and walks over all former sockets for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Excerpt {
    /// [`Meter::bytes_up`].
    pub bytes_up: u64,
    /// [`Meter::bytes_down`].
    pub bytes_down: u64,
    /// [`Meter::last_ns`].
    pub last_ns: u64,
    /// [`Meter::held_bytes`].
    pub held_bytes: u64,
    /// Beginning of the exchange.
    pub start_ns: u64,
    /// First token of the exchange.
    pub first_token_ns: u64,
    /// [`Meter::flags`].
    pub flags: u32,
    /// [`Meter::open`].
    pub open: u32,
    /// [`Meter::requests`].
    pub requests: u32,
    /// [`Meter::phase`].
    pub phase: u8,
    /// [`Meter::wire`].
    pub wire: u8,
    /// [`Meter::vantage`].
    pub vantage: u8,
    /// [`Meter::status`].
    pub status: u8,
    /// As in [`ListedConnection`].
    pub rtt_us: u32,
    /// As in [`ListedConnection`].
    pub retransmits: u32,
    /// As in [`ListedConnection`].
    pub tcp_state: u32,
    /// As in [`ListedConnection`].
    pub unread: u32,
}
abi_struct!(Excerpt: 80 {
    bytes_up: 0, bytes_down: 8, last_ns: 16, held_bytes: 24, start_ns: 32, first_token_ns: 40, flags: 48, open: 52, requests: 56,
    phase: 60, wire: 61, vantage: 62, status: 63, rtt_us: 64, retransmits: 68, tcp_state: 72, unread: 76,
});

/// What the iterators write for each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ListedExcerpt {
    /// The beginning of the [`Connection`].
    pub identity: [u8; IDENTITY_BYTES],
    /// The rest.
    pub excerpt: Excerpt,
}
abi_struct!(ListedExcerpt: 208 { identity: 0, excerpt: 128 });

impl From<&ListedExcerpt> for ListedConnection {
    fn from(listed: &ListedExcerpt) -> Self {
        let excerpt = &listed.excerpt;
        let mut whole = Self::new_zeroed();
        let (identity, _) = whole.as_mut_bytes().split_at_mut(IDENTITY_BYTES);
        identity.copy_from_slice(&listed.identity);
        whole.rtt_us = excerpt.rtt_us;
        whole.retransmits = excerpt.retransmits;
        whole.tcp_state = excerpt.tcp_state;
        whole.unread = excerpt.unread;
        let meter = &mut whole.connection.meter;
        meter.bytes_up = excerpt.bytes_up;
        meter.bytes_down = excerpt.bytes_down;
        meter.last_ns = excerpt.last_ns;
        meter.held_bytes = excerpt.held_bytes;
        meter.exchange.start_ns = excerpt.start_ns;
        meter.exchange.first_token_ns = excerpt.first_token_ns;
        meter.flags = excerpt.flags;
        meter.open = excerpt.open;
        meter.requests = excerpt.requests;
        meter.phase = excerpt.phase;
        meter.wire = excerpt.wire;
        meter.vantage = excerpt.vantage;
        meter.status = excerpt.status;
        whole
    }
}
