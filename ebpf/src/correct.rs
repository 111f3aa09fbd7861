// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What the agent changes in rows that the programs write: atomically, because a write from user space would undo what programs
//! add at that moment. The correction of a count that drifted, and the agent's judgement of a backend.
//!
//! Invariant: changes what it is told and nothing else.

use aya_ebpf::programs::RawTracePointContext;
use nodemesh_abi::Ejection;

use crate::{atomic::add, health, maps, stats};

/// Adds to row `arg 0` the differences `arg 1` (requests in flight) and `arg 2` (their bytes); 0, or 1 without such a row.
#[inline(always)]
pub fn row(ctx: &RawTracePointContext) -> i32 {
    let Some(row) = maps::traffic.get_ptr_mut(ctx.arg::<u64>(0) as u32) else {
        return 1;
    };
    // SAFETY: a map value.
    unsafe {
        add(&raw mut (*row).in_flight, ctx.arg(1));
        add(&raw mut (*row).request_bytes_in_flight, ctx.arg(2));
    }
    0
}

/// Ejects backend `arg 0`, if it is still the incarnation `arg 1`, for at least `arg 2` nanoseconds for the reason `arg 3`, or readmits it
/// if these are 0; 0, or 1 without such a backend.
#[inline(always)]
pub fn backend(ctx: &RawTracePointContext) -> i32 {
    let id = ctx.arg::<u64>(0) as u32;
    let (Some(backend), Some(state)) = (maps::backends.get(id), stats::backend(id)) else {
        return 1;
    };
    if backend.generation != ctx.arg::<u64>(1) as u32 {
        return 1;
    }
    let least_ns: u64 = ctx.arg(2);
    if least_ns == 0 {
        // SAFETY: the state of this backend.
        unsafe { health::readmit(backend.service, id, state) };
        return 0;
    }
    let reason = if ctx.arg::<u64>(3) == Ejection::Silence as u64 {
        Ejection::Silence
    } else {
        Ejection::HealthCheck
    };
    if let Some(rules) = maps::rules.get(backend.rules) {
        health::eject(backend.service, id, rules, reason, least_ns);
    }
    0
}
