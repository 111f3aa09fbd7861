// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The life of a mesh socket: placed, established or failed, closed. Owns the records in `connections`.
//!
//! Invariant: a backend's `active` is the number of records in state connecting or established; whoever takes a record out
//! of these states by an atomic exchange, and nobody else, subtracts it.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_sk_storage_get},
};
use nodemesh_abi::{
    ConnectFailure, Connection, ConnectionState, InternalError, Ip16, Port, Protocol, Service,
};

use crate::{
    atomic,
    client::Client,
    kernel_sock::KernelSock,
    maps,
    pick::Picked,
    sock_addr::{Endpoint, SockAddr},
    stats::{self, End},
    verdict::Verdict,
};

/// `TCP_ESTABLISHED` of the kernel's `net/tcp_states.h`.
const TCP_ESTABLISHED: i32 = 1;
/// `TCP_SYN_SENT`.
const TCP_SYN_SENT: i32 = 2;
/// `TCP_CLOSE`.
const TCP_CLOSE: i32 = 7;

/// The record of a socket, shared with programs on other CPUs: fields are read and written through the pointer, never
/// borrowed.
#[derive(Clone, Copy)]
struct Record(*mut Connection);

impl Record {
    /// The record of `sk`, if it has one.
    #[inline(always)]
    fn of(sk: *mut c_void) -> Option<Self> {
        let map = (&raw const maps::connections).cast_mut().cast();
        // SAFETY: the verifier checks that `sk` is a socket; the record lives as long as it, which outlives the hook.
        let record = unsafe { bpf_sk_storage_get(map, sk, ptr::null_mut(), 0) }.cast::<Connection>();
        (!record.is_null()).then_some(Self(record))
    }

    /// The record of `sk`, with `fresh` in it, created if there is none; `None` if there is no memory.
    #[inline(always)]
    fn create(sk: *mut c_void, fresh: &mut Connection) -> Option<Self> {
        let map = (&raw const maps::connections).cast_mut().cast();
        let flags = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
        let value = ptr::from_mut(fresh).cast();
        // SAFETY: as in `of`; the helper copies a whole record into a new one.
        let record = unsafe { bpf_sk_storage_get(map, sk, value, flags) }.cast::<Connection>();
        if record.is_null() {
            return None;
        }
        // SAFETY: only a `connect` hook creates and overwrites records, and the kernel holds the socket's lock around it.
        unsafe {
            // A record left from an earlier `connect()` was not overwritten by the helper.
            if (*record).opened_ns != fresh.opened_ns {
                *record = *fresh;
            }
        }
        Some(Self(record))
    }

    /// Exchanges the state and returns the former one.
    #[inline(always)]
    fn exchange(self, next: ConnectionState) -> ConnectionState {
        // SAFETY: `state` is an aligned field of a live record, and all its writers use this exchange.
        ConnectionState::from_raw(unsafe { atomic::exchange(&raw mut (*self.0).state, next as u32) })
    }

    /// Goes from connecting to established; false if the record was in another state.
    #[inline(always)]
    fn establish(self) -> bool {
        let (from, to) = (
            ConnectionState::Connecting as u32,
            ConnectionState::Established as u32,
        );
        // SAFETY: as in `exchange`.
        unsafe { atomic::replace_if(&raw mut (*self.0).state, from, to) }
    }

    #[inline(always)]
    fn backend(self) -> u32 {
        // SAFETY: a live record; the field is written only while the socket is not connected.
        unsafe { (*self.0).backend }
    }

    /// Ends the record; `failure` is how, if it was not established.
    #[inline(always)]
    fn end(self, failure: ConnectFailure) {
        match self.exchange(ConnectionState::Ended) {
            ConnectionState::Ended => {}
            ConnectionState::Connecting => stats::ended(self.backend(), End::Failed(failure)),
            ConnectionState::Established => stats::ended(self.backend(), End::Closed),
        }
    }
}

/// A socket that may have been placed before calls `connect()` again.
#[inline(always)]
pub fn replaced(socket: &SockAddr<'_>) {
    if let Some(record) = Record::of(socket.sk().cast()) {
        record.end(ConnectFailure::Aborted);
    }
}

/// A socket was placed: writes its record and counts it.
#[inline(always)]
pub fn placed(socket: &SockAddr<'_>, service: &Service, client: &Client, dialled: Endpoint, picked: &Picked) {
    let protocol = socket.protocol();
    // A connected UDP socket has no handshake to wait for.
    let state = if protocol == Protocol::Tcp as u8 {
        ConnectionState::Connecting
    } else {
        ConnectionState::Established
    };
    let mut fresh = Connection {
        service_addr: dialled.addr,
        backend_addr: picked.endpoint.addr,
        client_addr: Ip16::UNSPECIFIED,
        // SAFETY: the helper takes the hook's own context.
        cookie: unsafe { bpf_get_socket_cookie(socket.ctx.as_ptr()) },
        cgroup: client.cgroup,
        workload: client.workload,
        // SAFETY: the helper takes no pointer.
        opened_ns: unsafe { bpf_ktime_get_ns() },
        service: service.id,
        backend: picked.id,
        service_port: dialled.port,
        backend_port: picked.endpoint.port,
        client_port: Port::new(0),
        protocol: u16::from(protocol),
        state: state as u32,
        tgid: client.tgid,
    };
    if Record::create(socket.sk().cast(), &mut fresh).is_some() {
        stats::opened(picked.id);
    } else {
        stats::internal_error(InternalError::ConnectionRecord);
    }
}

/// The TCP state of any socket of the host changed.
#[inline(always)]
pub fn state_changed(sk: *const c_void, old: i32, new: i32) {
    if old != TCP_SYN_SENT && new != TCP_CLOSE {
        return;
    }
    let Some(record) = Record::of(sk.cast_mut()) else {
        return;
    };
    if new == TCP_ESTABLISHED {
        established(record, &KernelSock::new(sk));
    } else if new == TCP_CLOSE {
        record.end(ConnectFailure::from_sk_err(KernelSock::new(sk).err()));
    }
}

/// The handshake of a placed connection is complete.
#[inline(always)]
fn established(record: Record, sk: &KernelSock) {
    if !record.establish() {
        // The program of a former agent, during an upgrade, came first.
        return;
    }
    let local = sk.local();
    // SAFETY: a live record; `establish` lets one program through.
    unsafe {
        (*record.0).client_addr = local.addr;
        (*record.0).client_port = local.port;
        stats::established(
            record.backend(),
            bpf_ktime_get_ns().wrapping_sub((*record.0).opened_ns),
        );
    }
}

/// The last reference of an application to a socket is gone.
#[inline(always)]
pub fn released(sk: *mut bpf_sock) {
    if let Some(record) = Record::of(sk.cast()) {
        record.end(ConnectFailure::Aborted);
    }
}

/// The service's address, if `endpoint` is where this socket was sent.
#[inline(always)]
pub fn service_endpoint(socket: &SockAddr<'_>, endpoint: Endpoint) -> Option<Endpoint> {
    let Record(record) = Record::of(socket.sk().cast())?;
    // SAFETY: a live record; these fields are written only while the socket is not connected.
    unsafe {
        let live = (*record).state != ConnectionState::Ended as u32;
        let sent_to = Endpoint {
            addr: (*record).backend_addr,
            port: (*record).backend_port,
        };
        (live && sent_to == endpoint).then_some(Endpoint {
            addr: (*record).service_addr,
            port: (*record).service_port,
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
