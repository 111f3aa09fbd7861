// SPDX-License-Identifier: Apache-2.0
//! The clock of the kernel programs, for whoever compares moments that they wrote down with now, or tells people when they were.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use super::sys;

/// Now by the clock of `bpf_ktime_get_ns`: nanoseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    Duration::from(now).as_nanos() as u64
}

/// Whether something keeps the time of day right, as far as the kernel was told (`adjtimex(2)`).
pub fn is_synchronized() -> Option<bool> {
    sys::clock_state().ok().map(|state| state != libc::TIME_ERROR)
}

/// What turns the kernel's clock into the time of day, as far as it is known now.
#[derive(Clone, Copy, Debug)]
pub struct TimeOfDay {
    /// Time of day at the start of `CLOCK_MONOTONIC`, as nanoseconds since 1970.
    pub origin_ns: u64,
}

impl TimeOfDay {
    /// What holds now.
    pub fn now() -> Self {
        let monotonic = Duration::from_nanos(monotonic_ns());
        let of_day = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            origin_ns: of_day.saturating_sub(monotonic).as_nanos() as u64,
        }
    }

    /// The time of day at `monotonic_ns`.
    pub fn at(self, monotonic_ns: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.origin_ns.saturating_add(monotonic_ns))
    }

    /// The same as RFC 3339 in UTC, with microseconds.
    pub fn text(self, monotonic_ns: u64) -> String {
        humantime::format_rfc3339_micros(self.at(monotonic_ns)).to_string()
    }
}
