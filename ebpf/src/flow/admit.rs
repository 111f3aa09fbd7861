// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The door of the packet path: which service a packet dials, whether its client may, and which backend it gets.
//!
//! Invariant: what is taken for a flow is given back where none comes of it.

use nodemesh_abi::{Access, ClientKey, EventKind, FlowEvent, FlowService, Ip16, Refusal, ServiceKey};

use super::{frame::Skb, route, scratch::Scratch};
use crate::{
    event,
    limit::{self, Taken},
    maps, pick, policy, stats,
};

/// What [`admit`] and [`choose`] give where the client may.
pub const ADMITTED: u32 = u32::MAX;

/// Finds the service that the packet in the scratch dials; false if there is none.
#[inline(always)]
pub fn find_service(packet: &Skb, scratch: &mut Scratch) -> bool {
    let tuple = &scratch.headers.tuple;
    let protocol = tuple.protocol as u8;
    let exact = ServiceKey::new(tuple.dst, tuple.dst_port, protocol);
    if let Some(service) = row(&exact) {
        scratch.service = service;
        return true;
    }
    // A service has backends of its own for each family, and so each family's node port is a row of its own.
    let every = if tuple.dst.is_v4() {
        Ip16::from_v4_word(0)
    } else {
        Ip16::UNSPECIFIED
    };
    let any = ServiceKey::new(every, tuple.dst_port, protocol);
    let Some(service) = row(&any) else {
        return false;
    };
    scratch.service = service;
    route::is_here(packet, scratch)
}

#[inline(always)]
fn row(key: &ServiceKey) -> Option<FlowService> {
    // SAFETY: copied at once; an update by the agent replaces the element, it does not write into it.
    unsafe { maps::flow_services.get(key) }.copied()
}

/// Asks policy and limits. [`ADMITTED`], or the number of the [`FlowEvent`] that refuses the packet in the scratch.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn admit(hook: u32, now: u64) -> u32 {
    let Some(scratch) = Scratch::of(hook) else {
        return FlowEvent::TableFull as u32;
    };
    // SAFETY: the scratch of this hook, on this CPU.
    let scratch = unsafe { &mut *scratch };
    let service = scratch.service.service;
    scratch.identity = policy::identity_at(scratch.headers.tuple.src);
    scratch.direct = 0;
    scratch.counted = 0;
    scratch.news = 0;
    if service.policy != 0 {
        match policy::of_flow(service.policy, scratch.identity) {
            Access::Allow => {}
            Access::Audit => scratch.news = news(EventKind::Audited, Refusal::Policy),
            Access::Deny | Access::ByAddress => return refuse(scratch, Refusal::Policy),
        }
    }
    let Some(rules) = maps::rules.get(service.rules) else {
        return ADMITTED;
    };
    match limit::admit(rules, service.rules, scratch.identity, now) {
        Ok(taken) => {
            scratch.counted = taken.0;
            ADMITTED
        }
        Err(refusal) => refuse(scratch, refusal),
    }
}

/// Picks a backend for the packet in the scratch, which [`admit`] let in, and counts it there; gives the same as that.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn choose(hook: u32, now: u64) -> u32 {
    let Some(scratch) = Scratch::of(hook) else {
        return FlowEvent::TableFull as u32;
    };
    // SAFETY: the scratch of this hook, on this CPU.
    let scratch = unsafe { &mut *scratch };
    let service = scratch.service.service;
    let tuple = scratch.headers.tuple;
    let client = ClientKey::address(tuple.src);
    match pick::for_flow(&service, now, client, &tuple) {
        Ok(picked) => {
            scratch.backend = picked.endpoint.addr;
            scratch.backend_port = picked.endpoint.port;
            scratch.backend_id = picked.id;
            scratch.backend_flags = maps::backends
                .get(picked.id)
                .map_or(0, |row| u32::from(row.flags));
            ADMITTED
        }
        Err(refusal) => {
            Taken(scratch.counted).give_back(service.rules, scratch.identity);
            refuse(scratch, refusal)
        }
    }
}

/// Counts that the client is refused; gives the number of the [`FlowEvent`].
#[inline(always)]
fn refuse(scratch: &mut Scratch, refusal: Refusal) -> u32 {
    stats::refused(scratch.service.service.id, refusal);
    scratch.news = news(EventKind::Refused, refusal);
    FlowEvent::from(refusal) as u32
}

/// The bit of [`Scratch::news`] that says that there are some.
const NEWS: u32 = 1 << 31;

/// [`Scratch::news`].
#[inline(always)]
fn news(kind: EventKind, reason: Refusal) -> u32 {
    NEWS | (kind as u32) << 16 | reason as u32
}

/// Tells what [`admit`] or [`choose`] found worth telling of the packet in the scratch; not there, where the stack is full.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell(hook: u32) -> u32 {
    let Some(scratch) = Scratch::of(hook) else {
        return 0;
    };
    // SAFETY: the scratch of this hook, on this CPU.
    let scratch = unsafe { &*scratch };
    let (kind, reason) = (((scratch.news & !NEWS) >> 16) as u16, scratch.news as u16);
    let service = scratch.service.service.id;
    event::flow(kind, reason, service, &scratch.headers.tuple, scratch.identity);
    0
}

/// Gives back what [`admit`] and [`choose`] took, since no flow came of it.
#[inline(always)]
pub fn give_back(scratch: &Scratch) {
    stats::untracked(scratch.backend_id);
    Taken(scratch.counted).give_back(scratch.service.service.rules, scratch.identity);
}
