// SPDX-License-Identifier: Apache-2.0
//! The clock of the kernel programs, for whoever compares moments that they wrote down with now.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Now by the clock of `bpf_ktime_get_ns`: nanoseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    Duration::from(now).as_nanos() as u64
}
