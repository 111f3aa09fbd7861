// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The pick for a flow of the packet path: the same tables, tiers, caps and affinity, without chance.
//!
//! Invariant: nodes with the same tables choose alike, so a flow that moves to another node keeps its backend.

use nodemesh_abi::{
    AffinityKey, AffinityValue, Algorithm, ClientKey, InternalError, Refusal, Service, client::mix,
    flow::Tuple, slot::scale,
};

use super::{
    Attempt, Demand, How, OWN_TABLE, Picked, Seen, at, attempt, broken, given, random, refusal, scan, search,
    slot, sticky,
};
use crate::{maps, stats};

/// Picks a backend of `service` for the flow `tuple` of the client at an address, and counts it there. Whatever the service's algorithm is,
/// every node chooses alike for one flow: by the packet path's own Maglev table, else by the service's, else by its alias table, read with a hash for a draw.
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
        return by_hash(service, now, draw);
    }
    let key = AffinityKey {
        client,
        service: service.id,
        pad: 0,
    };
    let picked = match sticky(&key, service, now, true) {
        Some(picked) => picked,
        None => by_hash(service, now, draw)?,
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
fn by_hash(service: &Service, now: u64, draw: u32) -> Result<Picked, Refusal> {
    let own = maps::flow_tables.get(service.id);
    let has_own = own.is_some();
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
    let found = if has_own {
        search_own(service.id, draw)
    } else {
        search(service.id, u32::from(service.tiers), draw, How::HOLDS)
    };
    match found {
        id if id < Seen::NO_ID => given(id),
        seen => Err(refusal(seen)),
    }
}

/// As [`search`], in the packet path's own table, which holds the backends of all tiers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn search_own(service: u32, draw: u32) -> u32 {
    let place = at(service, OWN_TABLE);
    let mut seen = scan(place, draw, Demand::Last as u32, How::HOLDS);
    if seen >= Seen::NO_ID && seen & Seen::SPARED != 0 {
        let found = scan(place, draw, Demand::Fit as u32, How::HOLDS);
        seen = if found < Seen::NO_ID { found } else { seen | found };
    }
    if seen >= Seen::NO_ID && seen & Seen::EJECTED != 0 {
        // Anywhere, or a dead one could hide one that is well again.
        let found = scan(place, random(), Demand::Any as u32, How::HOLDS);
        seen = if found < Seen::NO_ID { found } else { seen | found };
    }
    seen
}
