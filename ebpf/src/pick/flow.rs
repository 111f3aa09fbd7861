// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The pick for a flow of the packet path: the same tables, tiers, caps and affinity, without chance.
//!
//! Invariant: nodes with the same tables choose alike, so a flow that moves to another node keeps its backend.

use nodemesh_abi::{
    AffinityKey, AffinityValue, Algorithm, ClientKey, InternalError, Refusal, Service, client::mix,
    flow::Tuple, slot::scale,
};

use super::{Attempt, Demand, How, Picked, Seen, attempt, broken, given, refusal, search, slot, sticky};
use crate::{maps, stats};

/// Picks a backend of `service` for the flow `tuple` of the client at an address, and counts it there. Whatever the service's algorithm is,
/// every node chooses alike for one flow: by a Maglev table, else by an alias table that is read with a hash for a draw.
#[inline(always)]
pub fn for_flow(service: &Service, now: u64, client: ClientKey, tuple: &Tuple) -> Result<Picked, Refusal> {
    let is_maglev = service.algorithm == Algorithm::Maglev as u8;
    // Where a client belongs to a backend, its port plays no part.
    let draw = if is_maglev || service.affinity_timeout_s != 0 {
        client.hash()
    } else {
        tuple.spread()
    };
    if service.affinity_timeout_s == 0 {
        return by_hash(service, now, draw, is_maglev);
    }
    let key = AffinityKey {
        client,
        service: service.id,
        pad: 0,
    };
    let picked = match sticky(&key, service, now, true) {
        Some(picked) => picked,
        None => by_hash(service, now, draw, is_maglev)?,
    };
    let value = AffinityValue {
        backend: picked.id,
        generation: picked.generation,
        used_ns: now,
    };
    if maps::affinity.insert(key, value, 0).is_err() {
        stats::internal_error(InternalError::AffinityRecord);
    }
    Ok(picked)
}

#[inline(always)]
fn by_hash(service: &Service, now: u64, draw: u32, is_maglev: bool) -> Result<Picked, Refusal> {
    let own = if is_maglev {
        None
    } else {
        maps::flow_tables.get(service.id)
    };
    let Some(table) = own.or_else(|| maps::slot_tables.get(service.id)) else {
        return broken(InternalError::SlotTable);
    };
    let len = match table.get(0) {
        Some(first) => first.len,
        None => return broken(InternalError::SlotTable),
    };
    if len != 0 {
        let Some(slot) = slot(table, scale(draw, len)) else {
            return broken(InternalError::SlotTable);
        };
        let id = slot.choose(mix(u64::from(draw)) as u32);
        let demand = if service.tiers == 0 {
            Demand::Last
        } else {
            Demand::Best
        };
        if attempt(id, now, demand as u32, How::HOLDS | How::CHOSEN) == Attempt::Taken as u32 {
            return given(id);
        }
    } else if service.tiers == 0 {
        return Err(Refusal::NoBackend);
    }
    match search(service.id, u32::from(service.tiers), draw, now, How::HOLDS) {
        id if id < Seen::NO_ID => given(id),
        seen => Err(refusal(seen)),
    }
}
