// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The one door to a packet's bytes on this path, for buffers of the stack and for those of a driver.
//!
//! Everything goes through the kernel's helpers, which check each access and look into pages too. Invariant: the checksum of a buffer that a
//! device is to complete is changed as that device needs it, which only the kernel knows.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, xdp_md},
    helpers::generated::{
        bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_skb_load_bytes, bpf_skb_store_bytes,
        bpf_xdp_get_buff_len, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
    },
};
use nodemesh_abi::flow::{
    Frame,
    checksum::Change,
    translate::{Amend, FrameMut},
};

use super::{route::Fib, scratch::Hook};

/// The pseudo header is that of IPv6 (Linux 6.16), which older kernels cannot be told.
const BPF_F_IPV6: u64 = 1 << 7;
/// Packets for this host (`PACKET_HOST` of the kernel).
const PACKET_HOST: u32 = 0;

/// A packet at one of the hooks.
pub trait Packet: FrameMut {
    /// Where it is.
    fn hook(&self) -> Hook;
    /// The hook's context, for helpers.
    fn context(&self) -> *mut c_void;
    /// The interface that it came in by, or leaves by.
    fn ifindex(&self) -> u32;

    /// Payload of each segment that it is sent in; 0 if it is sent as it is.
    fn segment(&self) -> u32;

    /// Writes the link-layer addresses that `fib` found.
    #[inline(always)]
    fn address_link(&mut self, fib: &Fib) -> bool {
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (fib.dmac, fib.smac);
        self.store(0, [a, b, c, d, e, f, g, h, i, j, k, l])
    }
}

/// A buffer of the stack.
pub struct Skb {
    skb: *mut __sk_buff,
    hook: Hook,
}

impl Skb {
    /// The context of `hook`.
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff, hook: Hook) -> Self {
        Self { skb, hook }
    }

    /// Whether its link-layer address is this host's.
    #[inline(always)]
    pub fn is_for_host(&self) -> bool {
        // SAFETY: the kernel's context.
        unsafe { (*self.skb).pkt_type == PACKET_HOST }
    }
}

impl Frame for Skb {
    #[inline(always)]
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: `bytes` has room for `N`; the helper checks the packet's bounds.
        let failed = unsafe {
            bpf_skb_load_bytes(
                self.skb.cast_const().cast(),
                at,
                bytes.as_mut_ptr().cast(),
                N as u32,
            )
        };
        (failed == 0).then_some(bytes)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the kernel's context.
        unsafe { (*self.skb).len }
    }
}

impl FrameMut for Skb {
    #[inline(always)]
    fn store<const N: usize>(&mut self, at: u32, bytes: [u8; N]) -> bool {
        // SAFETY: `bytes` are `N`; the helper checks the packet's bounds.
        let failed = unsafe { bpf_skb_store_bytes(self.skb, at, bytes.as_ptr().cast(), N as u32, 0) };
        failed == 0
    }

    #[inline(always)]
    fn store_bare<const N: usize>(&mut self, at: u32, bytes: [u8; N]) -> bool {
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        // SAFETY: as above.
        unsafe { bpf_skb_store_bytes(self.skb, at, bytes.as_ptr().cast(), N as u32, flags) == 0 }
    }

    #[inline(always)]
    fn amend(&mut self, at: u32, how: Amend, outside: Change, inside: Change) -> bool {
        let optional = if how.is_optional {
            u64::from(BPF_F_MARK_MANGLED_0)
        } else {
            0
        };
        let pseudo = optional | u64::from(BPF_F_PSEUDO_HDR);
        // SAFETY: the kernel's context; the helper checks the packet's bounds.
        unsafe {
            if inside != Change::NONE
                && bpf_l4_csum_replace(self.skb, at, 0, u64::from(inside.sum()), optional) != 0
            {
                return false;
            }
            if outside == Change::NONE {
                return true;
            }
            let sum = u64::from(outside.sum());
            if how.is_v6 && bpf_l4_csum_replace(self.skb, at, 0, sum, pseudo | BPF_F_IPV6) == 0 {
                return true;
            }
            bpf_l4_csum_replace(self.skb, at, 0, sum, pseudo) == 0
        }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn hook(&self) -> Hook {
        self.hook
    }

    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.skb.cast()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the kernel's context.
        unsafe { (*self.skb).ifindex }
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb).gso_size }
    }
}

/// A buffer of a driver.
pub struct Xdp {
    context: *mut xdp_md,
}

impl Xdp {
    /// The context of the hook.
    #[inline(always)]
    pub fn new(context: *mut xdp_md) -> Self {
        Self { context }
    }
}

impl Frame for Xdp {
    #[inline(always)]
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        // SAFETY: as for `Skb`.
        let failed = unsafe { bpf_xdp_load_bytes(self.context, at, bytes.as_mut_ptr().cast(), N as u32) };
        (failed == 0).then_some(bytes)
    }

    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: the kernel's context.
        unsafe { bpf_xdp_get_buff_len(self.context) as u32 }
    }
}

impl FrameMut for Xdp {
    #[inline(always)]
    fn store<const N: usize>(&mut self, at: u32, mut bytes: [u8; N]) -> bool {
        // SAFETY: as for `Skb`.
        unsafe { bpf_xdp_store_bytes(self.context, at, bytes.as_mut_ptr().cast(), N as u32) == 0 }
    }

    #[inline(always)]
    fn store_bare<const N: usize>(&mut self, at: u32, bytes: [u8; N]) -> bool {
        self.store(at, bytes)
    }

    #[inline(always)]
    fn amend(&mut self, at: u32, how: Amend, outside: Change, inside: Change) -> bool {
        let Some(bytes) = self.load::<2>(at) else {
            return false;
        };
        let (change, checksum) = (outside.and(inside), u16::from_ne_bytes(bytes));
        let amended = if how.is_optional {
            change.apply_udp(checksum)
        } else {
            change.apply(checksum)
        };
        self.store(at, amended.to_ne_bytes())
    }
}

impl Packet for Xdp {
    #[inline(always)]
    fn hook(&self) -> Hook {
        Hook::Xdp
    }

    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.context.cast()
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: the kernel's context.
        unsafe { (*self.context).ingress_ifindex }
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        0
    }
}

/// What `tc_index` of a buffer says that `flow_ingress` has just sent: nothing is left to do for `flow_egress`.
const DONE: u16 = 0xf10e;

/// Marks a buffer as done.
#[inline(always)]
pub fn mark(skb: *mut __sk_buff) {
    // SAFETY: the kernel's context, in which programs of tcx may write this field.
    unsafe { (&raw mut (*skb).tc_index).write_volatile(u32::from(DONE)) };
}

/// Takes the mark off, if there is one, and says whether there was.
#[inline(always)]
pub fn take_mark(skb: *mut __sk_buff) -> bool {
    // SAFETY: as in `mark`.
    unsafe {
        if (&raw const (*skb).tc_index).read_volatile() != u32::from(DONE) {
            return false;
        }
        (&raw mut (*skb).tc_index).write_volatile(0);
    }
    true
}

/// Sends the buffer by another interface, as it is.
#[inline(always)]
pub fn redirect(ifindex: u32) -> i32 {
    // SAFETY: the helper takes no pointer.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

/// `struct bpf_redir_neigh` of the kernel.
#[repr(C)]
struct NextHop {
    family: u32,
    address: [u32; 4],
}

/// Sends the buffer by another interface to the next hop that `fib` found, once its link-layer address is known.
#[inline(always)]
pub fn redirect_and_resolve(ifindex: u32, fib: &Fib) -> i32 {
    let mut next = NextHop {
        family: u32::from(fib.family),
        address: fib.dst,
    };
    // SAFETY: `next` has the kernel's layout and length.
    unsafe {
        bpf_redirect_neigh(
            ifindex,
            (&raw mut next).cast(),
            size_of::<NextHop>().cast_signed() as i32,
            0,
        ) as i32
    }
}
