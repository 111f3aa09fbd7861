// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The door of the packet path: which service a packet dials, whether its client may, and which backend it gets.
//!
//! Invariant: what is taken for a flow is given back where none comes of it.

use nodemesh_abi::{ClientKey, FlowEvent, FlowService, Ip16, ServiceKey};

use super::{frame::Skb, route, scratch::Scratch};
use crate::{
    event,
    limit::{self, Taken},
    maps, pick, policy, stats,
};

/// What [`admit`] gives where the client may.
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

/// Asks policy and limits, and picks a backend, which is counted. [`ADMITTED`], or the number of the [`FlowEvent`] that refuses it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn admit(hook: u32, now: u64) -> u32 {
    let Some(scratch) = Scratch::of(hook) else {
        return FlowEvent::TableFull as u32;
    };
    // SAFETY: the scratch of this hook, on this CPU.
    let scratch = unsafe { &mut *scratch };
    let service = scratch.service.service;
    let tuple = scratch.headers.tuple;
    scratch.identity = policy::identity_at(tuple.src);
    scratch.direct = 0;
    scratch.counted = 0;
    if service.policy != 0 && !policy::admits_flow(&service, &tuple, scratch.identity) {
        stats::refused(service.id, nodemesh_abi::Refusal::Policy);
        event::flow_refused(&service, &tuple, scratch.identity, nodemesh_abi::Refusal::Policy);
        return FlowEvent::Policy as u32;
    }
    let taken = match maps::rules.get(service.rules) {
        Some(rules) => match limit::admit(rules, service.rules, scratch.identity, now) {
            Ok(taken) => taken,
            Err(refusal) => {
                stats::refused(service.id, refusal);
                event::flow_refused(&service, &tuple, scratch.identity, refusal);
                return FlowEvent::from(refusal) as u32;
            }
        },
        None => Taken(0),
    };
    let client = ClientKey::address(tuple.src);
    match pick::for_flow(&service, now, client, &tuple) {
        Ok(picked) => {
            scratch.counted = taken.0;
            scratch.backend = picked.endpoint.addr;
            scratch.backend_port = picked.endpoint.port;
            scratch.backend_id = picked.id;
            scratch.backend_flags = maps::backends
                .get(picked.id)
                .map_or(0, |row| u32::from(row.flags));
            ADMITTED
        }
        Err(refusal) => {
            taken.give_back(service.rules, scratch.identity);
            stats::refused(service.id, refusal);
            event::flow_refused(&service, &tuple, scratch.identity, refusal);
            FlowEvent::from(refusal) as u32
        }
    }
}

/// Gives back what [`admit`] took, since no flow came of it.
#[inline(always)]
pub fn give_back(scratch: &Scratch) {
    stats::untracked(scratch.backend_id);
    Taken(scratch.counted).give_back(scratch.service.service.rules, scratch.identity);
}
