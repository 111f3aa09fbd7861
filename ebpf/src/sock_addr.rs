// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The one door to `struct bpf_sock_addr`: reads and writes the address of a call as an [`Ip16`], for both families.
//!
//! Invariant: `Family` is a constant at every call site, so each program contains only the accesses that the verifier
//! allows for its attach type (`user_ip4` in IPv4 hooks, `user_ip6` in IPv6 ones).

use core::ptr;

use aya_ebpf::{bindings::bpf_sock, programs::SockAddrContext};
use nodemesh_abi::{Ip16, Port};

/// Address family of the hook.
#[derive(Clone, Copy)]
pub enum Family {
    /// `AF_INET` sockets.
    V4,
    /// `AF_INET6` sockets, which may dial v4-mapped addresses too.
    V6,
}

/// An address and port.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub addr: Ip16,
    /// The port.
    pub port: Port,
}

/// The context of a `sock_addr` program.
pub struct SockAddr<'a> {
    pub ctx: &'a SockAddrContext,
    family: Family,
}

impl<'a> SockAddr<'a> {
    /// Wraps the context of a hook of `family`.
    #[inline(always)]
    pub fn new(ctx: &'a SockAddrContext, family: Family) -> Self {
        Self { ctx, family }
    }

    /// The address in the call's `sockaddr`.
    #[inline(always)]
    pub fn endpoint(&self) -> Endpoint {
        let ctx = self.ctx.sock_addr;
        // SAFETY: the kernel passes a valid context; volatile keeps each access at the size the verifier allows.
        unsafe {
            let addr = match self.family {
                Family::V4 => Ip16::from_v4_word(ptr::read_volatile(&raw const (*ctx).user_ip4)),
                Family::V6 => Ip16::from_words([
                    ptr::read_volatile(&raw const (*ctx).user_ip6[0]),
                    ptr::read_volatile(&raw const (*ctx).user_ip6[1]),
                    ptr::read_volatile(&raw const (*ctx).user_ip6[2]),
                    ptr::read_volatile(&raw const (*ctx).user_ip6[3]),
                ]),
            };
            Endpoint {
                addr,
                port: Port::from_be(ptr::read_volatile(&raw const (*ctx).user_port) as u16),
            }
        }
    }

    /// Replaces the address in the call's `sockaddr`.
    #[inline(always)]
    pub fn rewrite(&self, endpoint: Endpoint) {
        let ctx = self.ctx.sock_addr;
        // SAFETY: as in `endpoint`; these fields are writable in every hook that calls this.
        unsafe {
            match self.family {
                Family::V4 => ptr::write_volatile(&raw mut (*ctx).user_ip4, endpoint.addr.v4_word()),
                Family::V6 => {
                    let [a, b, c, d] = endpoint.addr.words();
                    ptr::write_volatile(&raw mut (*ctx).user_ip6[0], a);
                    ptr::write_volatile(&raw mut (*ctx).user_ip6[1], b);
                    ptr::write_volatile(&raw mut (*ctx).user_ip6[2], c);
                    ptr::write_volatile(&raw mut (*ctx).user_ip6[3], d);
                }
            }
            ptr::write_volatile(&raw mut (*ctx).user_port, u32::from(endpoint.port.be()));
        }
    }

    /// IANA number of the socket's protocol.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        // SAFETY: as in `endpoint`.
        unsafe { ptr::read_volatile(&raw const (*self.ctx.sock_addr).protocol) as u8 }
    }

    /// The socket.
    #[inline(always)]
    pub fn sk(&self) -> *mut bpf_sock {
        // SAFETY: as in `endpoint`; every `sock_addr` hook has a socket.
        unsafe { (*self.ctx.sock_addr).__bindgen_anon_1.sk }
    }

    /// The address that the socket is bound to; unspecified if it is not.
    #[inline(always)]
    pub fn bound_addr(&self) -> Ip16 {
        let sk = self.sk();
        // SAFETY: `sk` is the socket of the context, whose fields the verifier checks one by one.
        unsafe {
            match self.family {
                Family::V4 => Ip16::from_v4_word(ptr::read_volatile(&raw const (*sk).src_ip4)),
                Family::V6 => Ip16::from_words([
                    ptr::read_volatile(&raw const (*sk).src_ip6[0]),
                    ptr::read_volatile(&raw const (*sk).src_ip6[1]),
                    ptr::read_volatile(&raw const (*sk).src_ip6[2]),
                    ptr::read_volatile(&raw const (*sk).src_ip6[3]),
                ]),
            }
        }
    }
}
