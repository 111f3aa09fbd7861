// SPDX-License-Identifier: Apache-2.0
//! The clock of every log that is compared with the kernel's stamps.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns()`.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has CLOCK_MONOTONIC");
    let part = |value: i64| u64::try_from(value).expect("the time since boot is not negative");
    part(now.tv_sec()) * 1_000_000_000 + part(now.tv_nsec())
}
