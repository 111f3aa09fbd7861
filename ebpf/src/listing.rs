// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The iterators over `connections`: a [`ListedConnection`] for each socket that is counted, for `nodemesh connections` and for the
//! agent's sweep.
//!
//! Cost nothing while nobody reads them: the records are the sockets' own, in every network namespace.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_seq_write};
use nodemesh_abi::{Connection, ConnectionState, ListedConnection, Phase, Protocol};

use crate::{count::Subject, kernel_sock::KernelSock, record::Record};

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
    visit(ctx, |_, _, _| true)
}

/// Settles the socket's exchange if it is quiet, and writes its record if it has an open request, or is opaque.
#[inline(always)]
pub fn sweep(ctx: *mut c_void) -> i32 {
    visit(ctx, |sk, value, socket| {
        if let Some(record) = Record::of(sk) {
            // SAFETY: the helper takes no pointer.
            let now = unsafe { bpf_ktime_get_ns() };
            if let Some(subject) = Subject::of(record) {
                subject.step(
                    socket,
                    0,
                    #[inline(always)]
                    |meter, effects| meter.settle(now, effects),
                );
            }
        }
        // SAFETY: the value of the iterator's current socket, which the kernel keeps for the call.
        unsafe { (*value).meter.open != 0 || (*value).meter.phase == Phase::Opaque as u8 }
    })
}

#[inline(always)]
fn visit(ctx: *mut c_void, wanted: impl FnOnce(*mut c_void, *const Connection, KernelSock) -> bool) -> i32 {
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
        let socket = KernelSock::new(sk);
        if !wanted(sk, value, socket) {
            return 0;
        }
        let seq = (*ptr::read_volatile(&raw const (*ctx).meta)).seq;
        // On a full buffer the kernel grows it and calls again for the same socket.
        bpf_seq_write(seq.cast(), value.cast(), size_of::<Connection>() as u32);
        let mut tail = Tail::of(socket, (*value).protocol);
        bpf_seq_write(seq.cast(), (&raw mut tail).cast(), size_of::<Tail>() as u32);
    }
    0
}

/// What follows the record in a [`ListedConnection`].
#[repr(C)]
struct Tail {
    rtt_us: u32,
    retransmits: u32,
    tcp_state: u32,
    unread: u32,
}
const _: () = assert!(size_of::<Connection>() + size_of::<Tail>() == size_of::<ListedConnection>());

impl Tail {
    #[inline(always)]
    fn of(socket: KernelSock, protocol: u16) -> Self {
        let tcp_state = u32::from(socket.state());
        if protocol != Protocol::Tcp as u16 {
            return Self {
                rtt_us: 0,
                retransmits: 0,
                tcp_state,
                unread: 0,
            };
        }
        Self {
            rtt_us: socket.rtt_us(),
            retransmits: socket.retransmits(),
            tcp_state,
            unread: socket.unread(),
        }
    }
}
