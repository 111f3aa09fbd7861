// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Facts: what the packet parser saw in plaintext, and how they meet the byte events.
//!
//! A fact belongs to a packet, and takes effect when the byte events of its direction have reached the packet's end (*mark*): at
//! the client's vantage packets arrive before they are read; at the server's, a full window sends bytes long after
//! they were written. Facts of several packets that wait together are merged. Invariant: a fact is applied once.

use super::{Meter, MeterFlags, Phase, Wire};
use crate::{Effects, exchange::elapsed, traffic::Outcome};

macro_rules! facts {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $bit:ident = $shift:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name(pub u16);

        impl $name {
            $($(#[$doc])* pub const $bit: Self = Self(1 << $shift);)+

            /// Whether all bits of `fact` are there.
            #[inline(always)]
            pub const fn has(self, fact: Self) -> bool {
                self.0 & fact.0 == fact.0
            }

            /// Both.
            #[must_use]
            #[inline(always)]
            pub const fn with(self, fact: Self) -> Self {
                Self(self.0 | fact.0)
            }

            /// With `fact` if `condition`.
            #[must_use]
            #[inline(always)]
            pub const fn with_if(self, condition: bool, fact: Self) -> Self {
                Self(self.0 | (fact.0 * condition as u16))
            }
        }
    };
}

facts! {
    /// What a packet in request direction shows.
    UpFacts {
        /// It begins with the method of an HTTP/1.x request.
        BEGIN = 0;
        /// The method is HEAD.
        HEAD = 1;
        /// The method is CONNECT: what follows is a tunnel.
        TUNNEL = 2;
    }
}

facts! {
    /// What a packet in response direction shows.
    DownFacts {
        /// It holds the status line of a final response.
        STATUS = 0;
        /// It holds the end of the final response's headers.
        HEADERS = 1;
        /// It holds an informational response (1xx other than 101) and nothing else.
        INFORMATIONAL = 2;
        /// The response is 101, after which the connection is no HTTP/1.x any more.
        UPGRADED = 3;
        /// The headers say `text/event-stream`.
        EVENTS = 4;
        /// The headers say `Transfer-Encoding: chunked`.
        CHUNKED = 5;
        /// The headers say how long the body is, be it nothing.
        LENGTH = 6;
        /// It holds a part of the stream other than headers, heartbeats and end markers.
        DATA = 7;
        /// It holds the first token: text that is not empty.
        TOKEN = 8;
        /// It ends the response.
        END = 9;
        /// It ends with the event that ends a stream of tokens, `[DONE]`.
        DONE = 10;
        /// It is a heartbeat or an end marker. Told after the first token only: what a stream goes on with is data.
        MARKER = 12;
        /// It ends with a short TLS record of the application, whose size is in [`Meter::tail`].
        RECORD = 11;
        /// When it came, data before it was not read yet. With `MARKER`, and forgotten once that data is read without it.
        AFTER_DATA = 13;
    }
}

impl DownFacts {
    /// See [`Meter::is_due`], for a meter whose [`Meter::down_seq`] is `down_seq`.
    #[inline(always)]
    pub const fn are_due(self, down_seq: u32, mark: u32) -> bool {
        self.has(Self::UPGRADED) || reached(down_seq, mark)
    }
}

impl Meter {
    /// The first packet in request direction shows what the connection carries.
    #[inline(always)]
    pub fn recognise(&mut self, wire: Wire, effects: &mut Effects) {
        if self.flags & MeterFlags::ENDED != 0 {
            return;
        }
        self.wire = wire as u8;
        match wire {
            Wire::Http1 if self.phase == Phase::Fresh as u8 && self.bytes_up != 0 => {
                // The byte event came first.
                let (bytes, at) = (self.bytes_up as u32, self.last_ns);
                self.begin(bytes, UpFacts::default(), at, effects);
                if self.bytes_down != 0 {
                    self.flags |= MeterFlags::UNTIMED;
                }
            }
            Wire::Other | Wire::TlsHttp2 => self.opaque(wire, effects),
            Wire::Http2 => {
                self.phase = Phase::Streams as u8;
                self.hold(0, 0, 0, effects);
            }
            _ => {}
        }
    }

    /// The client's TLS handshake is complete: its application's data begins at `app_start`.
    #[inline(always)]
    pub fn handshake_done(&mut self, app_start: u32, tickets: bool, effects: &mut Effects) {
        self.app_start = app_start;
        self.wire = Wire::Tls as u8;
        if tickets {
            self.flags |= MeterFlags::TICKETS;
        }
        let written = self.up_seq.wrapping_sub(app_start).cast_signed();
        if written > 0 && self.phase == Phase::Fresh as u8 {
            // The first request was written before the packet that shows where it begins has left.
            self.begin(written.cast_unsigned(), UpFacts::default(), self.last_ns, effects);
        }
    }

    /// A packet in request direction that ends at `mark` shows `facts`.
    #[inline(always)]
    pub fn note_up(&mut self, facts: UpFacts, mark: u32, effects: &mut Effects) {
        if facts.has(UpFacts::TUNNEL) {
            self.opaque(Wire::Other, effects);
        }
        if reached(self.up_seq, mark) {
            // The byte event came first and was taken for what follows from its time and size.
            if facts.has(UpFacts::BEGIN)
                && matches!(Phase::from_raw(self.phase), Phase::Request | Phase::Response)
            {
                if self.flags & MeterFlags::BEGUN != 0 {
                    self.opaque(Wire::Http1, effects);
                }
                self.take_line(facts);
            }
            return;
        }
        if self.pending_up & UpFacts::BEGIN.0 != 0 && facts.has(UpFacts::BEGIN) {
            // Two requests, of which the application has seen neither.
            self.opaque(Wire::Http1, effects);
        }
        self.pending_up |= facts.0;
        self.up_mark = mark;
    }

    /// The first line of the present request is among `facts`.
    #[inline(always)]
    pub(super) fn take_line(&mut self, facts: UpFacts) {
        self.flags |= (MeterFlags::BEGUN * u32::from(facts.has(UpFacts::BEGIN)))
            | (MeterFlags::HEAD * u32::from(facts.has(UpFacts::HEAD)));
    }

    /// Whether facts about a packet that ends at `mark` take effect at once; else they are only to be kept, by
    /// [`Self::defer_down`].
    #[inline(always)]
    pub fn is_due(&self, facts: DownFacts, mark: u32) -> bool {
        facts.are_due(self.down_seq, mark)
    }

    /// Keeps `facts` about a packet in response direction that ends at `mark` until the byte events have reached it; `status` is the class
    /// of its status, `response_end` where its response ends, if [`DownFacts::LENGTH`] is among the facts, `tail` the bytes of its last
    /// TLS record, with [`DownFacts::RECORD`].
    #[inline(always)]
    pub fn defer_down(&mut self, facts: DownFacts, mark: u32, status: u8, response_end: u32, tail: u16) {
        self.keep_numbers(facts, mark, status, response_end, tail);
        if self.pending_down == 0 {
            self.down_mark = mark;
        }
        self.pending_down |= facts.0;
    }

    #[inline(always)]
    fn keep_numbers(&mut self, facts: DownFacts, mark: u32, status: u8, response_end: u32, tail: u16) {
        if facts.has(DownFacts::STATUS) {
            self.status = status;
        }
        if facts.has(DownFacts::LENGTH) {
            self.response_end = response_end;
        } else if facts.0 & OF_END != 0 {
            self.response_end = mark;
        }
        if facts.has(DownFacts::RECORD) {
            self.tail = tail;
        }
    }

    /// A packet in response direction shows `facts`; the arguments are those of [`Self::defer_down`].
    #[inline(always)]
    pub fn note_down(
        &mut self,
        facts: DownFacts,
        mark: u32,
        status: u8,
        response_end: u32,
        tail: u16,
        effects: &mut Effects,
    ) {
        if !self.is_due(facts, mark) {
            self.defer_down(facts, mark, status, response_end, tail);
            return;
        }
        if facts.has(DownFacts::UPGRADED) {
            self.opaque(Wire::Other, effects);
        }
        self.keep_numbers(facts, mark, status, response_end, tail);
        self.keep_flags(facts);
        self.late_facts(facts, effects);
    }

    /// What `facts` tell about the rest of the response.
    #[inline(always)]
    fn keep_flags(&mut self, facts: DownFacts) {
        self.flags |= flag(facts, DownFacts::LENGTH, MeterFlags::LENGTH)
            | flag(facts, DownFacts::CHUNKED, MeterFlags::CHUNKED)
            | flag(facts, DownFacts::EVENTS, MeterFlags::EVENTS)
            | flag(facts, DownFacts::DONE, MeterFlags::DONE);
    }

    /// Facts about bytes that have been counted: the first token and the end are still worth knowing.
    #[inline(always)]
    fn late_facts(&mut self, facts: DownFacts, effects: &mut Effects) {
        if Phase::from_raw(self.phase) != Phase::Response {
            return;
        }
        let exchange = &mut self.exchange;
        if facts.has(DownFacts::TOKEN) && exchange.first_token_ns == 0 {
            if exchange.emissions > 1 {
                // It is in one of these: the time of its write is better known than the time of its packet.
                exchange.first_large_gap(effects);
                self.withhold(effects);
                return self.late_end(facts, effects);
            }
            exchange.first_token_ns = exchange.response_ns;
            exchange.chunks = 1;
            effects.chunks = 1;
            effects.first_token_ns = elapsed(exchange.sent_ns, exchange.response_ns);
            self.withhold(effects);
        }
        self.late_end(facts, effects);
    }

    #[inline(always)]
    fn late_end(&mut self, facts: DownFacts, effects: &mut Effects) {
        if self.is_complete(facts) {
            self.finish_by_status(effects);
            self.phase = Phase::Idle as u8;
        }
    }

    /// The facts in request direction that are due.
    #[inline(always)]
    pub(super) fn take_up(&mut self) -> UpFacts {
        if self.pending_up == 0 || !reached(self.up_seq, self.up_mark) {
            return UpFacts::default();
        }
        let facts = UpFacts(self.pending_up);
        self.pending_up = 0;
        facts
    }

    /// The facts in response direction that are due. Of packets that were read together the first one's end decides: the others are
    /// there already. Only the end of the response waits for its own.
    #[inline(always)]
    pub(super) fn take_down(&mut self) -> DownFacts {
        if self.pending_down == 0 {
            return DownFacts::default();
        }
        if !reached(self.down_seq, self.down_mark) {
            // What was read now is the data before them, or a part of it.
            self.pending_down &= !DownFacts::AFTER_DATA.0;
            return DownFacts::default();
        }
        let later = if reached(self.down_seq, self.response_end) {
            0
        } else {
            self.pending_down & OF_END
        };
        let facts = DownFacts(self.pending_down & !later);
        self.pending_down = later;
        self.keep_flags(facts);
        facts
    }

    /// The response is complete; its status says how it went.
    #[inline(always)]
    pub(super) fn finish_by_status(&mut self, effects: &mut Effects) {
        let outcome = match self.status {
            4 => Outcome::ClientError,
            5.. => Outcome::ServerError,
            _ => Outcome::Success,
        };
        self.finish(outcome, effects);
    }
}

/// Facts about the last byte of their packet.
const OF_END: u16 = DownFacts::END.0 | DownFacts::RECORD.0;

#[inline(always)]
const fn flag(facts: DownFacts, fact: DownFacts, flag: u32) -> u32 {
    flag * facts.has(fact) as u32
}

/// Whether the sequence number `at` is not before `mark` (RFC 9293, section 3.4).
#[inline(always)]
const fn reached(at: u32, mark: u32) -> bool {
    at.wrapping_sub(mark).cast_signed() >= 0
}
