// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Ends for which the shortcut is nothing leave it by themselves: bulk, unusual readers, and those without a peer.
//!
//! Invariant: a socket is taken out only when nothing that was handed to it waits to be read, and nothing more can be.

use aya_ebpf::{
    bindings::{BPF_SOCK_OPS_RTT_CB_FLAG, bpf_sock_ops},
    helpers::generated::{bpf_get_socket_cookie, bpf_map_delete_elem, bpf_sock_ops_cb_flags_set},
};
use nodemesh_abi::shortcut::EndFlags;

use super::{progress, socket::field};
use crate::{atomic, maps};

/// TCP has measured a round trip, so it carries the connection's bytes: time to ask whether the shortcut is of any use.
#[inline(always)]
pub(super) fn sampled(ops: *mut bpf_sock_ops) {
    // SAFETY: the kernel's context.
    let mut cookie = unsafe { bpf_get_socket_cookie(ops.cast()) };
    let Some(own) = maps::short_ends.get_ptr_mut(cookie) else {
        return;
    };
    // SAFETY: map values; other CPUs write them.
    unsafe {
        let peer_cookie = (&raw const (*own).peer).read_volatile();
        let peer_flags = match maps::short_ends.get_ptr(peer_cookie) {
            Some(peer) => (&raw const (*peer).flags).read_volatile(),
            None => EndFlags::LEAVING,
        };
        let flags = (&raw const (*own).flags).read_volatile();
        if (flags | peer_flags) & (EndFlags::CLOSED | EndFlags::BULK) == 0 {
            return;
        }
        atomic::or(&raw mut (*own).flags, EndFlags::LEAVING);
        // What a peer is about to hand over, it has counted already.
        if flags & EndFlags::LEAVING == 0 || progress(own).unread() != 0 {
            return;
        }
        bpf_map_delete_elem(
            (&raw const maps::short_socks).cast_mut().cast(),
            (&raw mut cookie).cast(),
        );
        let flags = field!(ops, bpf_sock_ops_cb_flags) & !BPF_SOCK_OPS_RTT_CB_FLAG;
        bpf_sock_ops_cb_flags_set(ops, flags.cast_signed());
    }
}
