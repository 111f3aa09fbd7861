// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Events: records for the agent in the ring buffer `events`, dropped and counted when it is full.
//!
//! A record is written where it lies, since the stack has no room for another one. Invariant: an event changes no verdict.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use nodemesh_abi::{
    Ejection, Endpoint, Event, EventKind, InternalError, Ip16, Port, Protocol, Refusal, Service, flow::Tuple,
};

use crate::{maps, place::Call, stats};

/// A call was refused.
#[inline(always)]
pub fn refused(call: &Call<'_>, refusal: Refusal) {
    write(EventKind::Refused, |event| {
        caller(event, call);
        event.reason = refusal as u16;
    });
}

/// A call was let through for a trial.
#[inline(always)]
pub fn audited(call: &Call<'_>) {
    write(EventKind::Audited, |event| caller(event, call));
}

#[inline(always)]
fn caller(event: &mut Event, call: &Call<'_>) {
    event.client_addr = call.client.addr;
    event.addr = call.dialled.addr;
    event.port = call.dialled.port;
    event.protocol = u16::from(call.socket.protocol());
    event.identity = call.client.identity;
    event.service = call.service.id;
    event.tgid = call.client.tgid;
    event.cgroup = call.client.cgroup;
}

/// The client of a flow of the packet path was refused.
#[inline(always)]
pub fn flow_refused(service: &Service, tuple: &Tuple, identity: u32, refusal: Refusal) {
    write(EventKind::Refused, |event| {
        flow(event, service, tuple, identity);
        event.reason = refusal as u16;
    });
}

/// The client of a flow of the packet path was let through for a trial.
#[inline(always)]
pub fn flow_audited(service: &Service, tuple: &Tuple, identity: u32) {
    write(EventKind::Audited, |event| flow(event, service, tuple, identity));
}

#[inline(always)]
fn flow(event: &mut Event, service: &Service, tuple: &Tuple, identity: u32) {
    event.client_addr = tuple.src;
    event.addr = tuple.dst;
    event.port = tuple.dst_port;
    event.protocol = tuple.protocol as u16;
    event.identity = identity;
    event.service = service.id;
}

/// A SYN of `identity` at `client` for a backend of this node was let through for a trial, or dropped.
#[inline(always)]
pub fn syn(kind: EventKind, client: Ip16, identity: u32, endpoint: &Endpoint) {
    write(kind, |event| {
        event.client_addr = client;
        event.identity = identity;
        event.reason = Refusal::Policy as u16;
        backend(event, endpoint.service, endpoint.backend);
    });
}

/// A backend was ejected until `until`.
#[inline(always)]
pub fn ejected(service: u32, id: u32, reason: Ejection, until: u64) {
    write(EventKind::Ejected, |event| {
        backend(event, service, id);
        event.reason = reason as u16;
        event.until_ns = until;
    });
}

/// An ejected backend is tried.
#[inline(always)]
pub fn probed(service: u32, id: u32) {
    write(EventKind::Probed, |event| backend(event, service, id));
}

/// An ejected backend is well again.
#[inline(always)]
pub fn readmitted(service: u32, id: u32) {
    write(EventKind::Readmitted, |event| backend(event, service, id));
}

#[inline(always)]
fn backend(event: &mut Event, service: u32, id: u32) {
    if let Some(row) = maps::backends.get(id) {
        event.addr = row.addr;
        event.port = row.port;
    }
    event.service = service;
    event.backend = id;
}

#[inline(always)]
fn write(kind: EventKind, fill: impl FnOnce(&mut Event)) {
    let Some(mut entry) = maps::events.reserve(0) else {
        stats::internal_error(InternalError::EventRecord);
        return;
    };
    // SAFETY: the entry has room for one record, of which every bit pattern is one.
    let event = unsafe {
        let event: *mut Event = entry.as_mut_ptr();
        event.write_bytes(0, 1);
        &mut *event
    };
    event.client_addr = Ip16::UNSPECIFIED;
    event.addr = Ip16::UNSPECIFIED;
    event.port = Port::new(0);
    event.protocol = Protocol::Tcp as u16;
    event.backend = u32::MAX;
    event.kind = kind as u16;
    // SAFETY: the helper takes no pointer.
    event.at_ns = unsafe { bpf_ktime_get_ns() };
    fill(event);
    entry.submit(0);
}
