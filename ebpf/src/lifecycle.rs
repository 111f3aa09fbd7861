// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The life of a mesh socket: placed or accepted, established or failed, closed.
//!
//! Invariant: a backend's `active` is the number of its clients' records in state connecting or established; whoever takes a
//! record out of these states by an atomic exchange, and nobody else, subtracts it. What the meter holds is given back by
//! [`Record::step`] with `end`, which gives nothing the second time.

mod accept;

use core::{ffi::c_void, ptr};

pub use accept::adopted;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, bpf_sock, bpf_sock_ops},
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns},
};
use nodemesh_abi::{
    ConnectFailure, ConnectionState, InternalError, Ip16, Meter, Phase, Port, Protocol, Vantage, Wire,
    meter::End,
};

use crate::{
    access,
    count::Subject,
    health::{self, News},
    kernel_sock::KernelSock,
    meter::Way,
    place::{Call, Placed, current_settings, is_in_force},
    record::Record,
    shortcut,
    sock_addr::{Endpoint, SockAddr},
    stats::{self, Ending},
    verdict::Verdict,
};

/// States of the kernel's `net/tcp_states.h`.
pub mod tcp {
    pub const ESTABLISHED: i32 = 1;
    pub const SYN_SENT: i32 = 2;
    pub const CLOSE: i32 = 7;
    pub const CLOSE_WAIT: i32 = 8;
}

/// A socket that may have been placed before calls `connect()` again.
#[inline(always)]
pub fn replaced(socket: &SockAddr<'_>) {
    let sk = socket.sk();
    if let Some(record) = Record::of(sk.cast()) {
        shortcut::ended(record);
        ended(record, None, ConnectFailure::Aborted);
        if let Some(subject) = Subject::of(record) {
            subject.discard(record.locked(Meter::discard));
        }
    }
}

/// A socket was placed: writes its record. The pick has counted it.
#[inline(always)]
pub fn placed(call: &Call<'_>, placed: &Placed) {
    let Call {
        socket,
        client,
        service,
        dialled,
        now,
    } = *call;
    let picked = &placed.picked;
    if !stats::take_place(current_settings().connection_limit) {
        stats::internal_error(InternalError::ConnectionTable);
        return untracked(call, placed);
    }
    let Some(record) = Record::create(socket.sk().cast()) else {
        stats::internal_error(InternalError::ConnectionRecord);
        stats::give_place_back();
        return untracked(call, placed);
    };
    let protocol = socket.protocol();
    let connection = record.0;
    // SAFETY: the record has ended or is new, and the kernel holds the socket's lock around `connect` hooks, the only ones that
    // write these fields.
    unsafe {
        (*connection).service_addr = dialled.addr;
        (*connection).backend_addr = picked.endpoint.addr;
        (*connection).client_addr = Ip16::UNSPECIFIED;
        (*connection).cookie = bpf_get_socket_cookie(socket.ctx.as_ptr());
        (*connection).cgroup = client.cgroup;
        (*connection).workload = client.workload;
        (*connection).opened_ns = now;
        (*connection).service = service.id;
        (*connection).backend = picked.id;
        (*connection).service_port = dialled.port;
        (*connection).backend_port = picked.endpoint.port;
        (*connection).client_port = Port::new(0);
        (*connection).protocol = u16::from(protocol);
        (*connection).tgid = client.tgid;
        (*connection).traffic = Vantage::Client.row(picked.traffic);
        (*connection).identity = client.identity;
        (*connection).rules = service.rules;
        (*connection).counted = placed.taken.0;
        (*connection).policy = service.policy;
        ptr::write_bytes(&raw mut (*connection).meter, 0, 1);
        ptr::write_bytes(&raw mut (*connection).untold, 0, 1);
        (*connection).meter.start(Vantage::Client, 0, 0);
    }
    if protocol == Protocol::Tcp as u8 {
        record.exchange(ConnectionState::Connecting);
    } else {
        // A connected UDP socket has no handshake to wait for and no exchanges.
        // SAFETY: as above.
        unsafe {
            (*connection).meter.wire = Wire::Other as u8;
            (*connection).meter.phase = Phase::Opaque as u8;
        }
        record.exchange(ConnectionState::Established);
        if let Some(subject) = Subject::of(record) {
            subject.opened();
        }
    }
}

/// A connection that was placed has no record: nothing will give back what it holds, so it holds nothing.
#[inline(always)]
fn untracked(call: &Call<'_>, placed: &Placed) {
    stats::untracked(placed.picked.id);
    placed.taken.give_back(call.service.rules, call.client.identity);
}

/// The TCP state of any socket of the host changed.
#[inline(always)]
pub fn state_changed(sk: *const c_void, old: i32, new: i32) {
    let is_followed = matches!(
        (old, new),
        (tcp::SYN_SENT, tcp::ESTABLISHED) | (_, tcp::CLOSE | tcp::CLOSE_WAIT)
    );
    if !is_followed {
        return;
    }
    let Some(record) = Record::of(sk.cast_mut()) else {
        return;
    };
    if !is_in_force(&current_settings()) {
        return;
    }
    match new {
        tcp::ESTABLISHED => established(record, KernelSock::new(sk)),
        tcp::CLOSE => closed(record, KernelSock::new(sk)),
        _ => record.locked(Meter::peer_fin),
    }
}

/// The handshake of a placed connection is complete.
#[inline(always)]
fn established(record: Record, sk: KernelSock) {
    if !record.establish() {
        // The program of a former agent, during an upgrade, came first.
        return;
    }
    let local = sk.local();
    let (up, down) = sk.sequence();
    // SAFETY: a live record; `establish` lets one program through, and no byte event comes before it.
    unsafe {
        (*record.0).client_addr = local.addr;
        (*record.0).client_port = local.port;
        (*record.0).meter.align(up, down);
        stats::established(
            (*record.0).backend,
            bpf_ktime_get_ns().wrapping_sub((*record.0).opened_ns),
        );
    }
    // SAFETY: a live record.
    health::learn(unsafe { (*record.0).backend }, News::CONNECTED);
    if let Some(subject) = Subject::of(record) {
        subject.opened();
    }
}

/// An event of a TCP socket of the mesh's cgroup.
#[inline(always)]
pub fn sock_event(ops: *mut bpf_sock_ops) {
    // SAFETY: the kernel passes this context; the verifier demands the null checks.
    unsafe {
        let op = (*ops).op;
        if !shortcut::concerns(op) {
            return;
        }
        if op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
            accept::passive(ops);
        }
        shortcut::event(ops, op);
    }
}

/// TCP is over.
#[inline(always)]
fn closed(record: Record, sk: KernelSock) {
    let errno = sk.err();
    // After an orderly end the application may still have something to read: its close is the meter's end.
    if errno != 0 {
        reset(record, sk);
    }
    // What was handed to it may still be read; only nobody will tell of the close of one that was never accepted.
    let is_orphan = sk.is_orphan();
    ended(record, Some(sk), ConnectFailure::from_sk_err(errno));
    if is_orphan {
        shortcut::ended(record);
    }
}

/// The peer reset the connection, or does not answer any more.
#[inline(always)]
fn reset(record: Record, sk: KernelSock) {
    let up_seq = sk
        .sequence()
        .0
        .wrapping_add(shortcut::beside_tcp(record, Way::Sent));
    if let Some(subject) = Subject::of(record) {
        // A step tells of one request at most, and two may end here.
        subject.step(sk, 0, Meter::end_tail);
    }
    meter_ended(
        record,
        sk,
        End::Reset,
        #[inline(always)]
        |meter| {
            if meter.vantage == Vantage::Client as u8 {
                up_seq.wrapping_sub(meter.up_seq)
            } else {
                0
            }
        },
    );
}

/// The last reference of an application to a socket is gone.
#[inline(always)]
pub fn released(sk: *mut bpf_sock) {
    let Some(record) = Record::of(sk.cast()) else {
        return;
    };
    let socket = KernelSock::new(sk.cast_const().cast());
    let end = if socket.close_resets() {
        End::Aborted
    } else {
        End::Closed
    };
    meter_ended(record, socket, end, |_| 0);
    ended(record, Some(socket), ConnectFailure::Aborted);
    // Last: whoever makes it an end meanwhile looks afterwards whether the record has ended.
    shortcut::ended(record);
}

/// Gives back what the meter holds; `written` is what the application has written and its call has not returned.
#[inline(always)]
fn meter_ended(record: Record, sk: KernelSock, end: End, written: impl FnOnce(&Meter) -> u32) {
    // SAFETY: the helper takes no pointer.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(subject) = Subject::of(record) {
        subject.step(
            sk,
            0,
            #[inline(always)]
            |meter, effects| meter.end(end, written(meter), now, effects),
        );
    }
}

/// Ends the record; `failure` is how, if it was not established; `sk` is its socket, where the program may read it.
#[inline(always)]
fn ended(record: Record, sk: Option<KernelSock>, failure: ConnectFailure) {
    let ending = match record.exchange(ConnectionState::Ended) {
        ConnectionState::Ended => return,
        ConnectionState::Connecting => Ending::Failed(failure),
        ConnectionState::Established => Ending::Closed,
    };
    stats::give_place_back();
    // SAFETY: a live record; the fields are written only while the socket is not connected.
    let (vantage, backend, opened_ns) = unsafe {
        (
            (*record.0).meter.vantage,
            (*record.0).backend,
            (*record.0).opened_ns,
        )
    };
    if vantage == Vantage::Client as u8 {
        stats::ended(backend, ending);
        record.give_back();
        if let Ending::Failed(failure) = ending {
            // SAFETY: the helper takes no pointer.
            let ns = unsafe { bpf_ktime_get_ns() }.wrapping_sub(opened_ns);
            health::learn(backend, News::not_connected(failure, ns));
        }
        health::ended(backend, opened_ns);
    }
    if let (Ending::Closed, Some(subject)) = (ending, Subject::of(record)) {
        subject.closed();
        access::connection(record, sk);
    }
}

/// The service's address, if `endpoint` is where this socket was sent.
#[inline(always)]
pub fn service_endpoint(socket: &SockAddr<'_>, endpoint: Endpoint) -> Option<Endpoint> {
    let record = Record::of(socket.sk().cast())?;
    let connection = record.0;
    // SAFETY: a live record; these fields are written only while the socket is not connected.
    unsafe {
        let sent_to = Endpoint {
            addr: (*connection).backend_addr,
            port: (*connection).backend_port,
        };
        let placed = (*connection).meter.vantage == Vantage::Client as u8;
        (record.is_live() && placed && sent_to == endpoint).then_some(Endpoint {
            addr: (*connection).service_addr,
            port: (*connection).service_port,
        })
    }
}

/// Gives `getpeername()` the address that the application dialled.
#[inline(always)]
pub fn peer_name(socket: &SockAddr<'_>) -> Verdict {
    match service_endpoint(socket, socket.endpoint()) {
        Some(service) => Verdict::Rewrite(service),
        None => Verdict::Pass,
    }
}
