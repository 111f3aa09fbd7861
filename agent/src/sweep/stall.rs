// SPDX-License-Identifier: Apache-2.0
//! When an open request counts as stalled: measured by what its backend usually does, so that a slow replica is not taken for
//! a wedged one. Pure.

use nodemesh_abi::{
    Meter, Phase, Traffic,
    traffic::{FIRST_BOUNDS_NS, GAP_BOUNDS_NS},
};

use super::activity::quiet_ns;
use crate::quantile;

/// No response younger than this is stalled.
const LEAST_RESPONSE_NS: u64 = 1_000_000_000;
/// No request younger than this is stalled.
const LEAST_REQUEST_NS: u64 = 10_000_000_000;
/// So many times the 99th percentile of the gaps between emissions.
const GAPS: u64 = 20;
/// So many times the 99th percentile of the time to the first byte or token.
const FIRSTS: u64 = 4;

/// How long a request of a row may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StallLimits {
    /// Before the first byte of its response, nanoseconds.
    pub request_ns: u64,
    /// Within its response, nanoseconds.
    pub response_ns: u64,
}

impl Default for StallLimits {
    /// Without a gap between emissions, nothing is known of a backend's pace: a response is given as long as a request.
    fn default() -> Self {
        Self {
            request_ns: LEAST_REQUEST_NS,
            response_ns: LEAST_REQUEST_NS,
        }
    }
}

impl StallLimits {
    /// The limits that follow from what was measured in a row.
    pub fn of(row: &Traffic) -> Self {
        let first_byte = quantile::of_slots(&FIRST_BOUNDS_NS, &row.first_byte, 0.99);
        let first_token = quantile::of_slots(&FIRST_BOUNDS_NS, &row.first_token, 0.99);
        let gap = quantile::of_slots(&GAP_BOUNDS_NS, &row.gap, 0.99);
        // An answer that is not streamed has its first byte when it is complete: both count.
        let first = first_byte.max(first_token).unwrap_or_default();
        Self {
            request_ns: LEAST_REQUEST_NS.max(first * FIRSTS),
            response_ns: gap.map_or(LEAST_REQUEST_NS, |gap| LEAST_RESPONSE_NS.max(gap * GAPS)),
        }
    }

    /// Whether the connection has an open request that has been silent for too long. The longer limit counts where the first token
    /// has not come, as headers may leave before the prefill, and for HTTP/2 streams, of which only the connection's silence is
    /// known.
    pub fn is_stalled(&self, meter: &Meter, now: u64) -> bool {
        if meter.open == 0 {
            return false;
        }
        let limit = match Phase::from_raw(meter.phase) {
            Phase::Request => self.request_ns,
            Phase::Response if meter.exchange.first_token_ns != 0 => self.response_ns,
            _ => self.request_ns.max(self.response_ns),
        };
        quiet_ns(meter, now) > limit
    }
}

#[cfg(test)]
mod tests {
    use nodemesh_abi::Exchange;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn limits_follow_what_the_backend_usually_does() {
        assert_eq!(StallLimits::of(&Traffic::default()), StallLimits::default());

        let mut quick = Traffic::default();
        quick.gap[0] = 1_000;
        quick.first_token[3] = 1_000;
        let limits = StallLimits::of(&quick);
        assert_eq!((limits.response_ns, limits.request_ns), (SECOND, 10 * SECOND));

        // Gaps of 750 ms to 1 s, first tokens after 10 to 20 s.
        let mut slow = Traffic::default();
        slow.gap[11] = 1_000;
        slow.first_token[16] = 1_000;
        let limits = StallLimits::of(&slow);
        assert!(
            (19 * SECOND..=20 * SECOND).contains(&limits.response_ns),
            "{limits:?}"
        );
        assert!(
            (79 * SECOND..=80 * SECOND).contains(&limits.request_ns),
            "{limits:?}"
        );

        // Whole answers after 10 to 20 s, beside quick streams.
        slow.first_token = quick.first_token;
        slow.first_byte[16] = 1_000;
        assert!(StallLimits::of(&slow).request_ns > 79 * SECOND);
    }

    #[test]
    fn only_an_open_request_stalls_and_only_past_the_limit_of_its_phase() {
        let limits = StallLimits {
            request_ns: 10 * SECOND,
            response_ns: SECOND,
        };
        let meter = |phase: Phase, open: u32| Meter {
            phase: phase as u8,
            open,
            last_ns: SECOND,
            exchange: Exchange {
                first_token_ns: 1,
                ..Exchange::default()
            },
            ..Meter::default()
        };
        for (phase, open, quiet, expected) in [
            (Phase::Response, 1, SECOND, false),
            (Phase::Response, 1, SECOND + 1, true),
            (Phase::Request, 1, SECOND + 1, false),
            (Phase::Request, 1, 10 * SECOND + 1, true),
            (Phase::Streams, 3, SECOND + 1, false),
            (Phase::Streams, 3, 10 * SECOND + 1, true),
            (Phase::Idle, 0, 99 * SECOND, false),
            (Phase::Opaque, 0, 99 * SECOND, false),
        ] {
            let stalled = limits.is_stalled(&meter(phase, open), SECOND + quiet);
            assert_eq!(stalled, expected, "{phase:?}, {open} open, quiet for {quiet} ns");
        }
        let mut prefill = meter(Phase::Response, 1);
        prefill.exchange.first_token_ns = 0;
        assert!(
            !limits.is_stalled(&prefill, 11 * SECOND),
            "only its headers have come"
        );
        assert!(limits.is_stalled(&prefill, 11 * SECOND + 1));
    }
}
