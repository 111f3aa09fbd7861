// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The server's end of a connection: a socket that a backend of this node accepted, now or before there was a meter.
//!
//! Called for events of `sock_ops` and by the adoption. Invariant: a socket is counted once, whichever of these comes first.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::bpf_sock_ops,
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_skc_to_tcp_sock},
};
use nodemesh_abi::{ConnectionState, EndpointKey, InternalError, Protocol, Vantage, meter::MeterFlags};

use super::tcp;
use crate::{
    count::Subject, kernel_sock::KernelSock, maps, place::current_settings, policy, record::Record, stats,
};

/// A connection was accepted.
#[inline(always)]
pub(super) fn passive(ops: *mut bpf_sock_ops) {
    // SAFETY: the kernel passes this context; the verifier demands the null checks.
    unsafe {
        let sk = (*ops).__bindgen_anon_2.sk;
        if sk.is_null() {
            return;
        }
        let tcp = bpf_skc_to_tcp_sock(sk.cast());
        if !tcp.is_null() {
            accepted(tcp.cast_const().cast(), bpf_get_socket_cookie(ops.cast()), 0);
        }
    }
}

/// A socket was accepted, or had been before there was a meter (`flags` then says so): if a backend listens there, it is
/// metered from now on.
#[inline(always)]
fn accepted(sk: *const c_void, cookie: u64, flags: u32) {
    let socket = KernelSock::new(sk);
    let local = socket.local();
    // SAFETY: copied at once.
    let Some(endpoint) = (unsafe { maps::endpoints.get(EndpointKey::new(local.addr, local.port)) }).copied()
    else {
        return;
    };
    if !stats::take_place(current_settings().connection_limit) {
        stats::internal_error(InternalError::ConnectionTable);
        return;
    }
    let Some(record) = Record::create(sk.cast_mut()) else {
        stats::internal_error(InternalError::ConnectionRecord);
        stats::give_place_back();
        return;
    };
    if record.is_live() {
        // The program of a former agent, or the adoption, came first.
        stats::give_place_back();
        return;
    }
    let peer = socket.peer();
    let (down, up) = socket.sequence();
    let connection = record.0;
    // SAFETY: the record is new and its socket has not been handed to the application.
    unsafe {
        (*connection).backend_addr = local.addr;
        (*connection).backend_port = local.port;
        (*connection).client_addr = peer.addr;
        (*connection).client_port = peer.port;
        (*connection).cookie = cookie;
        (*connection).opened_ns = bpf_ktime_get_ns();
        (*connection).service = endpoint.service;
        (*connection).backend = endpoint.backend;
        (*connection).protocol = Protocol::Tcp as u16;
        (*connection).traffic = Vantage::Server.row(endpoint.traffic);
        (*connection).identity = policy::identity_at(peer.addr);
        (*connection).policy = endpoint.policy;
        ptr::write_bytes(&raw mut (*connection).meter, 0, 1);
        ptr::write_bytes(&raw mut (*connection).untold, 0, 1);
        (*connection).meter.start(Vantage::Server, up, down);
        (*connection).meter.flags = flags;
    }
    record.exchange(ConnectionState::Established);
    if let Some(subject) = Subject::of(record) {
        subject.opened();
    }
}

/// A socket that was accepted before there was a meter.
#[inline(always)]
pub fn adopted(sk: *const c_void) {
    let socket = KernelSock::new(sk);
    let state = i32::from(socket.state());
    if socket.is_tcp()
        && (state == tcp::ESTABLISHED || state == tcp::CLOSE_WAIT)
        && Record::of(sk.cast_mut()).is_none()
    {
        // SAFETY: the helper takes a socket that the verifier knows.
        let cookie = unsafe { bpf_get_socket_cookie(sk.cast_mut()) };
        accepted(sk, cookie, MeterFlags::ADOPTED);
    }
}
