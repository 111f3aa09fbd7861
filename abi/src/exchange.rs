// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! One request and its response: when it began, when its first token came, how steady the next ones are.
//!
//! Fed by [`crate::Meter`] for HTTP/1.1 and TLS, where a connection carries one exchange at a time, and by the programs for each
//! HTTP/2 stream. Pure: the caller brings time and byte counts. Times are nanoseconds of `CLOCK_MONOTONIC`, 0 is "not yet".
//!
//! Writes that follow each other by less than [`MERGE_NS`] are one *emission*: a server that sends headers, role and first
//! token by three system calls has emitted once. Where plaintext does not tell which emission is the first token, the largest
//! gap does ([`Exchange::first_large_gap`]).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    effects::{Effects, Finished},
    layout::abi_struct,
    traffic::Outcome,
};

/// Writes closer together than this are one emission.
pub const MERGE_NS: u64 = 1_000_000;
/// A response of at most this many bytes in one write, TLS record included, is taken for a heartbeat or an end marker where
/// plaintext does not tell: 64 bytes and the 22 of a TLS 1.3 record.
pub const SMALL_BYTES: u32 = 64 + 22;
/// Heartbeats of one server differ by no more than this.
const HEARTBEATS_DIFFER: u32 = 4;
/// Emissions among which the first token is looked for: the gaps before all but the last of them are remembered.
pub const REMEMBERED: usize = 4;

/// What is known of one write of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Only its size.
    Unknown,
    /// The first token, seen in plaintext.
    Token,
    /// Part of a stream, seen in plaintext, that is not known to hold the first token.
    Data,
    /// A heartbeat or an end marker, seen in plaintext.
    Marker,
    /// Part of a message of known length, which is no stream.
    Body,
}

/// One exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Exchange {
    /// First byte of the request.
    pub start_ns: u64,
    /// Latest byte of the request.
    pub sent_ns: u64,
    /// First byte of the response.
    pub first_byte_ns: u64,
    /// First token of the response.
    pub first_token_ns: u64,
    /// Start of the latest emission.
    pub emission_ns: u64,
    /// Latest byte of the response.
    pub response_ns: u64,
    /// Bytes of the request so far.
    pub request_bytes: u64,
    /// Bytes of the response so far.
    pub response_bytes: u64,
    /// Gaps before the first emissions, the first of them from `sent_ns`; microseconds.
    pub gaps_us: [u32; REMEMBERED - 1],
    /// From the start of the latest emission to its latest byte, microseconds.
    pub width_us: u32,
    /// Emissions so far.
    pub emissions: u32,
    /// Emissions from the first token on.
    pub chunks: u32,
    /// Bytes of the smallest emission after the first, 65,535 at most; 0 before the second.
    pub smallest: u16,
    /// Bytes of the latest write that looked like the last one.
    pub short: u16,
    /// Bytes of the latest emission.
    pub latest: u32,
}
abi_struct!(Exchange: 96 {
    start_ns: 0, sent_ns: 8, first_byte_ns: 16, first_token_ns: 24, emission_ns: 32, response_ns: 40, request_bytes: 48,
    response_bytes: 56, gaps_us: 64, width_us: 76, emissions: 80, chunks: 84, smallest: 88, short: 90, latest: 92,
});

impl Exchange {
    /// Starts with `bytes` of a request.
    #[inline(always)]
    pub fn begin(&mut self, bytes: u32, now: u64) {
        *self = Self {
            start_ns: now,
            sent_ns: now,
            request_bytes: u64::from(bytes),
            ..Self::EMPTY
        };
    }

    const EMPTY: Self = Self {
        start_ns: 0,
        sent_ns: 0,
        first_byte_ns: 0,
        first_token_ns: 0,
        emission_ns: 0,
        response_ns: 0,
        request_bytes: 0,
        response_bytes: 0,
        gaps_us: [0; REMEMBERED - 1],
        width_us: 0,
        emissions: 0,
        chunks: 0,
        smallest: 0,
        short: 0,
        latest: 0,
    };

    /// The request goes on with `bytes`: what seemed its response was none.
    #[inline(always)]
    pub fn resume(&mut self, bytes: u32, now: u64) {
        *self = Self {
            start_ns: self.start_ns,
            sent_ns: now,
            request_bytes: self.request_bytes + u64::from(bytes),
            ..Self::EMPTY
        };
    }

    /// More `bytes` of the request.
    #[inline(always)]
    pub fn request(&mut self, bytes: u32, now: u64) {
        self.request_bytes += u64::from(bytes);
        self.sent_ns = now;
    }

    /// Whether `bytes` look like the short last write of a stream: small in themselves and beside what came before. Not if a write of
    /// about this size looked so and was a heartbeat.
    #[inline(always)]
    pub fn is_short(&self, bytes: u32) -> bool {
        self.is_small(bytes, u32::from(self.smallest))
            && bytes.abs_diff(u32::from(self.short)) > HEARTBEATS_DIFFER
    }

    /// Whether the server's last record, of `bytes`, may have been the end of its stream all the same: the heartbeats of some are of the
    /// size of its end.
    #[inline(always)]
    pub fn may_end_with(&self, bytes: u32) -> bool {
        bytes != 0 && self.streams() && self.is_small(bytes, self.latest)
    }

    #[inline(always)]
    fn is_small(&self, bytes: u32, beside: u32) -> bool {
        bytes <= SMALL_BYTES && self.emissions >= 2 && bytes < beside / 2
    }

    /// `bytes` of the response were written; tells `effects` what they complete. Without `exact` plaintext, the first token is
    /// found by gaps.
    #[inline(always)]
    pub fn response(&mut self, bytes: u32, now: u64, content: Content, effects: &mut Effects) {
        // Not from `response_ns`: a heartbeat or a record's header just before an emission is no part of the one before it.
        let quiet = now.saturating_sub(self.emission_ns + u64::from(self.width_us) * 1_000);
        self.response_bytes += u64::from(bytes);
        self.response_ns = now;
        if self.first_byte_ns == 0 {
            self.first_byte_ns = now;
            effects.first_byte_ns = elapsed(self.sent_ns, now);
        }
        match content {
            Content::Body => return,
            Content::Marker if self.emissions > 0 => return,
            Content::Unknown if self.emissions > 0 && bytes <= SMALL_BYTES => return,
            _ => {}
        }
        if self.emissions > 0 && quiet < MERGE_NS {
            self.latest = self.latest.saturating_add(bytes);
            self.width_us = micros(now.saturating_sub(self.emission_ns));
        } else {
            self.emission(bytes, now, effects);
        }
        if content == Content::Token {
            self.token(now, effects);
        }
    }

    /// A new emission.
    #[inline(always)]
    fn emission(&mut self, bytes: u32, now: u64, effects: &mut Effects) {
        let since = if self.emissions == 0 {
            self.sent_ns
        } else {
            self.emission_ns
        };
        let gap = now.saturating_sub(since);
        self.settle_smallest();
        self.latest = bytes;
        self.emission_ns = now;
        self.width_us = 0;
        if self.first_token_ns != 0 {
            effects.gap(gap);
            effects.chunks += 1;
            self.chunks += 1;
        } else if let Some(place) = self.gaps_us.get_mut(self.emissions as usize) {
            *place = micros(gap);
        }
        self.emissions += 1;
        if self.first_token_ns == 0 && self.emissions as usize == REMEMBERED {
            self.decide(micros(gap), effects);
        }
    }

    /// The latest emission is whole: it counts for the smallest one.
    #[inline(always)]
    fn settle_smallest(&mut self) {
        if self.emissions >= 2 && (self.smallest == 0 || self.latest < u32::from(self.smallest)) {
            self.smallest = small(self.latest);
        } else if self.emissions == 1 {
            // The first emission holds headers; it bounds what is small until there is a better measure.
            self.smallest = small(self.latest);
        }
    }

    /// Plaintext shows the first token.
    #[inline(always)]
    fn token(&mut self, now: u64, effects: &mut Effects) {
        if self.first_token_ns == 0 {
            self.first_token_ns = now;
            self.emission_ns = now;
            self.width_us = 0;
            self.chunks = 1;
            effects.chunks += 1;
            effects.first_token_ns = elapsed(self.sent_ns, now);
        }
    }

    /// Decides which of the remembered emissions was the first token: the earliest whose gap is at least half the largest.
    ///
    /// Headers, and the chunk that names the role, may leave long before the first token; then silence is the prefill. A gap
    /// of about the largest one's size comes before any token, so the earliest of them ends the prefill.
    #[inline(always)]
    pub fn first_large_gap(&mut self, effects: &mut Effects) {
        self.decide(0, effects);
    }

    /// `last_us` is the gap before the last of the emissions to choose from; 0 if there were fewer.
    #[inline(always)]
    fn decide(&mut self, last_us: u32, effects: &mut Effects) {
        if self.first_token_ns != 0 || self.emissions == 0 {
            return;
        }
        let ([a, b, c], d) = (self.gaps_us, last_us);
        let half = max(max(a, b), max(c, d)) / 2;
        let (index, sum) = if a >= half {
            (0, u64::from(a))
        } else if b >= half {
            (1, u64::from(a) + u64::from(b))
        } else if c >= half {
            (2, u64::from(a) + u64::from(b) + u64::from(c))
        } else {
            (3, u64::from(a) + u64::from(b) + u64::from(c) + u64::from(d))
        };
        self.first_token_ns = self.sent_ns + sum * 1_000;
        self.chunks = self.emissions.saturating_sub(index);
        effects.chunks += self.chunks;
        effects.first_token_ns = max64(sum * 1_000, 1);
        // The remembered gaps after the first token are inter-token gaps.
        if index < 1 && self.emissions > 1 {
            effects.gap(u64::from(b) * 1_000);
        }
        if index < 2 && self.emissions > 2 {
            effects.gap(u64::from(c) * 1_000);
        }
        if index < 3 && self.emissions > 3 {
            effects.gap(u64::from(d) * 1_000);
        }
    }

    /// The summary of this exchange; its times are left out unless it is `timed`, and the one to first byte unless
    /// `first_byte` is exact.
    #[inline(always)]
    pub fn finished(&self, outcome: Outcome, status: u8, timed: bool, first_byte: bool) -> Finished {
        let since = |moment: u64, wanted: bool| {
            if wanted && moment != 0 {
                elapsed(self.sent_ns, moment)
            } else {
                0
            }
        };
        Finished {
            outcome,
            cancel: None,
            timed,
            status,
            start_ns: self.start_ns,
            end_ns: max64(self.response_ns, self.sent_ns),
            first_byte_ns: since(self.first_byte_ns, first_byte),
            first_token_ns: since(self.first_token_ns, timed),
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            chunks: self.chunks,
        }
    }

    /// Whether the response has the shape of a stream, as far as timing tells.
    #[inline(always)]
    pub fn streams(&self) -> bool {
        self.emissions >= 3
    }
}

/// Nanoseconds from `start` to `now`, at least 1, because 0 stands for "none".
#[inline(always)]
pub fn elapsed(start: u64, now: u64) -> u64 {
    max64(now.saturating_sub(start), 1)
}

#[inline(always)]
const fn max(a: u32, b: u32) -> u32 {
    if a > b { a } else { b }
}

#[inline(always)]
const fn max64(a: u64, b: u64) -> u64 {
    if a > b { a } else { b }
}

#[inline(always)]
const fn small(bytes: u32) -> u16 {
    if bytes > u16::MAX as u32 {
        u16::MAX
    } else {
        bytes as u16
    }
}

#[inline(always)]
const fn micros(ns: u64) -> u32 {
    let us = ns / 1_000;
    if us > u32::MAX as u64 { u32::MAX } else { us as u32 }
}
