// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Limits of a service and of each of its clients: tokens of new connections, and how much is held at once.
//!
//! What is taken for a connection is noted in its record and given back with it. Invariant: a count never passes its cap, not for
//! an instant: it is compared and exchanged, not added and looked at.

use core::ptr;

use nodemesh_abi::{Caps, ClientRules, Held, InternalError, Rate, Refusal, Rules, connection::Counted};

use crate::{
    atomic::{add, replace_if_u64},
    maps, stats,
};

/// Tries to change a number that other CPUs change too; enough for any number of them that lose in turn.
const TRIES: usize = 16;

/// What was taken for a connection: bits of [`Counted`].
#[derive(Clone, Copy)]
#[must_use]
pub struct Taken(pub u32);

/// Adds 1 to `*count` unless it is `cap` already; a cap of 0 is none.
///
/// # Safety
/// `count` is a map value that all writers change atomically.
#[inline(never)]
pub unsafe fn take(count: *mut u64, cap: u32) -> bool {
    if cap == 0 {
        // SAFETY: the caller's.
        unsafe { add(count, 1) };
        return true;
    }
    for _ in 0..TRIES {
        // SAFETY: the caller's; volatile because other CPUs write it.
        let found = unsafe { ptr::read_volatile(count) };
        if found >= u64::from(cap) {
            return false;
        }
        // SAFETY: the caller's.
        if unsafe { replace_if_u64(count, found, found + 1) } {
            return true;
        }
    }
    false
}

/// Takes what `caps` are about, all or nothing.
///
/// # Safety
/// As [`take`], for two counts.
#[inline(always)]
pub unsafe fn take_both(connections: *mut u64, requests: *mut u64, caps: Caps) -> Result<(), Refusal> {
    // SAFETY: the caller's.
    unsafe {
        if !take(connections, caps.connections) {
            return Err(Refusal::Connections);
        }
        if !take(requests, caps.requests) {
            add(connections, u64::MAX);
            return Err(Refusal::Requests);
        }
    }
    Ok(())
}

/// Takes a token; one that is contended for more than `TRIES` times is not there.
#[inline(never)]
fn take_token(held: *mut Held, rate: &Rate, now: u64) -> bool {
    if rate.interval_ns == 0 {
        return true;
    }
    for _ in 0..TRIES {
        // SAFETY: a map value; volatile because other CPUs write it.
        let due = unsafe { ptr::read_volatile(&raw const (*held).due_ns) };
        let Some(next) = rate.take(due, now) else {
            return false;
        };
        // SAFETY: a map value.
        if unsafe { replace_if_u64(&raw mut (*held).due_ns, due, next) } {
            return true;
        }
    }
    false
}

/// Takes what a connection of `identity` to the service needs, or says what is missing. `number` is the service's index into `rules`.
#[inline(always)]
pub fn admit(rules: &Rules, number: u32, identity: u32, now: u64) -> Result<Taken, Refusal> {
    let mut taken = Taken(0);
    let has_client = rules.client_rate.interval_ns != 0 || !rules.client_caps.is_none();
    if has_client && let Some(held) = client(number, identity) {
        if !take_token(held, &rules.client_rate, now) {
            return Err(Refusal::Rate);
        }
        if !rules.client_caps.is_none() {
            taken.hold(held, rules.client_caps, Counted::CLIENT)?;
        }
    }
    let limited = rules.rate.interval_ns != 0 || !rules.caps.is_none();
    if limited && let Some(held) = maps::rule_states.get_ptr_mut(number) {
        if !take_token(held, &rules.rate, now) {
            taken.give_back(number, identity);
            return Err(Refusal::Rate);
        }
        if !rules.caps.is_none()
            && let Err(refusal) = taken.hold(held, rules.caps, Counted::SERVICE)
        {
            taken.give_back(number, identity);
            return Err(refusal);
        }
    }
    Ok(taken)
}

impl Taken {
    #[inline(always)]
    fn hold(&mut self, held: *mut Held, caps: Caps, bit: u32) -> Result<(), Refusal> {
        // SAFETY: a map value.
        unsafe { take_both(&raw mut (*held).connections, &raw mut (*held).requests, caps)? };
        self.0 |= bit;
        Ok(())
    }

    /// Gives everything back: the connection did not come about.
    #[inline(always)]
    pub fn give_back(self, number: u32, identity: u32) {
        requests(self.0, number, identity, -1);
        connection_ended(self.0, number, identity);
    }
}

/// A connection that is counted at `counted` is no more.
#[inline(always)]
pub fn connection_ended(counted: u32, number: u32, identity: u32) {
    each(counted, number, identity, |held| {
        // SAFETY: a map value.
        unsafe { add(&raw mut (*held).connections, u64::MAX) };
    });
}

/// The requests of a connection that is counted at `counted` are more by `delta`.
#[inline(always)]
pub fn requests(counted: u32, number: u32, identity: u32, delta: i64) {
    each(counted, number, identity, |held| {
        // SAFETY: a map value.
        unsafe { add(&raw mut (*held).requests, delta.cast_unsigned()) };
    });
}

#[inline(always)]
fn each(counted: u32, number: u32, identity: u32, change: impl Fn(*mut Held)) {
    if counted & Counted::SERVICE != 0
        && let Some(held) = maps::rule_states.get_ptr_mut(number)
    {
        change(held);
    }
    if counted & Counted::CLIENT != 0 {
        let key = ClientRules {
            rules: number,
            identity,
        };
        if let Some(held) = maps::clients.get_ptr_mut(key) {
            change(held);
        }
    }
}

/// What a client holds of a service; `None`, and counted, if there is no room for one more client.
#[inline(always)]
fn client(rules: u32, identity: u32) -> Option<*mut Held> {
    let key = ClientRules { rules, identity };
    if let Some(held) = maps::clients.get_ptr_mut(key) {
        return Some(held);
    }
    // Another CPU may have been first, which is as well.
    let _ = maps::clients.insert(key, Held::default(), u64::from(aya_ebpf::bindings::BPF_NOEXIST));
    let held = maps::clients.get_ptr_mut(key);
    if held.is_none() {
        stats::internal_error(InternalError::ClientRecord);
    }
    held
}
