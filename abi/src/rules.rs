// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! How much a service takes and which of its backends are fit: `rules` (written by the agent), and beside it `rule_states` and
//! `clients` (written by the programs).
//!
//! One row of rules per service, whatever the number of its addresses and ports. Invariant: an all-zero row of rules limits
//! nothing and ejects nothing.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    Port,
    layout::{abi_struct, counter_index},
};

/// A token bucket, as interval and tolerance of the generic cell rate algorithm (ITU-T I.371, annex A; virtual scheduling).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rate {
    /// Nanoseconds per token; 0 for no limit.
    pub interval_ns: u64,
    /// How far ahead of its schedule a token may be taken, nanoseconds: the tokens of a full bucket but one, times the interval.
    pub tolerance_ns: u64,
}
abi_struct!(Rate: 16 { interval_ns: 0, tolerance_ns: 8 });

impl Rate {
    /// `per_second` tokens, and a bucket of `burst` of them; both at least 1.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        let interval_ns = 1_000_000_000 / per_second as u64;
        Self {
            interval_ns,
            tolerance_ns: (burst as u64 - 1) * interval_ns,
        }
    }

    /// When the token after this one is due, if there is one at `now`; `due` is when this one is.
    #[inline(always)]
    pub const fn take(&self, due: u64, now: u64) -> Option<u64> {
        if due > now.saturating_add(self.tolerance_ns) {
            return None;
        }
        Some(if due > now { due } else { now } + self.interval_ns)
    }
}

/// Most of something at once; 0 for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Caps {
    /// Connections.
    pub connections: u32,
    /// Requests in flight, connections that have not sent their first one included ([`crate::BackendState::load`]).
    pub requests: u32,
}
abi_struct!(Caps: 8 { connections: 0, requests: 4 });

impl Caps {
    /// Counts, and limits nothing: what holds until connections that were not counted are.
    pub const COUNTED: Self = Self {
        connections: u32::MAX,
        requests: u32::MAX,
    };

    /// Whether anything is limited.
    const fn limits(self) -> bool {
        !(self.is_none() || self.connections == u32::MAX && self.requests == u32::MAX)
    }

    /// Whether there is none.
    #[inline(always)]
    pub const fn is_none(&self) -> bool {
        self.connections | self.requests == 0
    }
}

/// Most ports of a service that may be kept from the shortcut.
pub const SHORTCUT_EXCEPT: usize = 7;

/// Value of `rules`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Rules {
    /// New connections of all clients of this node.
    pub rate: Rate,
    /// New connections of one client identity.
    pub client_rate: Rate,
    /// Of all clients of this node together.
    pub caps: Caps,
    /// Of one client identity.
    pub client_caps: Caps,
    /// Of one backend.
    pub backend_caps: Caps,
    /// Load of a backend, per weight of 1, from which the next tier is asked; 0 for never.
    pub spill_load: u32,
    /// Connect failures in a row that eject a backend; 0 for never.
    pub connect_failures: u32,
    /// Failed requests in a row that eject a backend: resets, truncated and missing responses; 0 for never.
    pub request_failures: u32,
    /// Whether a status of 500 and above is such a failure, 1 or 0.
    pub server_errors: u32,
    /// First ejection, nanoseconds; each further one is longer by this.
    pub eject_ns: u64,
    /// Longest ejection, nanoseconds.
    pub eject_max_ns: u64,
    /// Most backends of a frontend that are ejected at a time, percent.
    pub eject_percent: u32,
    /// `errno` of a connection that is beyond a limit.
    pub excess_errno: u32,
    /// Over how long a new backend's share grows to the whole, nanoseconds; 0 for at once.
    pub slow_start_ns: u64,
    /// New connections of one backend.
    pub backend_rate: Rate,
    /// 1 if connections between sockets of one node may take the shortcut, else 0.
    pub shortcut: u16,
    /// Ports of the service that may not; 0 for none.
    pub shortcut_except: [Port; SHORTCUT_EXCEPT],
}
abi_struct!(Rules: 136 {
    rate: 0, client_rate: 16, caps: 32, client_caps: 40, backend_caps: 48, spill_load: 56, connect_failures: 60,
    request_failures: 64, server_errors: 68, eject_ns: 72, eject_max_ns: 80, eject_percent: 88, excess_errno: 92,
    slow_start_ns: 96, backend_rate: 104, shortcut: 120, shortcut_except: 122,
});

/// Smallest share of a backend that starts, of 2^32: a tenth, so that it is asked at all.
const LEAST_SHARE: u64 = u32::MAX as u64 / 10;

impl Rules {
    /// Whether connections to `port` of the service may take the shortcut, of a client that opted in itself if `by_client`.
    #[inline(always)]
    pub fn is_short(&self, port: Port, by_client: bool) -> bool {
        let mut excepted = self.shortcut == 0 && !by_client;
        for except in self.shortcut_except {
            excepted |= except == port;
        }
        !excepted
    }

    /// What is to hold first where these rules follow `former` ones: with caps that connections were not counted for, those are counted
    /// before a cap holds. `None` if nothing is to be counted.
    pub fn counting(&self, former: &Self) -> Option<Self> {
        let mut first = *self;
        for (caps, former) in [
            (&mut first.caps, former.caps),
            (&mut first.client_caps, former.client_caps),
        ] {
            if caps.limits() && !former.limits() {
                *caps = Caps::COUNTED;
            }
        }
        (first != *self).then_some(first)
    }

    /// Length of the ejection after `former` ones that were not forgotten.
    #[inline(always)]
    pub const fn ejection_ns(&self, former: u64) -> u64 {
        let factor = if former < 1_000 { former + 1 } else { 1_000 };
        // A day a thousand times is far from overflow.
        let ns = self.eject_ns.wrapping_mul(factor);
        if ns < self.eject_max_ns {
            ns
        } else {
            self.eject_max_ns
        }
    }

    /// Share, of 2^32, of its draws that a backend takes which is there for `age_ns`; `None` for all.
    #[inline(always)]
    pub const fn ramp(&self, age_ns: u64) -> Option<u32> {
        if age_ns >= self.slow_start_ns {
            return None;
        }
        // In units of 2^20 ns, so that 32 bits of fraction fit.
        let share = ((age_ns >> 20) << 32) / ((self.slow_start_ns >> 20) + 1);
        Some(if share > LEAST_SHARE { share } else { LEAST_SHARE } as u32)
    }
}

/// What clients hold, and when their next token is due. Value of `rule_states`, and of `clients`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Held {
    /// Connections.
    pub connections: u64,
    /// Requests, as [`Caps::requests`] counts them.
    pub requests: u64,
    /// When the next token is due, nanoseconds of `CLOCK_MONOTONIC`.
    pub due_ns: u64,
}
abi_struct!(Held: 24 { connections: 0, requests: 8, due_ns: 16 });

/// Key of `clients`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ClientRules {
    /// Index into `rules`.
    pub rules: u32,
    /// The client's identity.
    pub identity: u32,
}
abi_struct!(ClientRules: 8 { rules: 0, identity: 4 });

counter_index! {
    /// Why a backend was ejected.
    pub enum Ejection {
        /// It refused connections, did not answer or could not be reached.
        Connect = "connect",
        /// Connections to it were reset, or its responses were cut off or missing.
        Request = "request",
        /// It went silent with requests in flight.
        Silence = "silence",
        /// An active health check failed.
        HealthCheck = "health_check",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate::new(100, 5);
        let (mut due, mut taken) = (0, 0);
        for now in (1_000_000_000..2_000_000_000).step_by(1_000_000) {
            while let Some(next) = rate.take(due, now) {
                due = next;
                taken += 1;
            }
        }
        assert_eq!(taken, 5 + 99);
    }

    #[test]
    fn an_idle_bucket_fills_no_further_than_its_burst() {
        let rate = Rate::new(1, 3);
        let mut due = 0;
        let mut taken = 0;
        while let Some(next) = rate.take(due, 1_000_000_000_000) {
            due = next;
            taken += 1;
        }
        assert_eq!(taken, 3);
    }

    #[test]
    fn open_connections_are_counted_before_a_cap_holds() {
        let caps = |connections, requests| Caps {
            connections,
            requests,
        };
        let rules = |caps, client_caps| Rules {
            caps,
            client_caps,
            ..Rules::default()
        };
        let none = Caps::default();
        let wanted = rules(caps(64, 0), caps(0, 8));
        assert_eq!(
            wanted.counting(&rules(none, none)),
            Some(rules(Caps::COUNTED, Caps::COUNTED))
        );
        assert_eq!(
            wanted.counting(&rules(caps(0, 5), none)),
            Some(rules(caps(64, 0), Caps::COUNTED)),
            "what has a cap counts both"
        );
        let interrupted = rules(Caps::COUNTED, caps(0, 9));
        assert_eq!(
            wanted.counting(&interrupted),
            Some(rules(Caps::COUNTED, caps(0, 8)))
        );
        assert_eq!(wanted.counting(&rules(caps(1, 0), caps(1, 0))), None);
        assert_eq!(rules(none, none).counting(&wanted), None);
    }

    #[test]
    fn ejections_grow_up_to_the_longest() {
        let rules = Rules {
            eject_ns: 10,
            eject_max_ns: 35,
            ..Rules::default()
        };
        assert_eq!(
            [0, 1, 2, 3, u64::MAX].map(|former| rules.ejection_ns(former)),
            [10, 20, 30, 35, 35]
        );
    }

    #[test]
    fn a_ramp_begins_at_a_tenth_and_ends_at_the_whole() {
        let second = 1_000_000_000;
        let rules = Rules {
            slow_start_ns: 10 * second,
            ..Rules::default()
        };
        assert_eq!(rules.ramp(0), Some(LEAST_SHARE as u32));
        let half = f64::from(rules.ramp(5 * second).unwrap()) / f64::from(u32::MAX);
        assert!((0.49..0.51).contains(&half), "{half}");
        assert_eq!(rules.ramp(10 * second), None);
        assert_eq!(Rules::default().ramp(0), None);
    }
}
