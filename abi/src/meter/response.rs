// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What the writes of a response are: text, markers, the last one. Called by the meter for each byte event in response direction.
//!
//! Invariant: a latency that this exchange cannot tell exactly is withheld.

use super::{DownFacts, Meter, MeterFlags, Phase, QUIET_NS, RECORD_HEADER_BYTES, Wire};
use crate::{
    Effects,
    exchange::{Content, SMALL_BYTES},
    traffic::Vantage,
};

/// Facts of packets that are no part of a stream's text.
const OF_MARKERS: u16 = DownFacts::MARKER.0 | DownFacts::END.0 | DownFacts::DONE.0;

/// Facts of packets that are read together with text, or are text.
const OF_DATA: u16 = DownFacts::DATA.0 | DownFacts::AFTER_DATA.0;

impl Meter {
    /// A write of the response.
    #[inline(always)]
    pub(super) fn write(&mut self, bytes: u32, facts: DownFacts, now: u64, effects: &mut Effects) {
        let plain = self.is_plain();
        if self.exchange.response_bytes > 0 {
            self.flags |= MeterFlags::AGAIN;
        }
        // A server whose client has gone says so with an alert that is as short as a last write.
        let client_gone = self.flags & MeterFlags::PEER_FIN != 0 && self.vantage == Vantage::Server as u8;
        // A stream's last write follows its tokens; one that breaks a silence is a heartbeat.
        let follows =
            now.saturating_sub(self.exchange.emission_ns) < QUIET_NS && bytes != RECORD_HEADER_BYTES;
        // The last write of a stream may be read together with others; its record tells.
        let tail = u32::from(self.tail);
        let tailed =
            facts.has(DownFacts::RECORD) && tail != 0 && tail < bytes && self.exchange.is_short(tail);
        let alone = follows && self.exchange.is_short(bytes);
        let short = !plain && !client_gone && (alone || tailed);
        let content = self.content(facts, plain);
        self.exchange.response(bytes, now, content, effects);
        self.withhold(effects);
        if plain && self.is_complete(facts) {
            self.finish_by_status(effects);
            self.phase = Phase::Idle as u8;
        } else if short {
            self.exchange.short = if tailed { tail } else { bytes } as u16;
            self.phase = Phase::Tail as u8;
            self.hold(0, 0, 0, effects);
        }
    }

    /// A write after one that looked like the last.
    #[inline(always)]
    pub(super) fn write_in_tail(&mut self, bytes: u32, facts: DownFacts, now: u64, effects: &mut Effects) {
        if self.exchange.is_short(bytes) {
            self.exchange.response_bytes += u64::from(bytes);
            self.exchange.response_ns = now;
            return;
        }
        // It was a heartbeat.
        self.phase = Phase::Response as u8;
        self.hold(1, 1, self.exchange.request_bytes, effects);
        self.write(bytes, facts, now, effects);
    }

    #[inline(always)]
    fn content(&self, facts: DownFacts, plain: bool) -> Content {
        if !plain {
            Content::Unknown
        } else if facts.has(DownFacts::TOKEN) {
            Content::Token
        } else if facts.0 & OF_DATA != 0 {
            Content::Data
        } else if self.flags & MeterFlags::LENGTH != 0 {
            Content::Body
        } else if self.is_parsed() && (self.flags & MeterFlags::EVENTS != 0 || facts.has(DownFacts::END)) {
            let goes_on = self.exchange.first_token_ns != 0 && facts.0 & OF_MARKERS == 0;
            if goes_on { Content::Data } else { Content::Marker }
        } else {
            Content::Unknown
        }
    }

    /// Leaves out of `effects` what this exchange cannot tell exactly.
    #[inline(always)]
    pub(super) fn withhold(&self, effects: &mut Effects) {
        if self.flags & MeterFlags::UNTIMED != 0 {
            effects.forget_latencies();
        } else if self.flags & MeterFlags::TICKETS_NOW != 0 {
            effects.first_byte_ns = 0;
        }
    }

    /// Whether the packets that hold what the application has written or read so far were seen.
    #[inline(always)]
    fn is_parsed(&self) -> bool {
        self.down_parsed.wrapping_sub(self.down_seq).cast_signed() >= 0
    }

    /// Whether `facts` are of an informational response alone.
    #[inline(always)]
    pub(super) fn is_informational(facts: DownFacts) -> bool {
        facts.has(DownFacts::INFORMATIONAL) && !facts.has(DownFacts::STATUS)
    }

    /// Whether `bytes` in response direction between two requests tell that these were more than they seemed.
    #[inline(always)]
    pub(super) fn is_uncalled(&self, bytes: u32, facts: DownFacts) -> bool {
        if self.is_plain() {
            facts.has(DownFacts::STATUS)
        } else {
            self.wire == Wire::Tls as u8 && bytes > SMALL_BYTES
        }
    }

    /// Whether the response is complete, by its own marks.
    #[inline(always)]
    pub(super) fn is_complete(&self, facts: DownFacts) -> bool {
        if facts.has(DownFacts::END) {
            return true;
        }
        if self.flags & MeterFlags::HEAD != 0 && facts.has(DownFacts::HEADERS) {
            return true;
        }
        self.flags & MeterFlags::LENGTH != 0
            && self.down_seq.wrapping_sub(self.response_end).cast_signed() >= 0
    }
}
