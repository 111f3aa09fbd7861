// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The iterator over `connections`: one raw [`Connection`] per socket that is counted, for `nodemesh connections`.
//!
//! Costs nothing while nobody reads it: the records are the sockets' own, in every network namespace.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::generated::bpf_seq_write;
use nodemesh_abi::{Connection, ConnectionState};

/// `struct bpf_iter__bpf_sk_storage_map` of the kernel: each pointer takes 8 bytes.
#[repr(C)]
struct IterContext {
    meta: *mut IterMeta,
    map: *mut c_void,
    sk: *mut c_void,
    value: *mut Connection,
}

/// `struct bpf_iter_meta`.
#[repr(C)]
struct IterMeta {
    seq: *mut c_void,
}

/// Writes the record of the iterator's current socket to the reader.
#[inline(always)]
pub fn emit(ctx: *mut c_void) -> i32 {
    let ctx = ctx.cast::<IterContext>();
    // SAFETY: the kernel passes this context; the verifier checks each access and demands the null check.
    unsafe {
        let value = ptr::read_volatile(&raw const (*ctx).value);
        let sk = ptr::read_volatile(&raw const (*ctx).sk);
        if value.is_null() || sk.is_null() {
            return 0;
        }
        if ptr::read_volatile(&raw const (*value).state) == ConnectionState::Ended as u32 {
            return 0;
        }
        let seq = (*ptr::read_volatile(&raw const (*ctx).meta)).seq;
        // On a full buffer the kernel grows it and calls again for the same socket.
        bpf_seq_write(seq.cast(), value.cast(), size_of::<Connection>() as u32);
    }
    0
}
