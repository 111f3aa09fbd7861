// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The `flows` table: which backend an unconnected UDP socket talks to for a service, in both directions.
//!
//! `sendmsg4/6` writes a forward and a reverse row per (socket, service); `recvmsg4/6` reads the reverse one to give the
//! application the address that it knows. An LRU: an evicted flow is picked anew by its next datagram.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Ip16, Port, layout::abi_struct};

/// Values of [`FlowKey::direction`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowDirection {
    /// From the service's address to the backend.
    Forward = 0,
    /// From the backend's address to the service's.
    Reverse = 1,
}

/// Key of `flows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowKey {
    /// Cookie of the socket.
    pub cookie: u64,
    /// Address on the wire's or the application's side, by direction.
    pub addr: Ip16,
    /// Its port.
    pub port: Port,
    /// A [`FlowDirection`].
    pub direction: u8,
    /// Zero.
    pub pad: [u8; 5],
}
abi_struct!(FlowKey: 32 { cookie: 0, addr: 8, port: 24, direction: 26, pad: 27 });

impl FlowKey {
    /// The key of `addr`:`port` as seen by the socket `cookie` in `direction`.
    #[inline(always)]
    pub const fn new(cookie: u64, direction: FlowDirection, addr: Ip16, port: Port) -> Self {
        Self {
            cookie,
            addr,
            port,
            direction: direction as u8,
            pad: [0; 5],
        }
    }
}

/// Value of `flows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowValue {
    /// Address to put in place of the key's.
    pub addr: Ip16,
    /// Index into `backends`.
    pub backend: u32,
    /// Incarnation of that id which was meant.
    pub generation: u32,
    /// Port to put in place of the key's.
    pub port: Port,
    /// Zero.
    pub pad: [u8; 6],
}
abi_struct!(FlowValue: 32 { addr: 0, backend: 16, generation: 20, port: 24, pad: 26 });
