// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The one door to the kernel's `struct sock`, for tracing programs. Offsets come from the running kernel's BTF.
//!
//! Invariant: a field that cannot be read is 0, as if it were not set.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated::bpf_skc_to_tcp_sock};
use nodemesh_abi::{Ip16, Port, Protocol, SockOffsets};

use crate::{lifecycle::tcp, maps, sock_addr::Endpoint};

/// `AF_INET` of Linux.
const AF_INET: u16 = 2;
/// Bit of `sk_flags`: `SOCK_LINGER` of the kernel's `enum sock_flags`.
const SOCK_LINGER: u64 = 1 << 4;
/// `AF_INET6` of Linux.
const AF_INET6: u16 = 10;

/// A `struct sock`.
#[derive(Clone, Copy)]
pub struct KernelSock {
    sk: *const c_void,
}

/// Offset of a field on the running kernel; read alone, because a load of all of them is a load of each.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a field of read-only data that the loader has filled.
        unsafe {
            (&raw const (*(&raw const maps::SOCK_OFFSETS).cast::<SockOffsets>()).$field).read_volatile()
        }
    };
}

impl KernelSock {
    /// Wraps a socket that a tracepoint passed.
    #[inline(always)]
    pub fn new(sk: *const c_void) -> Self {
        Self { sk }
    }

    #[inline(always)]
    fn read<T: Default>(self, offset: u32) -> T {
        // SAFETY: the helper checks the address itself and fails instead of faulting.
        unsafe { bpf_probe_read_kernel(self.sk.byte_add(offset as usize).cast::<T>()) }.unwrap_or_default()
    }

    /// The socket that the `struct socket` at `socket` is the door to; for a pointer that the verifier knows.
    ///
    /// # Safety
    /// `socket` is what `bpf_sock_from_file` returned, and not null.
    #[inline(always)]
    pub unsafe fn behind(socket: *mut c_void) -> *const c_void {
        let offset = offset!(socket_sk) as usize;
        // SAFETY: the caller's; the verifier checks the access.
        unsafe { socket.byte_add(offset).cast::<*const c_void>().read_volatile() }
    }

    /// `sk_err`: a positive errno or 0.
    #[inline(always)]
    pub fn err(self) -> i32 {
        self.read(offset!(err))
    }

    /// The local address and port.
    #[inline(always)]
    pub fn local(self) -> Endpoint {
        Endpoint {
            addr: self.addr(offset!(rcv_saddr), offset!(v6_rcv_saddr)),
            port: Port::new(self.read(offset!(num))),
        }
    }

    /// The peer's address and port.
    #[inline(always)]
    pub fn peer(self) -> Endpoint {
        Endpoint {
            addr: self.addr(offset!(daddr), offset!(v6_daddr)),
            port: Port::from_be(self.read(offset!(dport))),
        }
    }

    #[inline(always)]
    fn addr(self, v4: u32, v6: u32) -> Ip16 {
        if self.family() == AF_INET6 {
            Ip16::from_words(self.read(v6))
        } else {
            Ip16::from_v4_word(self.read(v4))
        }
    }

    #[inline(always)]
    fn family(self) -> u16 {
        self.read(offset!(family))
    }

    /// Whether this is a TCP socket over IPv4 or IPv6.
    #[inline(always)]
    pub fn is_tcp(self) -> bool {
        let family = self.family();
        (family == AF_INET || family == AF_INET6) && self.protocol() == Protocol::Tcp as u16
    }

    /// IANA protocol number.
    #[inline(always)]
    fn protocol(self) -> u16 {
        self.read(offset!(protocol))
    }

    /// `sk_state`, a number of the kernel's `net/tcp_states.h`.
    #[inline(always)]
    pub fn state(self) -> u8 {
        self.read(offset!(state))
    }

    /// Sequence numbers of the next byte that the application sends and reads.
    #[inline(always)]
    pub fn sequence(self) -> (u32, u32) {
        (self.read(offset!(write_seq)), self.read(offset!(copied_seq)))
    }

    /// Bytes that have arrived and were not read.
    #[inline(always)]
    pub fn unread(self) -> u32 {
        let arrived: u32 = self.read(offset!(rcv_nxt));
        // The peer's FIN takes a sequence number, which nobody reads.
        let fin = u32::from(i32::from(self.state()) == tcp::CLOSE_WAIT);
        let unread = arrived.wrapping_sub(self.read(offset!(copied_seq)));
        unread.saturating_sub(fin)
    }

    /// Whether closing it now ends the connection by a RST: with unread data, or with a linger time of 0, and not after a FIN of this
    /// side's own.
    #[inline(always)]
    pub fn close_resets(self) -> bool {
        let state = i32::from(self.state());
        if state != tcp::ESTABLISHED && state != tcp::CLOSE_WAIT {
            return false;
        }
        let lingers = self.read::<u64>(offset!(flags)) & SOCK_LINGER != 0;
        self.unread() != 0 || lingers && self.read::<u32>(offset!(lingertime)) == 0
    }

    /// Most bytes that may wait to be read, as the kernel counts them.
    #[inline(always)]
    pub fn receive_buffer(self) -> u32 {
        self.read(offset!(rcvbuf))
    }

    /// Whether no application has it.
    #[inline(always)]
    pub fn is_orphan(self) -> bool {
        self.read::<u64>(offset!(sk_socket)) == 0
    }

    /// Address of the `struct cgroup` of the task that made the socket.
    #[inline(always)]
    pub fn cgroup(self) -> u64 {
        self.read(offset!(cgroup))
    }

    /// Id of the cgroup at `depth` above the `struct cgroup` at this address, or of its own; 0 if it is less deep.
    #[inline(always)]
    pub fn cgroup_above(cgroup: u64, depth: u32) -> u64 {
        let cgroup = Self::new(cgroup as *const c_void);
        if cgroup.read::<u32>(offset!(cgroup_level)) < depth {
            return 0;
        }
        let ancestor = Self::new(cgroup.read::<u64>(offset!(cgroup_ancestors) + depth * 8) as *const c_void);
        let node = Self::new(ancestor.read::<u64>(offset!(cgroup_node)) as *const c_void);
        node.read(offset!(node_id))
    }

    /// Whether it is in a map of sockets, of this node's mesh or of anybody.
    #[inline(always)]
    pub fn is_in_map_of_sockets(self) -> bool {
        self.read::<u64>(offset!(user_data)) != 0
    }

    /// Sequence numbers of the first bytes that it sent, one less on the side that connected, and that it received. Wrong, as a pair of two
    /// connections is, if a packet comes meanwhile.
    #[inline(always)]
    pub fn first_bytes(self) -> (u32, u32) {
        let acked = self.read::<u64>(offset!(bytes_acked)) as u32;
        let received = self.read::<u64>(offset!(bytes_received)) as u32;
        let sent = self.read::<u32>(offset!(snd_una)).wrapping_sub(acked);
        (sent, self.read::<u32>(offset!(rcv_nxt)).wrapping_sub(received))
    }

    /// Smoothed round-trip time, microseconds; 0 before the first sample.
    #[inline(always)]
    pub fn rtt_us(self) -> u32 {
        self.read::<u32>(offset!(srtt_us)) >> 3
    }

    /// Segments sent again.
    #[inline(always)]
    pub fn retransmits(self) -> u32 {
        self.read(offset!(total_retrans))
    }
}

/// A `struct tcp_sock` that the verifier knows, so that fields are loaded in place instead of by a helper each.
#[derive(Clone, Copy)]
pub struct KnownTcp {
    tcp: *const c_void,
}

impl KnownTcp {
    /// Of a socket that the verifier knows; `None` if it is none of TCP.
    ///
    /// # Safety
    /// `sk` came from the kernel as an argument or a field of the context, and is not null.
    #[inline(always)]
    pub unsafe fn of(sk: *const c_void) -> Option<Self> {
        // SAFETY: the caller's; the verifier demands the null check.
        let tcp = unsafe { bpf_skc_to_tcp_sock(sk.cast_mut()) };
        if tcp.is_null() {
            return None;
        }
        Some(Self {
            tcp: tcp.cast_const().cast(),
        })
    }

    /// Where it is, for those who read through [`KernelSock`].
    #[inline(always)]
    pub fn as_ptr(self) -> *const c_void {
        self.tcp
    }

    #[inline(always)]
    fn load<T>(self, offset: u32) -> T {
        // SAFETY: the verifier checks the access against the kernel's own types; a socket that is gone reads as 0.
        unsafe { self.tcp.byte_add(offset as usize).cast::<T>().read_volatile() }
    }

    /// Sequence number of the next byte that the application sends.
    #[inline(always)]
    pub fn written(self) -> u32 {
        self.load(offset!(write_seq))
    }

    /// Sequence number of the next byte that the application reads.
    #[inline(always)]
    pub fn copied(self) -> u32 {
        self.load(offset!(copied_seq))
    }

    /// Bytes that have arrived after `copied`, the peer's FIN aside.
    #[inline(always)]
    pub fn unread(self, copied: u32) -> u32 {
        let arrived: u32 = self.load(offset!(rcv_nxt));
        let fin = u32::from(i32::from(self.load::<u8>(offset!(state))) == tcp::CLOSE_WAIT);
        arrived.wrapping_sub(copied).saturating_sub(fin)
    }

    /// See [`KernelSock::receive_buffer`].
    #[inline(always)]
    pub fn receive_buffer(self) -> u32 {
        self.load(offset!(rcvbuf))
    }

    /// Fewest bytes that a read waits for.
    #[inline(always)]
    pub fn low_water(self) -> i32 {
        self.load(offset!(rcvlowat))
    }

    /// Whether the kernel itself speaks a protocol above TCP here.
    #[inline(always)]
    pub fn has_upper_protocol(self) -> bool {
        self.load::<u64>(offset!(ulp)) != 0
    }
}
