// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Events: records for the agent in the ring buffer `events`, dropped and counted when it is full.
//!
//! What clients can cause as often as they like is told at once and then at most once a second, with how often it happened: a flood of
//! refusals costs an addition each. A record is written where it lies, since the stack has no room for another one. Invariant: an event
//! changes no verdict.

use core::ptr;

use aya_ebpf::bindings::BPF_NOEXIST;
use nodemesh_abi::{
    Ejection, Endpoint, Event, EventKey, EventKind, EventTally, InternalError, Ip16, Port, Protocol, Refusal,
    event::EVENT_INTERVAL_NS, flow::Tuple,
};

use crate::{
    atomic::{add, exchange_u64, replace_if_u64},
    maps,
    place::{Call, now},
    stats,
};

/// [`Event::backend`] of what is about none.
const NO_BACKEND: u32 = u32::MAX;

/// A call was refused.
#[inline(always)]
pub fn refused(call: &Call<'_>, refusal: Refusal) {
    called(EventKind::Refused, refusal, call);
}

/// A call was let through for a trial.
#[inline(always)]
pub fn audited(call: &Call<'_>) {
    called(EventKind::Audited, Refusal::Policy, call);
}

#[inline(always)]
fn called(kind: EventKind, reason: Refusal, call: &Call<'_>) {
    let key = EventKey {
        addr: call.dialled.addr,
        service: call.service.id,
        backend: NO_BACKEND,
        identity: call.client.identity,
        port: call.dialled.port,
        protocol: u16::from(call.socket.protocol()),
        kind: kind as u16,
        reason: reason as u16,
    };
    repeated(&key, |event| {
        event.client_addr = call.client.addr;
        event.tgid = call.client.tgid;
        event.cgroup = call.client.cgroup;
    });
}

/// The client of a flow of the packet path, whose packet dials `service` as `tuple`, was refused or let through for a trial.
#[inline(always)]
pub fn flow(kind: u16, reason: u16, service: u32, tuple: &Tuple, identity: u32) {
    let key = EventKey {
        addr: tuple.dst,
        service,
        backend: NO_BACKEND,
        identity,
        port: tuple.dst_port,
        protocol: tuple.protocol as u16,
        kind,
        reason,
    };
    repeated(&key, |event| event.client_addr = tuple.src);
}

/// A SYN of `identity` at `client` for a backend of this node was let through for a trial, or dropped.
#[inline(always)]
pub fn syn(kind: EventKind, client: Ip16, identity: u32, endpoint: &Endpoint) {
    let (addr, port) = match maps::backends.get(endpoint.backend) {
        Some(row) => (row.addr, row.port),
        None => (Ip16::UNSPECIFIED, Port::new(0)),
    };
    let key = EventKey {
        addr,
        service: endpoint.service,
        backend: endpoint.backend,
        identity,
        port,
        protocol: Protocol::Tcp as u16,
        kind: kind as u16,
        reason: Refusal::Policy as u16,
    };
    repeated(&key, |event| event.client_addr = client);
}

/// Tells of what may happen again and again, if it is time to.
#[inline(always)]
fn repeated(key: &EventKey, fill: impl FnOnce(&mut Event)) {
    let [a, b, c, d] = key.addr.words().map(u64::from);
    let count = due(
        a << 32 | b,
        c << 32 | d,
        u64::from(key.service) << 32 | u64::from(key.backend),
        u64::from(key.identity) << 32 | u64::from(key.port.be()) << 16 | u64::from(key.protocol),
        u64::from(key.kind) << 16 | u64::from(key.reason),
    );
    if count == 0 {
        return;
    }
    write(key.kind, count, |event| {
        event.addr = key.addr;
        event.service = key.service;
        event.backend = key.backend;
        event.identity = key.identity;
        event.port = key.port;
        event.protocol = key.protocol;
        event.reason = key.reason;
        fill(event);
    });
}

/// Counts what happened once more, and gives how often it has happened since it was told last if it is to be told now, else 0. The fields
/// of the [`EventKey`] come as numbers: a global function, which the verifier walks through once, takes nothing else.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn due(addr: u64, addr_rest: u64, place: u64, client: u64, cause: u64) -> u64 {
    let key = EventKey {
        addr: Ip16::from_words([
            (addr >> 32) as u32,
            addr as u32,
            (addr_rest >> 32) as u32,
            addr_rest as u32,
        ]),
        service: (place >> 32) as u32,
        backend: place as u32,
        identity: (client >> 32) as u32,
        port: Port::from_be((client >> 16) as u16),
        protocol: client as u16,
        kind: (cause >> 16) as u16,
        reason: cause as u16,
    };
    let now = now();
    let next = now.wrapping_add(EVENT_INTERVAL_NS);
    let mut found = maps::event_tallies.get_ptr_mut(key);
    if found.is_none() {
        let first = EventTally {
            due_ns: next,
            pending: 0,
        };
        let inserted = maps::event_tallies.insert(key, first, u64::from(BPF_NOEXIST));
        if inserted.is_ok() {
            return 1;
        }
        // Another CPU may have been first.
        found = maps::event_tallies.get_ptr_mut(key);
    }
    // Without room, it is told one by one, as far as the ring buffer has room.
    let Some(tally) = found else {
        return 1;
    };
    // SAFETY: a map value; volatile because other CPUs write it.
    unsafe {
        add(&raw mut (*tally).pending, 1);
        let due = ptr::read_volatile(&raw const (*tally).due_ns);
        if now < due || !replace_if_u64(&raw mut (*tally).due_ns, due, next) {
            return 0;
        }
        exchange_u64(&raw mut (*tally).pending, 0)
    }
}

/// A backend was ejected until `until`.
#[inline(always)]
pub fn ejected(service: u32, id: u32, reason: Ejection, until: u64) {
    write(EventKind::Ejected as u16, 1, |event| {
        backend(event, service, id);
        event.reason = reason as u16;
        event.until_ns = until;
    });
}

/// An ejected backend is tried.
#[inline(always)]
pub fn probed(service: u32, id: u32) {
    write(EventKind::Probed as u16, 1, |event| backend(event, service, id));
}

/// An ejected backend is well again.
#[inline(always)]
pub fn readmitted(service: u32, id: u32) {
    write(EventKind::Readmitted as u16, 1, |event| {
        backend(event, service, id);
    });
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
fn write(kind: u16, count: u64, fill: impl FnOnce(&mut Event)) {
    let Some(mut entry) = maps::events.reserve(0) else {
        stats::internal_errors(InternalError::EventRecord, count);
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
    event.backend = NO_BACKEND;
    event.count = count;
    event.kind = kind;
    event.at_ns = now();
    fill(event);
    entry.submit(0);
}
