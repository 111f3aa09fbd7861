// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The `traffic` map: what the meter counted, one row for each metered backend and vantage.
//!
//! Written by the programs with atomic additions only, read by the agent. Row `2 * n + vantage` belongs to the backend whose
//! [`crate::Backend::traffic`] is `n`; pair 0 is shared by all backends beyond the configured number, so the cardinality of
//! metrics is bounded by the size of this map. Durations are nanoseconds, sizes bytes.
//!
//! Histograms hold exact counts for each bound of their family, so that nothing is interpolated on the way to Prometheus.
//! Invariant: bucket `i` counts the values above bound `i - 1` up to and including bound `i`; the last one has no bound.

use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout};

use crate::layout::{abi_struct, counter_index};

/// Which end of a connection was observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Vantage {
    /// A socket of this node that was placed on a backend.
    Client = 0,
    /// A socket that a backend of this node accepted, whoever the client is.
    Server = 1,
}

impl Vantage {
    /// Both, in row order.
    pub const ALL: [Self; 2] = [Self::Client, Self::Server];

    /// From the number in a record; an unknown one is a client.
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Self {
        if raw == Self::Server as u8 {
            Self::Server
        } else {
            Self::Client
        }
    }

    /// The word used as metric label value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    /// Index into `traffic` of the pair `pair`.
    #[inline(always)]
    pub const fn row(self, pair: u32) -> u32 {
        pair * 2 + self as u32
    }
}

/// The pair of rows that backends without a pair of their own share.
pub const SHARED_PAIR: u32 = 0;

counter_index! {
    /// How a request ended.
    #[derive(Default)]
    pub enum Outcome {
        /// The response is complete; its status, where it was seen, is below 400.
        #[default]
        Success = "success",
        /// The response is complete with a status of 400 to 499.
        ClientError = "client_error",
        /// The response is complete with a status of 500 or more.
        ServerError = "server_error",
        /// The client closed before the response was complete.
        Canceled = "canceled",
        /// The server closed in the middle of the response.
        Truncated = "truncated",
        /// The server closed before any byte of the response.
        NoResponse = "no_response",
        /// A request on a reused connection met a server that had closed it.
        KeepaliveRace = "keepalive_race",
    }
}

counter_index! {
    /// When and how a client gave up; `phase` and `how` of `client_cancels_total`.
    pub enum Cancel {
        /// Before the first byte of the response, by FIN.
        PrefillFin = "prefill/fin",
        /// Before the first byte of the response, by RST.
        PrefillReset = "prefill/rst",
        /// In the middle of the response, by FIN.
        DecodeFin = "decode/fin",
        /// In the middle of the response, by RST.
        DecodeReset = "decode/rst",
    }
}

impl Cancel {
    /// From its two parts.
    #[inline(always)]
    pub const fn new(decode: bool, reset: bool) -> Self {
        match (decode, reset) {
            (false, false) => Self::PrefillFin,
            (false, true) => Self::PrefillReset,
            (true, false) => Self::DecodeFin,
            (true, true) => Self::DecodeReset,
        }
    }
}

const MS: u64 = 1_000_000;

/// Bounds of time to first byte and to first token: vLLM's `time_to_first_token_seconds`, which contain those of OpenTelemetry's
/// `gen_ai.server.time_to_first_token`.
pub const FIRST_BOUNDS_NS: [u64; 22] = [
    MS,
    5 * MS,
    10 * MS,
    20 * MS,
    40 * MS,
    60 * MS,
    80 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    750 * MS,
    1_000 * MS,
    2_500 * MS,
    5_000 * MS,
    7_500 * MS,
    10_000 * MS,
    20_000 * MS,
    40_000 * MS,
    80_000 * MS,
    160_000 * MS,
    640_000 * MS,
    2_560_000 * MS,
];

/// Bounds of inter-token latency: vLLM's `inter_token_latency_seconds`, which contain those of OpenTelemetry's
/// `gen_ai.server.time_per_output_token`.
pub const GAP_BOUNDS_NS: [u64; 19] = [
    10 * MS,
    25 * MS,
    50 * MS,
    75 * MS,
    100 * MS,
    150 * MS,
    200 * MS,
    300 * MS,
    400 * MS,
    500 * MS,
    750 * MS,
    1_000 * MS,
    2_500 * MS,
    5_000 * MS,
    7_500 * MS,
    10_000 * MS,
    20_000 * MS,
    40_000 * MS,
    80_000 * MS,
];

/// Bounds of stream duration: OpenTelemetry's `gen_ai.server.request.duration` and vLLM's `e2e_request_latency_seconds` together.
pub const DURATION_BOUNDS_NS: [u64; 35] = [
    10 * MS,
    20 * MS,
    40 * MS,
    80 * MS,
    160 * MS,
    300 * MS,
    320 * MS,
    500 * MS,
    640 * MS,
    800 * MS,
    1_000 * MS,
    1_280 * MS,
    1_500 * MS,
    2_000 * MS,
    2_500 * MS,
    2_560 * MS,
    5_000 * MS,
    5_120 * MS,
    10_000 * MS,
    10_240 * MS,
    15_000 * MS,
    20_000 * MS,
    20_480 * MS,
    30_000 * MS,
    40_000 * MS,
    40_960 * MS,
    50_000 * MS,
    60_000 * MS,
    81_920 * MS,
    120_000 * MS,
    240_000 * MS,
    480_000 * MS,
    960_000 * MS,
    1_920_000 * MS,
    7_680_000 * MS,
];

/// Bounds of request and response sizes: powers of 4 from 256 bytes to 64 MiB.
pub const SIZE_BOUNDS: [u64; 10] = [
    1 << 8,
    1 << 10,
    1 << 12,
    1 << 14,
    1 << 16,
    1 << 18,
    1 << 20,
    1 << 22,
    1 << 24,
    1 << 26,
];

/// Bounds of the smoothed round-trip time.
pub const RTT_BOUNDS_NS: [u64; 9] = [
    50_000,
    100_000,
    250_000,
    500_000,
    MS,
    5 * MS,
    25 * MS,
    100 * MS,
    500 * MS,
];

/// Index of the bucket that counts `value`.
#[inline(always)]
pub const fn bucket<const N: usize>(bounds: &[u64; N], value: u64) -> usize {
    let mut index = 0;
    while index < N && value > bounds[index] {
        index += 1;
    }
    index
}

/// A histogram: the values per bucket, not cumulative, then the bucket without a bound, then the sum of all values.
pub type Histogram<const SLOTS: usize> = [u64; SLOTS];

/// Slots of the [`Histogram`] over `bounds`.
pub const fn slots<const N: usize>(bounds: &[u64; N]) -> usize {
    bounds.len() + 2
}

/// Value of `traffic`. What every token changes comes first, within one cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Traffic {
    /// Requests that have begun and not ended.
    pub in_flight: u64,
    /// Bytes of these requests, received so far.
    pub request_bytes_in_flight: u64,
    /// Open connections.
    pub connections: u64,
    /// Connections, ever.
    pub connections_opened: u64,
    /// Bytes in request direction, ever; all bytes of a connection, TLS and framing included.
    pub bytes_up: u64,
    /// Bytes in response direction, ever.
    pub bytes_down: u64,
    /// Emissions of streamed responses, from the first token on.
    pub chunks: u64,
    /// Sockets whose requests could not be told apart.
    pub ambiguous: u64,
    /// Finished requests by [`Outcome`].
    pub requests: [u64; Outcome::COUNT],
    /// Requests that a client gave up, by [`Cancel`].
    pub cancels: [u64; Cancel::COUNT],
    /// Segments sent again.
    pub retransmits: u64,
    /// From the last byte of the request to the first byte of the response.
    pub first_byte: Histogram<{ slots(&FIRST_BOUNDS_NS) }>,
    /// From the last byte of the request to the first token of the response.
    pub first_token: Histogram<{ slots(&FIRST_BOUNDS_NS) }>,
    /// Between two emissions, from the first token on.
    pub gap: Histogram<{ slots(&GAP_BOUNDS_NS) }>,
    /// From the first byte of the request to the last of the response.
    pub duration: Histogram<{ slots(&DURATION_BOUNDS_NS) }>,
    /// Bytes of a request.
    pub request_size: Histogram<{ slots(&SIZE_BOUNDS) }>,
    /// Bytes of a response.
    pub response_size: Histogram<{ slots(&SIZE_BOUNDS) }>,
    /// Smoothed round-trip time of the connection at the end of each request.
    pub rtt: Histogram<{ slots(&RTT_BOUNDS_NS) }>,
}
abi_struct!(Traffic: 1_288 {
    in_flight: 0, request_bytes_in_flight: 8, connections: 16, connections_opened: 24, bytes_up: 32, bytes_down: 40, chunks: 48,
    ambiguous: 56, requests: 64, cancels: 120, retransmits: 152, first_byte: 160, first_token: 352, gap: 544, duration: 712,
    request_size: 1_008, response_size: 1_104, rtt: 1_200,
});

impl Default for Traffic {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_have_inclusive_bounds() {
        assert_eq!(bucket(&FIRST_BOUNDS_NS, 0), 0);
        assert_eq!(bucket(&FIRST_BOUNDS_NS, MS), 0);
        assert_eq!(bucket(&FIRST_BOUNDS_NS, MS + 1), 1);
        assert_eq!(bucket(&FIRST_BOUNDS_NS, u64::MAX), FIRST_BOUNDS_NS.len());
    }

    #[test]
    fn every_list_of_bounds_rises() {
        let rises = |bounds: &[u64]| bounds.windows(2).all(|pair| pair[0] < pair[1]);
        for bounds in [
            &FIRST_BOUNDS_NS[..],
            &GAP_BOUNDS_NS,
            &DURATION_BOUNDS_NS,
            &SIZE_BOUNDS,
            &RTT_BOUNDS_NS,
        ] {
            assert!(rises(bounds), "{bounds:?}");
        }
    }

    #[test]
    fn the_rows_of_a_pair_are_neighbours() {
        assert_eq!(
            [Vantage::Client.row(SHARED_PAIR), Vantage::Server.row(SHARED_PAIR)],
            [0, 1]
        );
        assert_eq!([Vantage::Client.row(7), Vantage::Server.row(7)], [14, 15]);
    }
}
