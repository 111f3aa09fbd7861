// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The pick: which backend a client of a service gets. Constant cost, whatever the number of backends.
//!
//! Invariant: the table in use cannot change during a pick: a swap leaves the old one alone until every program that may
//! have seen it has ended (RCU).

use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use nodemesh_abi::{
    AffinityKey, AffinityValue, Algorithm, Backend, ClientKey, InternalError, Refusal, Service, Slot,
    slot::{less_loaded, rotate, scale},
};

use crate::{
    atomic::fetch_add,
    maps::{self, SlotTable},
    sock_addr::Endpoint,
    stats,
};

/// A chosen backend.
#[derive(Clone, Copy)]
pub struct Picked {
    /// Its id.
    pub id: u32,
    /// Incarnation of the id.
    pub generation: u32,
    /// Where it is.
    pub endpoint: Endpoint,
    /// Its pair of rows in `traffic`.
    pub traffic: u32,
}

impl Picked {
    #[inline(always)]
    fn new(id: u32, backend: &Backend) -> Self {
        let endpoint = Endpoint {
            addr: backend.addr,
            port: backend.port,
        };
        Self {
            id,
            generation: backend.generation,
            endpoint,
            traffic: backend.traffic,
        }
    }

    /// The backend `id`, if it is still the incarnation `generation` and takes new connections.
    #[inline(always)]
    pub fn again(id: u32, generation: u32) -> Option<Self> {
        let backend = maps::backends.get(id)?;
        backend.accepts(generation).then(|| Self::new(id, backend))
    }
}

/// Picks a backend of `service` for `client`.
#[inline(always)]
pub fn pick(service: &Service, client: impl Fn() -> ClientKey) -> Result<Picked, Refusal> {
    if service.affinity_timeout_s == 0 {
        return from_table(service, client);
    }
    let key = AffinityKey {
        client: client(),
        service: service.id,
        pad: 0,
    };
    // SAFETY: the helper takes no pointer.
    let now = unsafe { bpf_ktime_get_ns() };
    let picked = match sticky(&key, service, now) {
        Some(picked) => picked,
        None => from_table(service, || key.client)?,
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

/// The backend of the client's last connection, while its affinity lasts.
#[inline(always)]
fn sticky(key: &AffinityKey, service: &Service, now: u64) -> Option<Picked> {
    // SAFETY: copied at once; a recycled element gives a backend that `again` checks.
    let value = unsafe { maps::affinity.get(key) }.copied()?;
    if !value.is_fresh(now, service.affinity_timeout_s) {
        return None;
    }
    Picked::again(value.backend, value.generation)
}

#[inline(always)]
fn from_table(service: &Service, client: impl Fn() -> ClientKey) -> Result<Picked, Refusal> {
    let Some(table) = maps::slot_tables.get(service.id) else {
        return broken(InternalError::SlotTable);
    };
    let len = match table.get(0) {
        Some(first) => first.len,
        None => return broken(InternalError::SlotTable),
    };
    if len == 0 {
        return Err(Refusal::NoBackend);
    }
    let id = match service.algorithm {
        algorithm if algorithm == Algorithm::LeastRequest as u8 => less_loaded_of_two(table, len),
        algorithm if algorithm == Algorithm::Maglev as u8 => {
            slot(table, scale(client().hash(), len)).map(|s| s.backend)
        }
        algorithm if algorithm == Algorithm::RoundRobin as u8 => next_in_turn(table, len, service.id),
        _ => draw(table, len),
    };
    let Some(id) = id else {
        return broken(InternalError::SlotTable);
    };
    match maps::backends.get(id) {
        Some(backend) if backend.generation != 0 => Ok(Picked::new(id, backend)),
        _ => broken(InternalError::Backend),
    }
}

/// Counts a row that should be there and refuses: there is nowhere to send the connection.
#[cold]
#[inline(always)]
fn broken(error: InternalError) -> Result<Picked, Refusal> {
    stats::internal_error(error);
    Err(Refusal::NoBackend)
}

#[inline(always)]
fn slot(table: &SlotTable, position: u32) -> Option<&Slot> {
    table.get(position)
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: the helper takes no pointer.
    unsafe { bpf_get_prandom_u32() }
}

/// A backend at random, by weight.
#[inline(always)]
fn draw(table: &SlotTable, len: u32) -> Option<u32> {
    let slot = slot(table, scale(random(), len))?;
    Some(slot.choose(random()))
}

#[inline(always)]
fn next_in_turn(table: &SlotTable, len: u32, service: u32) -> Option<u32> {
    let state = stats::service(service)?;
    // SAFETY: `state` is a map value.
    let count = unsafe { fetch_add(&raw mut (*state).rotation, 1) };
    let (position, value) = rotate(count, len);
    Some(slot(table, position)?.choose(value))
}

/// Power of two choices (Mitzenmacher 2001) over load divided by weight.
#[inline(always)]
fn less_loaded_of_two(table: &SlotTable, len: u32) -> Option<u32> {
    let first = draw(table, len)?;
    let second = draw(table, len)?;
    if first == second {
        return Some(first);
    }
    let (first_load, weight) = load(first)?;
    let (second_load, other_weight) = load(second)?;
    Some(if less_loaded(first_load, weight, second_load, other_weight) {
        first
    } else {
        second
    })
}

#[inline(always)]
fn load(id: u32) -> Option<(u64, u32)> {
    let state = stats::backend(id)?;
    // SAFETY: `state` is a map value; volatile because other CPUs count at the same time.
    let load = unsafe { core::ptr::read_volatile(&raw const (*state).load) };
    Some((load, maps::backends.get(id)?.weight))
}
