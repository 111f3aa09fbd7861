// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The record of a mesh socket, kept in `SK_STORAGE` (map `connections`): it lives and dies with the socket.
//!
//! Created by `connect4/6`, advanced by `inet_sock_set_state`, ended by `sock_release`, listed by the iterator
//! `bpf_sk_storage_map`. Invariant: [`Connection::state`] changes only by an atomic exchange, so each end is counted once
//! even when a reset and a close meet on two CPUs.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Ip16, Port, layout::abi_struct};

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

/// One mesh connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Connection {
    /// Address that the client dialled.
    pub service_addr: Ip16,
    /// Address that it was sent to.
    pub backend_addr: Ip16,
    /// Address of the client's end; unspecified until established.
    pub client_addr: Ip16,
    /// Cookie of the socket.
    pub cookie: u64,
    /// Cgroup of the task that called `connect()`.
    pub cgroup: u64,
    /// Hash of the client workload's name; 0 where none is known.
    pub workload: u64,
    /// Time of `connect()`, nanoseconds of `CLOCK_MONOTONIC`.
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
    /// A [`ConnectionState`].
    pub state: u32,
    /// Task group (process) that called `connect()`, in the initial pid namespace.
    pub tgid: u32,
}
abi_struct!(Connection: 104 {
    service_addr: 0, backend_addr: 16, client_addr: 32, cookie: 48, cgroup: 56, workload: 64, opened_ns: 72,
    service: 80, backend: 84, service_port: 88, backend_port: 90, client_port: 92, protocol: 94, state: 96, tgid: 100,
});
