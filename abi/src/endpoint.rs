// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The `endpoints` map: addresses at which backends of the mesh listen. Written by the agent, read when a socket is accepted.
//!
//! The server's vantage: a socket that is accepted at one of these addresses belongs to the backend, wherever its client is.
//! Invariant: an address that several services name belongs to the first of them in the order of their names.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Ip16, Port, layout::abi_struct};

/// Key of `endpoints`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct EndpointKey {
    /// Address of the backend.
    pub addr: Ip16,
    /// TCP port of the backend.
    pub port: Port,
    /// Zero.
    pub pad: u16,
}
abi_struct!(EndpointKey: 20 { addr: 0, port: 16, pad: 18 });

impl EndpointKey {
    /// The key of (`addr`, `port`).
    #[inline(always)]
    pub const fn new(addr: Ip16, port: Port) -> Self {
        Self { addr, port, pad: 0 }
    }
}

/// Value of `endpoints`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Endpoint {
    /// [`crate::Service::id`].
    pub service: u32,
    /// Index into `backends`.
    pub backend: u32,
    /// [`crate::Backend::traffic`] of that backend.
    pub traffic: u32,
    /// Index into `policies`: what the services of this address demand together; 0 if every client may connect.
    pub policy: u32,
}
abi_struct!(Endpoint: 16 { service: 0, backend: 4, traffic: 8, policy: 12 });
