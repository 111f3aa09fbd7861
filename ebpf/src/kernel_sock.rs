// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The one door to the kernel's `struct sock`, for tracing programs. Offsets come from the running kernel's BTF.
//!
//! Invariant: a field that cannot be read is 0, as if it were not set.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_probe_read_kernel;
use nodemesh_abi::{Ip16, Port, SockOffsets};

use crate::{maps, sock_addr::Endpoint};

/// `AF_INET6` of Linux.
const AF_INET6: u16 = 10;

/// A `struct sock`.
pub struct KernelSock {
    sk: *const c_void,
    offsets: SockOffsets,
}

impl KernelSock {
    /// Wraps a socket that a tracepoint passed.
    #[inline(always)]
    pub fn new(sk: *const c_void) -> Self {
        Self {
            sk,
            offsets: maps::SOCK_OFFSETS.load(),
        }
    }

    #[inline(always)]
    fn read<T: Default>(&self, offset: u32) -> T {
        // SAFETY: the helper checks the address itself and fails instead of faulting.
        unsafe { bpf_probe_read_kernel(self.sk.byte_add(offset as usize).cast::<T>()) }.unwrap_or_default()
    }

    /// `sk_err`: a positive errno or 0.
    #[inline(always)]
    pub fn err(&self) -> i32 {
        self.read(self.offsets.err)
    }

    /// The local address and port.
    #[inline(always)]
    pub fn local(&self) -> Endpoint {
        let addr = if self.read::<u16>(self.offsets.family) == AF_INET6 {
            Ip16::from_words(self.read(self.offsets.v6_rcv_saddr))
        } else {
            Ip16::from_v4_word(self.read(self.offsets.rcv_saddr))
        };
        Endpoint {
            addr,
            port: Port::new(self.read(self.offsets.num)),
        }
    }
}
