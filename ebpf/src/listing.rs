// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The iterators over `connections`: a `ListedExcerpt` for each socket that is counted, for `nodemesh connections` and for the
//! agent's sweep; and the count of those that were opened before anything limited them.
//!
//! Cost nothing while nobody reads them: the records are the sockets' own, in every network namespace.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_seq_write};
use nodemesh_abi::{
    Connection, ConnectionState, Excerpt, Protocol, Vantage,
    connection::{Counted, IDENTITY_BYTES},
};

use crate::{count::Subject, kernel_sock::KernelSock, limit, maps, record::Record, shortcut};

/// `struct bpf_iter__bpf_sk_storage_map` of the kernel: each pointer takes 8 bytes.
#[repr(C)]
pub struct IterContext {
    meta: *mut IterMeta,
    map: *mut c_void,
    /// The socket, null after the last one.
    pub sk: *mut c_void,
    /// Its value in the map, null after the last one.
    pub value: *mut Connection,
}

/// `struct bpf_iter_meta`.
#[repr(C)]
pub struct IterMeta {
    seq: *mut c_void,
}

/// Writes the record of the iterator's current socket to the reader.
#[inline(always)]
pub fn emit(ctx: *mut c_void) -> i32 {
    visit(ctx, |_, _, _| true)
}

/// Settles the socket's exchange if it is quiet, and writes its record if it has an open request or unread bytes.
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
                    |meter, effects| {
                        effects.tell = true;
                        meter.settle(now, effects);
                    },
                );
            }
        }
        // SAFETY: the value of the iterator's current socket, which the kernel keeps for the call.
        let (is_open, is_tcp) = unsafe {
            (
                (*value).meter.open != 0,
                (*value).protocol == Protocol::Tcp as u16,
            )
        };
        // SAFETY: as above.
        is_open || is_tcp && (socket.unread() != 0 || unsafe { shortcut::unread(value) } != 0)
    })
}

/// Counts the record of the iterator's current socket wherever its service has caps and it is not counted; writes nothing.
#[inline(always)]
pub fn enlist(ctx: *mut c_void) -> i32 {
    let ctx = ctx.cast::<IterContext>();
    // SAFETY: the kernel passes this context; the verifier checks the access and demands the null check.
    let sk = unsafe { ptr::read_volatile(&raw const (*ctx).sk) };
    if sk.is_null() {
        return 0;
    }
    let Some(record) = Record::of(sk) else {
        return 0;
    };
    let (vantage, number, identity) =
        // SAFETY: a live record; the fields are written only while the socket is not connected.
        unsafe { ((*record.0).meter.vantage, (*record.0).rules, (*record.0).identity) };
    let Some(rules) = maps::rules.get(number) else {
        return 0;
    };
    if vantage != Vantage::Client as u8 {
        return 0;
    }
    // SAFETY: map values.
    unsafe {
        if !rules.caps.is_none()
            && let Some(held) = maps::rule_states.get_ptr_mut(number)
        {
            record.enlist(Counted::SERVICE, held);
        }
        if !rules.client_caps.is_none()
            && let Some(held) = limit::client(number, identity)
        {
            record.enlist(Counted::CLIENT, held);
        }
    }
    0
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
        bpf_seq_write(seq.cast(), value.cast(), IDENTITY_BYTES as u32);
        let mut excerpt = excerpt(value, socket);
        bpf_seq_write(seq.cast(), (&raw mut excerpt).cast(), size_of::<Excerpt>() as u32);
    }
    0
}

/// What is told of a record beside its identity.
///
/// # Safety
/// `value` is the record of `socket`, which the kernel keeps for the call.
#[inline(always)]
unsafe fn excerpt(value: *const Connection, socket: KernelSock) -> Excerpt {
    // SAFETY: the caller's. Not under the lock: a listing may mix what was before and after an event.
    let (meter, protocol) = unsafe { (&(*value).meter, (*value).protocol) };
    let is_tcp = protocol == Protocol::Tcp as u16;
    let of_tcp = |read: fn(KernelSock) -> u32| if is_tcp { read(socket) } else { 0 };
    Excerpt {
        bytes_up: meter.bytes_up,
        bytes_down: meter.bytes_down,
        last_ns: meter.last_ns,
        held_bytes: meter.held_bytes,
        start_ns: meter.exchange.start_ns,
        first_token_ns: meter.exchange.first_token_ns,
        flags: meter.flags,
        open: meter.open,
        requests: meter.requests,
        phase: meter.phase,
        wire: meter.wire,
        vantage: meter.vantage,
        status: meter.status,
        rtt_us: of_tcp(KernelSock::rtt_us),
        retransmits: of_tcp(KernelSock::retransmits),
        tcp_state: u32::from(socket.state()),
        // SAFETY: the caller's.
        unread: of_tcp(KernelSock::unread).wrapping_add(unsafe { shortcut::unread(value) }),
    }
}
