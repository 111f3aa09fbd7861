// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What one event of the meter changes in the counters, collected while the socket's lock is held and applied after it.
//!
//! A BPF program may call nothing while it holds a lock, so the state machine returns what to count instead of counting.
//! Invariant: the sum of all `in_flight`, `load` and `request_bytes` of a socket is 0 when it has ended.

use crate::traffic::{Cancel, Outcome};

/// A finished request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// How.
    pub outcome: Outcome,
    /// When and how the client gave up.
    pub cancel: Option<Cancel>,
    /// Whether its times are exact and may be counted.
    pub timed: bool,
    /// Class of the status, 1 to 5; 0 where it was not seen.
    pub status: u8,
    /// First byte of the request.
    pub start_ns: u64,
    /// Last byte of the response, or of the request if there was no response.
    pub end_ns: u64,
    /// From the last byte of the request to the first of the response; 0 if not measured.
    pub first_byte_ns: u64,
    /// From the last byte of the request to the first token; 0 if not measured.
    pub first_token_ns: u64,
    /// Bytes of the request.
    pub request_bytes: u64,
    /// Bytes of the response.
    pub response_bytes: u64,
    /// Emissions from the first token on.
    pub chunks: u32,
}

/// Most inter-token gaps that one event can complete.
const GAPS: usize = 3;

/// Changes to apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Bytes in request direction.
    pub bytes_up: u32,
    /// Bytes in response direction.
    pub bytes_down: u32,
    /// What the socket has gathered is to be counted now ([`crate::connection::Untold`]).
    pub tell: bool,
    /// Change of the requests in flight.
    pub in_flight: i32,
    /// Change of [`crate::BackendState::load`].
    pub load: i32,
    /// Change of the request bytes in flight.
    pub request_bytes: i64,
    /// Time to first byte; 0 for none.
    pub first_byte_ns: u64,
    /// Time to first token; 0 for none.
    pub first_token_ns: u64,
    /// Inter-token gaps, the first `gap_count` of them.
    pub gaps_ns: [u64; GAPS],
    /// How many.
    pub gap_count: u32,
    /// Emissions counted as chunks.
    pub chunks: u32,
    /// The socket has become ambiguous.
    pub ambiguous: bool,
    /// Streams that ended with their connection, and how.
    pub dropped: u32,
    /// How these ended.
    pub dropped_as: Outcome,
    /// The request that ended.
    pub finished: Option<Finished>,
}

impl Effects {
    /// Makes this one of which nothing follows. What only other fields give a meaning to, keeps its value: most events change little, and
    /// this is done for each.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.bytes_up = 0;
        self.bytes_down = 0;
        self.tell = false;
        self.in_flight = 0;
        self.load = 0;
        self.request_bytes = 0;
        self.first_byte_ns = 0;
        self.first_token_ns = 0;
        self.gap_count = 0;
        self.chunks = 0;
        self.ambiguous = false;
        self.dropped = 0;
        self.finished = None;
    }

    /// Adds an inter-token gap.
    #[inline(always)]
    pub fn gap(&mut self, ns: u64) {
        if let Some(place) = self.gaps_ns.get_mut(self.gap_count as usize) {
            *place = ns;
            self.gap_count += 1;
        }
    }

    /// Leaves the latencies out, for an exchange whose beginning was not seen.
    #[inline(always)]
    pub fn forget_latencies(&mut self) {
        self.first_byte_ns = 0;
        self.first_token_ns = 0;
        self.gap_count = 0;
        self.chunks = 0;
    }
}
