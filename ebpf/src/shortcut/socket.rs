// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The socket behind an event of `sock_ops`: its record, its two addresses, and whether its cgroup opted out.
//!
//! Used by `enrol`, `leave` and `rejoin`. Invariant: a field of the context is read whole and alone, as the verifier demands.

use aya_ebpf::{
    bindings::bpf_sock_ops,
    helpers::generated::{bpf_get_netns_cookie, bpf_skc_to_tcp_sock},
};
use nodemesh_abi::{CgroupEntry, Ip16, Port, limits::MAX_CGROUP_DEPTH, shortcut::OfferKey};

use crate::{kernel_sock::KernelSock, maps, record::Record, sock_addr::Endpoint};

/// `AF_INET` of Linux.
const AF_INET: u32 = 2;

/// The socket behind an event.
#[derive(Clone, Copy)]
pub(super) struct Socket {
    pub(super) record: Record,
    pub(super) sk: KernelSock,
}

impl Socket {
    /// Of an event of a mesh socket.
    #[inline(always)]
    pub(super) fn of(ops: *mut bpf_sock_ops) -> Option<Self> {
        // SAFETY: the kernel passes this context; the verifier demands the null checks.
        unsafe {
            let sk = (*ops).__bindgen_anon_2.sk;
            if sk.is_null() {
                return None;
            }
            let tcp = bpf_skc_to_tcp_sock(sk.cast());
            if tcp.is_null() {
                return None;
            }
            let record = Record::of(tcp.cast())?;
            let sk = KernelSock::new(tcp.cast_const().cast());
            Some(Self { record, sk })
        }
    }

    /// What the cgroup that made it and those above say of the shortcut.
    #[inline(always)]
    pub(super) fn choice(self, depths: u32) -> Choice {
        if depths == 0 {
            return Choice(0);
        }
        Choice(choices(self.sk.cgroup(), depths))
    }
}

/// Bits of [`CgroupEntry::excluded`] of the `struct cgroup` at this address and of those above. A function of numbers, which the verifier
/// walks through once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn choices(cgroup: u64, depths: u32) -> u32 {
    let mut found = 0;
    for depth in 0..=MAX_CGROUP_DEPTH {
        if depths & (1 << depth) == 0 {
            continue;
        }
        // SAFETY: copied at once; an update by the agent replaces the element.
        if let Some(entry) = unsafe { maps::cgroups.get(KernelSock::cgroup_above(cgroup, depth)) } {
            found |= entry.excluded;
        }
    }
    found
}

/// Bits of [`CgroupEntry::excluded`] of a cgroup and of those above.
#[derive(Clone, Copy)]
pub(super) struct Choice(u32);

impl Choice {
    /// Kept from it.
    #[inline(always)]
    pub(super) fn is_out(self) -> bool {
        self.0 & (CgroupEntry::ALONE | CgroupEntry::NO_SHORTCUT) != 0
    }

    /// Opted in for the connections that it opens.
    #[inline(always)]
    pub(super) fn is_in(self) -> bool {
        self.0 & CgroupEntry::SHORTCUT != 0
    }
}

/// The field of the context, read whole and alone: the verifier allows no other access, and the compiler would join several.
macro_rules! field {
    ($ops:ident, $($field:tt)+) => {
        $crate::opaque::unknown(u64::from((&raw const (*$ops).$($field)+).read_volatile())) as u32
    };
}

pub(super) use field;

/// The two ends of a socket: its own, and the peer's.
#[inline(always)]
pub(super) fn ends(ops: *mut bpf_sock_ops) -> (Endpoint, Endpoint) {
    // SAFETY: the kernel's context. What a socket of the other family has there is not used.
    unsafe {
        let is_v4 = field!(ops, family) == AF_INET;
        // The first of four bytes in network byte order; the own port is a number.
        let peer_port = Port::new((u32::from_be(field!(ops, remote_port)) & 0xffff) as u16);
        let own_port = Port::new((field!(ops, local_port) & 0xffff) as u16);
        let (own, peer) = (field!(ops, local_ip4), field!(ops, remote_ip4));
        let own6 = [
            field!(ops, local_ip6[0]),
            field!(ops, local_ip6[1]),
            field!(ops, local_ip6[2]),
            field!(ops, local_ip6[3]),
        ];
        let peer6 = [
            field!(ops, remote_ip6[0]),
            field!(ops, remote_ip6[1]),
            field!(ops, remote_ip6[2]),
            field!(ops, remote_ip6[3]),
        ];
        let addr = |v4, v6| {
            if is_v4 {
                Ip16::from_v4_word(v4)
            } else {
                Ip16::from_words(v6)
            }
        };
        let own = Endpoint {
            addr: addr(own, own6),
            port: own_port,
        };
        let peer = Endpoint {
            addr: addr(peer, peer6),
            port: peer_port,
        };
        (own, peer)
    }
}

/// The key of the connection from `client` to `server`.
#[inline(always)]
pub(super) fn key(ops: *mut bpf_sock_ops, client: Endpoint, server: Endpoint) -> OfferKey {
    let netns = if server.addr.is_loopback() {
        // SAFETY: the helper takes the hook's own context.
        unsafe { bpf_get_netns_cookie(ops.cast()) }
    } else {
        0
    };
    OfferKey {
        client: client.addr,
        server: server.addr,
        netns,
        client_port: client.port,
        server_port: server.port,
        pad: 0,
    }
}
