// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The pick: which backend a client of a service gets. Constant cost, whatever the number of backends.
//!
//! ```text
//! affinity ─► algorithm ─► fit? ── no ─► the slots after a random one ─► next tier ─► what is left: one that starts or spills,
//!                           └─ yes: taken                                              then an ejected one
//! ```
//!
//! Invariants: the table in use cannot change during a pick: a swap leaves the old one alone until every program that may
//! have seen it has ended (RCU). A backend is counted before it is given out, so a cap holds however many pick at once.

mod flow;

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use nodemesh_abi::{
    AffinityKey, AffinityValue, Algorithm, Backend, BackendFlags, BackendState, Caps, ClientKey,
    InternalError, Refusal, Rules, Service, Slot,
    service::{TIERS, tier_table},
    slot::{less_loaded, rotate, scale},
};

use crate::{
    atomic::{add, fetch_add},
    event,
    health::{self, Fitness},
    limit,
    maps::{self, SlotTable},
    opaque::zero,
    place::now,
    sock_addr::Endpoint,
    stats,
};

pub use flow::for_flow;

/// Slots of a tier that are looked at when the algorithm's choice will not do.
const SCAN: u32 = 32;

/// Stands for the packet path's own table of a service where a tier is named.
const OWN_TABLE: u32 = TIERS + 1;

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

/// How picky a pick is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Demand {
    /// Fit, ramped up, and not loaded so much that a further tier is asked.
    Best = 0,
    /// Fit and ramped up; there is no further tier.
    Last = 1,
    /// Fit.
    Fit = 2,
    /// Any that its caps allow.
    Any = 3,
}

/// How a backend is taken: bits.
struct How;

impl How {
    /// For a connection, which holds it.
    const HOLDS: u32 = 1;
    /// By the algorithm's choice, not for want of another one.
    const CHOSEN: u32 = 1 << 1;
}

/// What became of an attempt to take a backend.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Attempt {
    /// It is counted on it.
    Taken,
    /// It starts, or is loaded.
    Spared,
    /// It is ejected.
    Ejected,
    /// It has as many connections as it is given.
    Connections,
    /// It has as many requests in flight as it is given.
    Requests,
    /// It has as many new connections a second as it is given.
    Rate,
    /// There is no such backend.
    Missing,
}

/// Picks a backend of `service` for `client` at `now`, and counts a connection on it if `holds`; else nothing is held, as for a datagram.
#[inline(always)]
pub fn pick(
    service: &Service,
    now: u64,
    holds: bool,
    client: impl Fn() -> ClientKey,
) -> Result<Picked, Refusal> {
    if service.affinity_timeout_s == 0 {
        return from_tiers(service, now, holds, client);
    }
    let key = AffinityKey {
        client: client(),
        service: service.id,
        pad: 0,
    };
    let picked = match sticky(&key, service, now, holds) {
        Some(picked) => picked,
        None => from_tiers(service, now, holds, || key.client)?,
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

/// The backend of the client's last connection, while its affinity lasts and it is fit.
#[inline(always)]
fn sticky(key: &AffinityKey, service: &Service, now: u64, holds: bool) -> Option<Picked> {
    // SAFETY: copied at once; a recycled element gives a backend that `again` checks.
    let value = unsafe { maps::affinity.get(key) }.copied()?;
    if !value.is_fresh(now, service.affinity_timeout_s) {
        return None;
    }
    let picked = Picked::again(value.backend, value.generation)?;
    (attempt(picked.id, now, Demand::Fit as u32, u32::from(holds)) == Attempt::Taken as u32).then_some(picked)
}

#[inline(always)]
fn from_tiers(
    service: &Service,
    now: u64,
    holds: bool,
    client: impl Fn() -> ClientKey,
) -> Result<Picked, Refusal> {
    let Some(table) = maps::slot_tables.get(service.id) else {
        return broken(InternalError::SlotTable);
    };
    let len = match table.get(0) {
        Some(first) => first.len,
        None => return broken(InternalError::SlotTable),
    };
    let is_maglev = service.algorithm == Algorithm::Maglev as u8;
    let draw_from = if is_maglev { client().hash() } else { random() };
    if len != 0 {
        let id = match service.algorithm {
            algorithm if algorithm == Algorithm::LeastRequest as u8 => less_loaded_of_two(table, len),
            algorithm if algorithm == Algorithm::Maglev as u8 => {
                slot(table, scale(draw_from, len)).map(|slot| slot.backend)
            }
            algorithm if algorithm == Algorithm::RoundRobin as u8 => next_in_turn(table, len, service.id),
            _ => draw(table, len),
        };
        let Some(id) = id else {
            return broken(InternalError::SlotTable);
        };
        let demand = if service.tiers == 0 {
            Demand::Last
        } else {
            Demand::Best
        };
        if attempt(id, now, demand as u32, u32::from(holds) | How::CHOSEN) == Attempt::Taken as u32 {
            return given(id);
        }
    } else if service.tiers == 0 {
        return Err(Refusal::NoBackend);
    }
    match search(service.id, u32::from(service.tiers), draw_from, u32::from(holds)) {
        id if id < Seen::NO_ID => given(id),
        seen => Err(refusal(seen)),
    }
}

/// The backend `id`, which was taken.
#[inline(always)]
fn given(id: u32) -> Result<Picked, Refusal> {
    match maps::backends.get(id) {
        Some(backend) => Ok(Picked::new(id, backend)),
        None => broken(InternalError::Backend),
    }
}

/// When the algorithm's choice will not do: takes the first backend that will, tier by tier; else one that starts or is loaded, since
/// that is better than none; else any of the ejected ones ("panic mode"). Returns its id, or [`Seen`].
///
/// `service` has `tiers` after its first; `draw` says where to begin in each, of 2^32: with a hash, the slots after its own are the same
/// for every client of it.
#[inline(always)]
fn search(service: u32, tiers: u32, draw: u32, holds: u32) -> u32 {
    let found = search_fit(service, tiers, draw, holds);
    if found >= Seen::NO_ID && found & Seen::EJECTED != 0 {
        let ejected = search_ejected(service, tiers, holds);
        if ejected < Seen::NO_ID {
            return ejected;
        }
    }
    found
}

/// [`search`] but for the ejected ones. A global function, as [`attempt`] is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn search_fit(service: u32, tiers: u32, draw: u32, holds: u32) -> u32 {
    let mut seen = zero() as u32;
    for tier in 0..=TIERS {
        if tier > tiers {
            break;
        }
        let demand = if tier == tiers { Demand::Last } else { Demand::Best };
        let found = scan(at(service, tier), draw, demand as u32, holds);
        if found < Seen::NO_ID {
            return found;
        }
        seen |= found;
    }
    if seen & Seen::SPARED != 0 {
        for tier in 0..=TIERS {
            if tier > tiers {
                break;
            }
            let found = scan(at(service, tier), draw, Demand::Fit as u32, holds);
            if found < Seen::NO_ID {
                return found;
            }
        }
    }
    seen
}

/// Any backend that its caps allow, of any tier. A global function, as [`attempt`] is; not called by [`search_fit`], because the kernel
/// bounds what the stacks of a chain of calls take together.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn search_ejected(service: u32, tiers: u32, holds: u32) -> u32 {
    // Anywhere, or a dead one could hide one that is well again.
    let first = scale(random(), tiers.wrapping_add(1));
    for step in 0..=TIERS {
        if step > tiers {
            break;
        }
        let tier = first.wrapping_add(step);
        let wrapped = if tier > tiers { tiers.wrapping_add(1) } else { 0 };
        let place = at(service, tier.wrapping_sub(wrapped));
        let found = scan(place, random(), Demand::Any as u32, holds);
        if found < Seen::NO_ID {
            return found;
        }
    }
    Seen::NO_ID
}

/// What was met where no backend was taken: bits.
struct Seen;

impl Seen {
    /// Above all ids of backends, and in each of these.
    const NO_ID: u32 = 1 << 31;
    /// One that starts, or is loaded.
    const SPARED: u32 = 1;
    /// One that is ejected.
    const EJECTED: u32 = 1 << 1;
    /// One that has as many connections as it is given.
    const CONNECTIONS: u32 = 1 << 2;
    /// One that has as many requests in flight as it is given.
    const REQUESTS: u32 = 1 << 3;
    /// One that has as many new connections a second as it is given.
    const RATE: u32 = 1 << 4;
}

/// A tier of a service as one number.
#[inline(always)]
fn at(service: u32, tier: u32) -> u64 {
    u64::from(tier) << 32 | u64::from(service)
}

/// Takes the first backend of a tier that meets the [`Demand`], from the slot that `draw` says on. Returns its id, or [`Seen`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn scan(place: u64, draw: u32, demand: u32, holds: u32) -> u32 {
    let now = now();
    // A number that the verifier does not know, since it would follow each combination of those that it does.
    let zero = zero() as u32;
    let mut seen = zero | Seen::NO_ID;
    let (service, tier) = (place as u32, (place >> 32) as u32);
    let table = match tier {
        0 => maps::slot_tables.get(service),
        OWN_TABLE => maps::flow_tables.get(service),
        tier => maps::tier_tables.get(tier_table(service, tier)),
    };
    let Some(table) = table else {
        stats::internal_error(InternalError::SlotTable);
        return seen;
    };
    let len = table.get(0).map_or(0, |first| first.len);
    let start = scale(draw, len);
    for step in 0..SCAN {
        if step >= len {
            break;
        }
        let wrapped = if start + step >= len { len } else { 0 };
        let Some(slot) = slot(table, start + step - wrapped) else {
            break;
        };
        let id = slot.backend.wrapping_add(zero);
        let outcome = attempt(id, now, demand, holds);
        if outcome == Attempt::Taken as u32 {
            return id;
        }
        seen |= match outcome {
            outcome if outcome == Attempt::Spared as u32 => Seen::SPARED,
            outcome if outcome == Attempt::Ejected as u32 => Seen::EJECTED,
            outcome if outcome == Attempt::Connections as u32 => Seen::CONNECTIONS,
            outcome if outcome == Attempt::Requests as u32 => Seen::REQUESTS,
            outcome if outcome == Attempt::Rate as u32 => Seen::RATE,
            _ => 0,
        };
    }
    seen
}

/// The refusal that stands for a failed search.
#[inline(always)]
fn refusal(seen: u32) -> Refusal {
    if seen & Seen::CONNECTIONS != 0 {
        Refusal::Connections
    } else if seen & Seen::REQUESTS != 0 {
        Refusal::Requests
    } else if seen & Seen::RATE != 0 {
        Refusal::Rate
    } else {
        Refusal::NoBackend
    }
}

/// Takes backend `id` for a connection if it meets the [`Demand`], and says what became of it ([`Attempt`]); `how` are bits of [`How`]. A
/// global function of numbers, which the verifier walks through once, not once per call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn attempt(id: u32, now: u64, demand: u32, how: u32) -> u32 {
    take(id, now, demand, how) as u32
}

#[inline(always)]
fn take(id: u32, now: u64, demand: u32, how: u32) -> Attempt {
    let (Some(backend), Some(state)) = (maps::backends.get(id), stats::backend(id)) else {
        stats::internal_error(InternalError::Backend);
        return Attempt::Missing;
    };
    if backend.generation == 0 {
        stats::internal_error(InternalError::Backend);
        return Attempt::Missing;
    }
    let rules = maps::rules.get(backend.rules);
    if let Some(rules) = rules
        && demand < Demand::Fit as u32
        && spares(backend, state, rules, now, demand, how)
    {
        return Attempt::Spared;
    }
    let warms = demand < Demand::Fit as u32 && is_cold(backend, state);
    let mut is_probe = false;
    // SAFETY: `state` is a map value.
    unsafe {
        if let Some(rules) = rules
            && !limit::has_token(&raw const (*state).due_ns, &rules.backend_rate, now)
        {
            return Attempt::Rate;
        }
        if demand < Demand::Any as u32 {
            match health::fitness(state, now) {
                Fitness::Well => {}
                Fitness::Probe => is_probe = true,
                Fitness::Ejected => return Attempt::Ejected,
            }
        }
        let outcome = if how & How::HOLDS == 0 {
            opened(state, rules, now)
        } else {
            let mut caps = rules.map(|rules| rules.backend_caps).unwrap_or_default();
            if warms {
                caps.connections = 1;
            }
            hold(state, rules, caps, warms, now)
        };
        if is_probe {
            if outcome == Attempt::Taken {
                event::probed(backend.service, id);
            } else {
                health::end_probe(state, now);
            }
        }
        outcome
    }
}

/// Counts a connection and its first request against `caps`, and gives them back if there is no token.
///
/// # Safety
/// `state` is a map value.
#[inline(always)]
unsafe fn hold(
    state: *mut BackendState,
    rules: Option<&Rules>,
    caps: Caps,
    warms: bool,
    now: u64,
) -> Attempt {
    // SAFETY: the caller's.
    unsafe {
        match limit::take_both(&raw mut (*state).active, &raw mut (*state).load, caps) {
            Ok(()) => {
                let outcome = opened(state, rules, now);
                if outcome != Attempt::Taken {
                    add(&raw mut (*state).active, u64::MAX);
                    add(&raw mut (*state).load, u64::MAX);
                }
                outcome
            }
            Err(_) if warms => Attempt::Spared,
            Err(Refusal::Connections) => Attempt::Connections,
            Err(_) => Attempt::Requests,
        }
    }
}

/// Takes a token of a backend and counts what is placed there.
///
/// # Safety
/// `state` is a map value.
#[inline(always)]
unsafe fn opened(state: *mut BackendState, rules: Option<&Rules>, now: u64) -> Attempt {
    // SAFETY: the caller's.
    unsafe {
        if let Some(rules) = rules
            && !limit::take_token(&raw mut (*state).due_ns, &rules.backend_rate, now)
        {
            return Attempt::Rate;
        }
        add(&raw mut (*state).opened, 1);
    }
    Attempt::Taken
}

/// Whether a backend is to be spared: it starts, or it is loaded and there is a further tier.
#[inline(always)]
fn spares(
    backend: &Backend,
    state: *const BackendState,
    rules: &Rules,
    now: u64,
    demand: u32,
    how: u32,
) -> bool {
    // SAFETY: a map value; volatile because other CPUs write it.
    let (active, load) = unsafe {
        (
            (&raw const (*state).active).read_volatile(),
            (&raw const (*state).load).read_volatile(),
        )
    };
    if active != 0 && is_cold(backend, state) {
        return true;
    }
    if demand == Demand::Best as u32
        && rules.spill_load != 0
        && load >= u64::from(rules.spill_load) * u64::from(backend.weight)
    {
        return true;
    }
    if rules.slow_start_ns != 0
        && backend.since_ns != 0
        && let Some(share) = rules.ramp(now.saturating_sub(backend.since_ns))
    {
        // One draw per connection, or it would get more than its share.
        return how & How::CHOSEN == 0 || random() > share;
    }
    false
}

/// Whether a backend's first token is still to be seen, and waited for.
#[inline(always)]
fn is_cold(backend: &Backend, state: *const BackendState) -> bool {
    backend.flags & BackendFlags::COLD != 0
        // SAFETY: a map value; volatile because other CPUs write it.
        && unsafe { (&raw const (*state).warm).read_volatile() } != backend.since_ns
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
