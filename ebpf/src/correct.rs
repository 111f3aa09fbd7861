// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The agent's correction of a count that drifted: an atomic addition, because a write from user space would undo what programs
//! add at that moment.
//!
//! Invariant: adds what it is told and reads nothing else.

use aya_ebpf::programs::RawTracePointContext;

use crate::{atomic::add, maps};

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
