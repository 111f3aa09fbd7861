// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Which backends are fit: failures and successes as the kernel sees them, ejection, and the probe that ends it.
//!
//! ```text
//! well ──failures in a row──► ejected ──time──► probe (one connection) ──success──► well
//!                                ▲                     └──failure, longer──┐
//!                                └─────────────────────────────────────────┘
//! ```
//!
//! A failed health check outranks what connections tell: while the agent upholds it, only the agent readmits. Invariant: at most one
//! connection at a time reaches an ejected backend, and no more than the configured share of a service is ejected.

use core::ptr;

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use nodemesh_abi::{
    Backend, BackendState, ConnectFailure, Ejection, Outcome, Rules,
    backend::PROBE,
    service::{TIERS, tier_table},
};

use crate::{
    atomic::{add, add_at, fetch_add, replace_if_u64},
    event, maps,
    opaque::zero,
    stats,
};

/// How long a probe has before another one is sent, if it is not over sooner.
const PROBE_NS: u64 = 10_000_000_000;
/// Slots that are looked at to tell how much of a service is ejected.
const SAMPLE: u32 = 128;
/// How long a handshake may take before a client that gives it up tells something of the backend: the first SYN was sent again by then
/// (RFC 6298, section 2).
const UNANSWERED_NS: u64 = 1_000_000_000;

/// What a backend may be given now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fitness {
    /// Connections.
    Well,
    /// One connection, which the caller has.
    Probe,
    /// Nothing.
    Ejected,
}

/// Whether `state` may be given a connection at `now`.
///
/// # Safety
/// `state` is a map value.
#[inline(always)]
pub unsafe fn fitness(state: *mut BackendState, now: u64) -> Fitness {
    // SAFETY: the caller's; volatile because other CPUs write it.
    unsafe {
        let until = ptr::read_volatile(&raw const (*state).ejected_until_ns);
        if until == 0 {
            return Fitness::Well;
        }
        if now >= until
            && replace_if_u64(
                &raw mut (*state).ejected_until_ns,
                until,
                (now + PROBE_NS) | PROBE,
            )
        {
            return Fitness::Probe;
        }
    }
    Fitness::Ejected
}

/// Bits of what [`learn`] is told of a backend.
pub struct News;

impl News {
    /// A connection was established.
    pub const CONNECTED: u32 = 1;
    /// A connection was not, by the backend's doing.
    pub const NOT_CONNECTED: u32 = 1 << 1;
    /// The first byte of a response has come.
    pub const ANSWERED: u32 = 1 << 2;
    /// A first token has come.
    pub const WARMED: u32 = 1 << 3;
    /// A request ended well.
    pub const SUCCEEDED: u32 = 1 << 4;
    /// A response was cut off, or there was none.
    pub const FAILED: u32 = 1 << 5;
    /// A response was complete with a status of 500 or more.
    pub const SERVER_ERROR: u32 = 1 << 6;

    /// What the end of a request tells.
    #[inline(always)]
    pub const fn finished(outcome: Outcome) -> u32 {
        match outcome {
            Outcome::Success | Outcome::ClientError => Self::SUCCEEDED,
            Outcome::ServerError => Self::SERVER_ERROR,
            Outcome::Truncated | Outcome::NoResponse => Self::FAILED,
            // The client's doing.
            Outcome::Canceled | Outcome::KeepaliveRace => 0,
        }
    }

    /// What a connect tells that failed after `ns`.
    #[inline(always)]
    pub const fn not_connected(reason: ConnectFailure, ns: u64) -> u32 {
        match reason {
            ConnectFailure::Refused | ConnectFailure::Timeout | ConnectFailure::Unreachable => {
                Self::NOT_CONNECTED
            }
            // The client had a timeout of its own.
            ConnectFailure::Aborted if ns >= UNANSWERED_NS => Self::NOT_CONNECTED,
            // The client's own doing.
            ConnectFailure::Aborted | ConnectFailure::Other => 0,
        }
    }
}

/// Learns [`News`] of a backend.
///
/// Calls side by side, not one in the other: the kernel bounds what the stacks of a chain of calls take together.
#[inline(always)]
pub fn learn(id: u32, news: u32) {
    let due = weigh(id, news);
    if due != Due::NOTHING && spared(id) == 0 {
        condemn(id, due);
    }
}

/// What a backend's failures come to.
struct Due;

impl Due {
    /// Not enough.
    const NOTHING: u32 = 0;
    /// [`Ejection::Connect`].
    const CONNECT: u32 = 1;
    /// [`Ejection::Request`].
    const REQUEST: u32 = 2;
}

/// Counts [`News`] of a backend and returns what is [`Due`]. A global function, see [`crate::count`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn weigh(id: u32, news: u32) -> u32 {
    let (Some(backend), Some(state)) = (maps::backends.get(id), stats::backend(id)) else {
        return 0;
    };
    let Some(rules) = maps::rules.get(backend.rules) else {
        return 0;
    };
    let failed = news & News::FAILED != 0 || news & News::SERVER_ERROR != 0 && rules.server_errors != 0;
    let is_connect = news & News::NOT_CONNECTED != 0;
    if is_connect || failed {
        // SAFETY: a map value.
        let is_due = unsafe { fails(state, rules, is_connect) };
        return match (is_due, is_connect) {
            (false, _) => Due::NOTHING,
            (true, true) => Due::CONNECT,
            (true, false) => Due::REQUEST,
        };
    }
    // SAFETY: the state of this backend.
    unsafe { success(id, backend, state, rules, news) };
    Due::NOTHING
}

/// Ejects a backend for what is [`Due`]. A global function, as [`weigh`] is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn condemn(id: u32, due: u32) -> u32 {
    if let Some(backend) = maps::backends.get(id)
        && let Some(rules) = maps::rules.get(backend.rules)
    {
        let reason = if due == Due::CONNECT {
            Ejection::Connect
        } else {
            Ejection::Request
        };
        put_out(backend.service, id, rules, reason, 0);
    }
    0
}

/// Whether a backend stays whatever it is due for, see [`is_spared`]. A global function, as [`weigh`] is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn spared(id: u32) -> u32 {
    if let Some(backend) = maps::backends.get(id)
        && let Some(rules) = maps::rules.get(backend.rules)
        && let Some(state) = stats::backend(id)
    {
        // SAFETY: a map value.
        return u32::from(unsafe { is_spared(backend.service, state, rules) });
    }
    1
}

/// # Safety
/// `state` is that of `backend`, whose id is `id`.
#[inline(always)]
unsafe fn success(id: u32, backend: &Backend, state: *mut BackendState, rules: &Rules, news: u32) {
    // SAFETY: the caller's; volatile because other CPUs write it.
    unsafe {
        let since = backend.since_ns;
        if news & News::WARMED != 0 && ptr::read_volatile(&raw const (*state).warm) != since {
            (&raw mut (*state).warm).write_volatile(since);
        }
        let until = ptr::read_volatile(&raw const (*state).ejected_until_ns);
        let by_connect = ptr::read_volatile(&raw const (*state).ejected_for) == Ejection::Connect as u64;
        if until != 0 {
            if proves_well(state, until, news) {
                readmit(backend.service, id, state);
                if !by_connect && rules.request_failures > 1 {
                    // It has answered once: the next failure is enough, until a whole request went well.
                    (&raw mut (*state).request_failures)
                        .write_volatile(u64::from(rules.request_failures - 1));
                }
            }
            return;
        }
        if news & News::CONNECTED != 0 {
            forget(&raw mut (*state).connect_failures);
        }
        if news & News::SUCCEEDED != 0 {
            forget(&raw mut (*state).request_failures);
        }
        if news & News::SUCCEEDED != 0 || news & News::CONNECTED != 0 && by_connect {
            let ejections = ptr::read_volatile(&raw const (*state).ejections);
            if ejections != 0 {
                // Each success takes one step of the back-off away.
                replace_if_u64(&raw mut (*state).ejections, ejections, ejections - 1);
            }
        }
    }
}

/// Whether what is told of an ejected backend shows that it is well again: a connection where these failed, a token where none came, and
/// else an answer to the probe.
///
/// # Safety
/// `state` is a map value.
#[inline(always)]
unsafe fn proves_well(state: *const BackendState, until: u64, news: u32) -> bool {
    // SAFETY: the caller's; volatile because other CPUs write it.
    let reason = unsafe { ptr::read_volatile(&raw const (*state).ejected_for) };
    if reason == Ejection::Connect as u64 {
        return news & News::CONNECTED != 0;
    }
    (reason == Ejection::Silence as u64 && news & News::WARMED != 0)
        || (until & PROBE != 0 && news & News::ANSWERED != 0)
}

/// A connection to a backend has ended that was placed at `opened_ns`. A global function, as [`learn`] is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ended(id: u32, opened_ns: u64) -> u32 {
    if let Some(state) = stats::backend(id) {
        // SAFETY: a map value.
        unsafe { end_probe(state, opened_ns) };
    }
    0
}

/// If what was placed at `opened_ns` was a probe, and told nothing (its client gave up, or asked nothing), the next connection is one.
///
/// # Safety
/// `state` is a map value.
#[inline(always)]
pub unsafe fn end_probe(state: *mut BackendState, opened_ns: u64) {
    // SAFETY: the caller's; volatile because other CPUs write it.
    unsafe {
        let until = ptr::read_volatile(&raw const (*state).ejected_until_ns);
        let begun = (until & !PROBE).wrapping_sub(PROBE_NS);
        if until & PROBE != 0 && opened_ns >= begun {
            replace_if_u64(&raw mut (*state).ejected_until_ns, until, begun & !PROBE);
        }
    }
}

/// Sets a count of failures to 0. The row is written only if it has to be, since all CPUs read it.
///
/// # Safety
/// `failures` is a map value.
#[inline(always)]
unsafe fn forget(failures: *mut u64) {
    // SAFETY: the caller's; volatile because other CPUs write it.
    unsafe {
        if failures.read_volatile() != 0 {
            failures.write_volatile(0);
        }
    }
}

/// Counts a failure; whether the backend is to be ejected for it.
///
/// # Safety
/// `state` is a map value.
#[inline(always)]
unsafe fn fails(state: *mut BackendState, rules: &Rules, is_connect: bool) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let (count, threshold) = if is_connect {
            (&raw mut (*state).connect_failures, rules.connect_failures)
        } else {
            (&raw mut (*state).request_failures, rules.request_failures)
        };
        if threshold == 0 {
            return false;
        }
        let failures = fetch_add(count, 1) + 1;
        let is_probed = ptr::read_volatile(&raw const (*state).ejected_until_ns) & PROBE != 0;
        is_probed || failures >= u64::from(threshold)
    }
}

/// Ejects a backend, for `least_ns` if that is longer than its rules say; nothing if the share of ejected ones is reached. One that is
/// ejected already stays so for at least `least_ns`, and from then on for its health check if that is the reason.
#[inline(always)]
pub fn eject(service: u32, backend: u32, rules: &Rules, reason: Ejection, least_ns: u64) {
    if let Some(state) = stats::backend(backend)
        // SAFETY: a map value.
        && !unsafe { is_spared(service, state, rules) }
    {
        put_out(service, backend, rules, reason, least_ns);
    }
}

/// Whether a backend is not ejected, and the share of those that are is reached.
///
/// # Safety
/// `state` is a map value.
#[inline(always)]
unsafe fn is_spared(service: u32, state: *const BackendState, rules: &Rules) -> bool {
    // SAFETY: the caller's; volatile because other CPUs write it.
    let until = unsafe { ptr::read_volatile(&raw const (*state).ejected_until_ns) };
    until == 0 && !may_eject(service, rules.eject_percent)
}

/// Ejects a backend whatever the share is.
#[inline(always)]
fn put_out(service: u32, backend: u32, rules: &Rules, reason: Ejection, least_ns: u64) {
    let Some(state) = stats::backend(backend) else {
        return;
    };
    // SAFETY: a map value; the helper takes no pointer.
    unsafe {
        let now = bpf_ktime_get_ns();
        let former = ptr::read_volatile(&raw const (*state).ejected_until_ns);
        if former != 0 && former & PROBE == 0 {
            // Failures of connections from before it was ejected tell nothing new.
            let until = (now + least_ns) & !PROBE;
            if least_ns != 0 && until > former {
                replace_if_u64(&raw mut (*state).ejected_until_ns, former, until);
            }
            if reason as u64 == Ejection::HealthCheck as u64
                && ptr::read_volatile(&raw const (*state).ejected_for) != reason as u64
            {
                tell(
                    service,
                    backend,
                    state,
                    reason,
                    if until > former { until } else { former },
                );
            }
            return;
        }
        let ejections = ptr::read_volatile(&raw const (*state).ejections);
        let length = rules.ejection_ns(ejections);
        let until = (now + if length > least_ns { length } else { least_ns }) & !PROBE;
        if !replace_if_u64(&raw mut (*state).ejected_until_ns, former, until) {
            return;
        }
        add(&raw mut (*state).ejections, 1);
        (&raw mut (*state).connect_failures).write_volatile(0);
        (&raw mut (*state).request_failures).write_volatile(0);
        tell(service, backend, state, reason, until);
    }
}

/// Notes why a backend is ejected, counts it and tells of it.
///
/// # Safety
/// `state` is that of `backend`.
#[inline(always)]
unsafe fn tell(service: u32, backend: u32, state: *mut BackendState, reason: Ejection, until: u64) {
    // SAFETY: the caller's; volatile because other CPUs read it.
    unsafe {
        (&raw mut (*state).ejected_for).write_volatile(reason as u64);
        add_at(&raw mut (*state).ejected, reason as usize, 1);
        event::ejected(service, backend, reason, until);
    }
}

/// Ends the ejection of a backend.
///
/// # Safety
/// `state` is that of `backend`.
#[inline(always)]
pub unsafe fn readmit(service: u32, backend: u32, state: *mut BackendState) {
    // SAFETY: the caller's.
    unsafe {
        let until = ptr::read_volatile(&raw const (*state).ejected_until_ns);
        if until != 0 && replace_if_u64(&raw mut (*state).ejected_until_ns, until, 0) {
            (&raw mut (*state).connect_failures).write_volatile(0);
            (&raw mut (*state).request_failures).write_volatile(0);
            event::readmitted(service, backend);
        }
    }
}

/// Whether one more backend of `service` may be ejected. Counts those of the first slots of each tier, all backends of a service that
/// has no more, but for `maglev`, where these slots are a sample.
#[inline(always)]
fn may_eject(service: u32, percent: u32) -> bool {
    let mut counts = census(service, 0);
    for tier in 1..=TIERS {
        counts = counts.wrapping_add(census(service, tier));
    }
    let (seen, ejected) = (counts & u64::from(u32::MAX), counts >> 32);
    // The first one may always go, if there is another.
    (ejected == 0 && seen > 1) || (ejected + 1) * 100 <= u64::from(percent) * seen
}

/// Backends in the first slots of a tier of `service`; in the upper half, those of them that are ejected. A global function, as
/// [`learn`] is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn census(service: u32, tier: u32) -> u64 {
    let table = if tier == 0 {
        maps::slot_tables.get(service)
    } else {
        maps::tier_tables.get(tier_table(service, tier))
    };
    let Some(table) = table else { return 0 };
    let len = table.get(0).map_or(0, |first| first.len);
    // Unknown to the verifier, which else follows every combination of the two.
    let mut counts = zero();
    for position in 0..SAMPLE {
        if position >= len {
            break;
        }
        let Some(slot) = table.get(position) else { break };
        let Some(state) = stats::backend(slot.backend) else {
            break;
        };
        // SAFETY: a map value.
        let until = unsafe { ptr::read_volatile(&raw const (*state).ejected_until_ns) };
        counts = counts.wrapping_add(1 | u64::from(until != 0) << 32);
    }
    counts
}
