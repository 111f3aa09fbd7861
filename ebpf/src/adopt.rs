// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Adoption: sockets that local backends had accepted before there was a meter get their records. Run once by the agent at its
//! start, as an iterator over the open files of all processes, which sees every network namespace (`iter/tcp` sees one).
//!
//! Invariant: a socket that has a record keeps it.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::generated::bpf_sock_from_file;

use crate::{kernel_sock::KernelSock, lifecycle};

/// `struct bpf_iter__task_file` of the kernel: each pointer takes 8 bytes.
#[repr(C)]
struct IterContext {
    meta: *mut c_void,
    task: *mut c_void,
    fd: u64,
    file: *mut c_void,
}

/// Gives the socket behind the iterator's current file a record, if it is one of a backend.
#[inline(always)]
pub fn file(ctx: *mut c_void) -> i32 {
    let ctx = ctx.cast::<IterContext>();
    // SAFETY: the kernel passes this context; the verifier checks each access and demands the null checks.
    unsafe {
        let file = ptr::read_volatile(&raw const (*ctx).file);
        if file.is_null() {
            return 0;
        }
        let socket = bpf_sock_from_file(file.cast());
        if socket.is_null() {
            return 0;
        }
        let sk = KernelSock::behind(socket.cast());
        if !sk.is_null() {
            lifecycle::adopted(sk);
        }
    }
    0
}
