// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Limits of a service, of each of its clients and of its backends: tokens of new connections, and how much is held at once.
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
#[inline(always)]
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

/// Whether there is a token at `now`; it is not taken. `due` is when the next one is.
///
/// # Safety
/// `due` is a map value.
#[inline(always)]
pub unsafe fn has_token(due: *const u64, rate: &Rate, now: u64) -> bool {
    // SAFETY: the caller's; volatile because other CPUs write it.
    rate.interval_ns == 0 || rate.take(unsafe { ptr::read_volatile(due) }, now).is_some()
}

/// Takes a token; one that is contended for more than `TRIES` times is not there.
///
/// # Safety
/// `due` is a map value that all writers change atomically.
#[inline(always)]
pub unsafe fn take_token(due: *mut u64, rate: &Rate, now: u64) -> bool {
    if rate.interval_ns == 0 {
        return true;
    }
    for _ in 0..TRIES {
        // SAFETY: the caller's; volatile because other CPUs write it.
        let found = unsafe { ptr::read_volatile(due) };
        let Some(next) = rate.take(found, now) else {
            return false;
        };
        // SAFETY: the caller's.
        if unsafe { replace_if_u64(due, found, next) } {
            return true;
        }
    }
    false
}

/// Takes what a connection of `identity` to the service needs, or says what is missing. `number` is the service's index into `rules`.
///
/// Whoever finds no token holds nothing, not for an instant; whoever finds no room takes no token.
#[inline(always)]
pub fn admit(rules: &Rules, number: u32, identity: u32, now: u64) -> Result<Taken, Refusal> {
    let of_client = rules.client_rate.interval_ns != 0 || !rules.client_caps.is_none();
    let of_service = rules.rate.interval_ns != 0 || !rules.caps.is_none();
    let own = if of_client { client(number, identity) } else { None };
    let all = if of_service {
        maps::rule_states.get_ptr_mut(number)
    } else {
        None
    };
    // SAFETY: map values in all of this function.
    unsafe {
        if let Some(held) = own
            && !has_token(&raw const (*held).due_ns, &rules.client_rate, now)
        {
            return Err(Refusal::Rate);
        }
        if let Some(held) = all
            && !has_token(&raw const (*held).due_ns, &rules.rate, now)
        {
            return Err(Refusal::Rate);
        }
    }
    let mut taken = Taken(0);
    if let Some(held) = own
        && !rules.client_caps.is_none()
    {
        taken.hold(held, rules.client_caps, Counted::CLIENT)?;
    }
    if let Some(held) = all
        && !rules.caps.is_none()
        && let Err(refusal) = taken.hold(held, rules.caps, Counted::SERVICE)
    {
        taken.give_back(number, identity);
        return Err(refusal);
    }
    // SAFETY: map values.
    unsafe {
        if let Some(held) = own
            && !take_token(&raw mut (*held).due_ns, &rules.client_rate, now)
        {
            taken.give_back(number, identity);
            return Err(Refusal::Rate);
        }
        if let Some(held) = all
            && !take_token(&raw mut (*held).due_ns, &rules.rate, now)
        {
            if let Some(held) = own {
                return_token(&raw mut (*held).due_ns, &rules.client_rate);
            }
            taken.give_back(number, identity);
            return Err(Refusal::Rate);
        }
    }
    Ok(taken)
}

/// Gives the tokens back that [`admit`] took: there is nowhere to send the connection.
#[inline(always)]
pub fn return_tokens(rules: &Rules, number: u32, identity: u32) {
    // SAFETY: map values.
    unsafe {
        if rules.client_rate.interval_ns != 0
            && let Some(held) = client(number, identity)
        {
            return_token(&raw mut (*held).due_ns, &rules.client_rate);
        }
        if rules.rate.interval_ns != 0
            && let Some(held) = maps::rule_states.get_ptr_mut(number)
        {
            return_token(&raw mut (*held).due_ns, &rules.rate);
        }
    }
}

/// # Safety
/// As [`take_token`].
#[inline(always)]
unsafe fn return_token(due: *mut u64, rate: &Rate) {
    // SAFETY: the caller's.
    unsafe { add(due, 0u64.wrapping_sub(rate.interval_ns)) };
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
pub fn client(rules: u32, identity: u32) -> Option<*mut Held> {
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
