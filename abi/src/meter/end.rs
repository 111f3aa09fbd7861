// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! How exchanges end: by their own mark, by the next one, by quiet, or with their connection.
//!
//! Invariant: after [`Meter::end`] the socket holds nothing on its backend and its row.

use super::{CONTROL_BYTES, Meter, MeterFlags, Phase, QUIET_NS, UpFacts, WHOLE_BYTES, Wire};
use crate::{
    Effects,
    traffic::{Cancel, Outcome, Vantage},
};

/// A client writes the body of its request within this time after the head.
const BODY_NS: u64 = 5_000_000;
/// Session tickets take fewer bytes than this.
const TICKETS_BYTES: u64 = 2_048;
/// A request on a reused connection that the server closes later than this was not lost in a race with an idle timeout.
const RACE_NS: u64 = 1_000_000_000;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The application on this side closed it in order.
    Closed,
    /// The application on this side closed it so that the peer gets a RST.
    Aborted,
    /// The peer sent a RST, or stopped answering.
    Reset,
}

/// What a socket added to the counters of its backend and its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// To the load.
    pub load: u32,
    /// To the requests in flight.
    pub open: u32,
    /// To the request bytes in flight.
    pub request_bytes: u64,
}

impl Meter {
    /// The peer has sent FIN.
    #[inline(always)]
    pub fn peer_fin(&mut self) {
        if self.flags & MeterFlags::PEER_FIN != 0 {
            return;
        }
        self.flags |= MeterFlags::PEER_FIN;
        if self.has_response() {
            self.flags |= MeterFlags::FIN_IN_RESPONSE;
        }
    }

    /// Whether the connection has ended.
    #[inline(always)]
    pub fn has_ended(&self) -> bool {
        self.flags & MeterFlags::ENDED != 0
    }

    /// Whether the client of an accepted HTTP/2 connection has sent FIN: nobody waits for what the server still writes.
    #[inline(always)]
    pub fn client_has_gone(&self) -> bool {
        self.vantage == Vantage::Server as u8 && self.fin_by_peer()
    }

    /// The client has said under TLS that it sends no more. Its FIN may come after the server's answer to that.
    #[inline(always)]
    pub(super) fn client_left(&mut self) {
        if self.vantage == Vantage::Server as u8 {
            self.peer_fin();
        } else if self.flags & (MeterFlags::CLIENT_LEFT | MeterFlags::PEER_FIN) == 0 {
            self.flags |= MeterFlags::CLIENT_LEFT;
            if self.has_response() {
                self.flags |= MeterFlags::LEFT_IN_RESPONSE;
            }
        }
    }

    /// Whether a byte of the present response has come that is not of the session tickets before it, as far as the server tells.
    #[inline(always)]
    fn has_response(&self) -> bool {
        self.phase == Phase::Response as u8 && !self.has_tickets_only()
    }

    /// Whether bytes of the client after the first of the server belong to the same request: a server sends session tickets when the
    /// handshake is complete, be it between head and body of the first request.
    #[inline(always)]
    pub(super) fn has_tickets_first(&self, now: u64) -> bool {
        let first = self.flags & (MeterFlags::TICKETS_NOW | MeterFlags::AGAIN) == MeterFlags::TICKETS_NOW;
        let at_once = now.saturating_sub(self.exchange.sent_ns) < BODY_NS;
        let alone = first && self.exchange.response_bytes < TICKETS_BYTES;
        // A client may have read its whole answer together with the tickets.
        alone && (at_once || self.vantage == Vantage::Server as u8)
    }

    /// Whether all that the server has written to a first request under TLS 1.3 may be session tickets.
    #[inline(always)]
    fn has_tickets_only(&self) -> bool {
        self.flags & (MeterFlags::TICKETS_NOW | MeterFlags::AGAIN) == MeterFlags::TICKETS_NOW
            && self.vantage == Vantage::Server as u8
            && self.exchange.response_bytes < TICKETS_BYTES
    }

    /// The connection has ended. `written` are the bytes that a client has written and of which no byte event has told: the answer to a
    /// write may come before the write returns.
    #[inline(always)]
    pub fn end(&mut self, end: End, written: u32, now: u64, effects: &mut Effects) {
        effects.tell = true;
        self.begin_written(written, now, effects);
        let half_closed = self.is_half_closed(end);
        match Phase::from_raw(self.phase) {
            Phase::Response if half_closed => self.finish_by_status(effects),
            Phase::Tail => self.finish(Outcome::Success, effects),
            Phase::Request => self.end_in_request(end, now, effects),
            Phase::Response if self.has_tickets_only() => self.end_in_request(end, now, effects),
            Phase::Response => self.end_in_response(end, effects),
            Phase::Streams => {
                effects.dropped = self.open;
                effects.dropped_as = match self.gone(end) {
                    Side::Client => Outcome::Canceled,
                    Side::Server => Outcome::NoResponse,
                };
            }
            Phase::Fresh | Phase::Idle | Phase::Opaque => {}
        }
        let is_between = matches!(Phase::from_raw(self.phase), Phase::Fresh | Phase::Idle);
        if end == End::Reset && is_between && self.vantage == Vantage::Server as u8 {
            self.flags |= MeterFlags::RESET_BETWEEN;
        }
        self.phase = Phase::Opaque as u8;
        self.flags |= MeterFlags::ENDED;
        self.hold(0, 0, 0, effects);
    }

    /// The server reads a request whose client has reset the connection meanwhile.
    #[inline(always)]
    pub(super) fn begin_canceled(&mut self, bytes: u32, now: u64, effects: &mut Effects) {
        if self.is_control(bytes) {
            return;
        }
        self.flags &= !MeterFlags::RESET_BETWEEN;
        self.exchange.begin(bytes, now);
        self.finish(Outcome::Canceled, effects);
        if let Some(finished) = &mut effects.finished {
            finished.cancel = Some(Cancel::PrefillReset);
        }
    }

    /// What seemed complete is, because the connection has ended. Before [`Self::end`], which may have another request to tell of.
    #[inline(always)]
    pub fn end_tail(&mut self, effects: &mut Effects) {
        if self.phase == Phase::Tail as u8 {
            self.finish(Outcome::Success, effects);
            self.phase = Phase::Idle as u8;
        }
    }

    /// A request whose write has not returned begins.
    #[inline(always)]
    fn begin_written(&mut self, written: u32, now: u64, effects: &mut Effects) {
        let facts = UpFacts(self.pending_up);
        let is_request = if self.is_plain() {
            facts.has(UpFacts::BEGIN)
        } else {
            self.wire == Wire::Tls as u8 && written > CONTROL_BYTES
        };
        let is_between = matches!(Phase::from_raw(self.phase), Phase::Fresh | Phase::Idle);
        if written != 0 && is_request && is_between {
            self.begin(written, facts, now, effects);
        }
    }

    /// The application connects this socket again: returns what the socket held, which it holds no longer. What `end` would tell is
    /// left out, because the stack of a `connect` program has no room for it and nobody reuses a socket in a request.
    #[inline(always)]
    pub fn discard(&mut self) -> Held {
        let held = Held {
            load: self.load,
            open: self.open,
            request_bytes: self.held_bytes,
        };
        self.load = 0;
        self.open = 0;
        self.held_bytes = 0;
        self.phase = Phase::Opaque as u8;
        self.flags |= MeterFlags::ENDED;
        held
    }

    #[inline(always)]
    fn end_in_request(&mut self, end: End, now: u64, effects: &mut Effects) {
        match self.gone(end) {
            Side::Client => self.cancel(end, effects),
            Side::Server if self.is_race(now) => {
                self.finish(Outcome::KeepaliveRace, effects);
            }
            Side::Server => self.finish(Outcome::NoResponse, effects),
        }
    }

    /// Whether the server had closed a reused connection before the request reached it: then it answers by closing at once.
    #[inline(always)]
    fn is_race(&self, now: u64) -> bool {
        let reused = self.requests > 0 && self.vantage == Vantage::Client as u8;
        reused && now.saturating_sub(self.exchange.sent_ns) < RACE_NS
    }

    #[inline(always)]
    fn end_in_response(&mut self, end: End, effects: &mut Effects) {
        // Where the end of a response is marked, it was not seen.
        let plain = self.is_plain();
        let marked = if plain {
            self.flags & (MeterFlags::CHUNKED | MeterFlags::LENGTH) != 0
        } else {
            self.exchange.streams()
        };
        match self.gone(end) {
            // Without a mark the server's FIN is the end, and the client did not wait for it.
            // A client that has seen the end of its stream need not wait for the end of the response.
            Side::Client if self.flags & MeterFlags::DONE != 0 || self.seems_over() => {
                self.finish_by_status(effects);
            }
            Side::Client if marked || plain => self.cancel(end, effects),
            Side::Server if self.has_goodbye() => self.finish_by_status(effects),
            Side::Server if marked || end != End::Closed && !self.fin_by_peer() => {
                self.finish(Outcome::Truncated, effects);
            }
            // The end of the connection is the end of the response.
            _ => self.finish_by_status(effects),
        }
    }

    /// Whether what the server wrote last, under TLS, looks like the end of a stream beside its latest token.
    #[inline(always)]
    fn seems_over(&self) -> bool {
        self.wire == Wire::Tls as u8 && self.exchange.may_end_with(u32::from(self.tail))
    }

    /// Whether the last that came from the server is an alert or an end marker under TLS: it closed in order.
    #[inline(always)]
    fn has_goodbye(&self) -> bool {
        self.wire == Wire::Tls as u8 && self.tail != 0 && u32::from(self.tail) <= CONTROL_BYTES
    }

    /// Which side ended the connection.
    #[inline(always)]
    fn gone(&self, end: End) -> Side {
        if self.flags & MeterFlags::CLIENT_LEFT != 0 {
            return Side::Client;
        }
        let by_peer = end == End::Reset || self.fin_by_peer();
        if by_peer == (self.vantage == Vantage::Server as u8) {
            Side::Client
        } else {
            Side::Server
        }
    }

    /// Whether the client had closed its half before the response, and the server its own after it, in order: a client that had gone
    /// would have answered the response with RST. Plaintext with a mark of its end tells by itself.
    #[inline(always)]
    fn is_half_closed(&self, end: End) -> bool {
        let marked = self.is_plain() && self.flags & (MeterFlags::CHUNKED | MeterFlags::LENGTH) != 0;
        let after_fin = self.fin_by_peer() && self.flags & MeterFlags::FIN_IN_RESPONSE == 0;
        self.vantage == Vantage::Server as u8 && end == End::Closed && after_fin && !marked
    }

    #[inline(always)]
    fn fin_by_peer(&self) -> bool {
        self.flags & MeterFlags::PEER_FIN != 0
    }

    #[inline(always)]
    fn cancel(&mut self, end: End, effects: &mut Effects) {
        let (decode, reset) = if self.fin_by_peer() {
            (self.flags & MeterFlags::FIN_IN_RESPONSE != 0, false)
        } else if self.flags & MeterFlags::CLIENT_LEFT != 0 {
            (self.flags & MeterFlags::LEFT_IN_RESPONSE != 0, false)
        } else {
            (self.has_response(), end != End::Closed)
        };
        self.finish(Outcome::Canceled, effects);
        if let Some(finished) = &mut effects.finished {
            finished.cancel = Some(Cancel::new(decode, reset));
        }
    }

    /// The present exchange is over.
    #[inline(always)]
    pub(super) fn finish(&mut self, outcome: Outcome, effects: &mut Effects) {
        let plain = self.is_plain();
        if self.exchange.first_token_ns == 0 && self.is_stream(plain) {
            self.exchange.first_large_gap(effects);
            self.withhold(effects);
        }
        let timed = self.flags & MeterFlags::UNTIMED == 0;
        let first_byte = timed && self.flags & MeterFlags::TICKETS_NOW == 0;
        effects.finished = Some(self.exchange.finished(outcome, self.status, timed, first_byte));
        self.requests = self.requests.wrapping_add(1);
        self.hold(0, 0, 0, effects);
    }

    /// Whether the exchange that ends now was a stream, so that its emissions were tokens.
    #[inline(always)]
    fn is_stream(&self, plain: bool) -> bool {
        if plain {
            // A stream of events whose tokens were not recognised, or another one in chunks.
            self.flags & MeterFlags::CHUNKED != 0 && self.exchange.emissions >= 2
        } else {
            let tickets = u32::from(self.flags & MeterFlags::TICKETS_NOW != 0);
            self.exchange.streams()
                || self.phase == Phase::Tail as u8 && self.exchange.emissions >= 2 + tickets
        }
    }

    /// Nothing has come for a while: ends what can only be ended by quiet. Called by the sweep.
    #[inline(always)]
    pub fn settle(&mut self, now: u64, effects: &mut Effects) {
        // What has arrived and was not read, or was written and has not left, is not quiet.
        if now.saturating_sub(self.last_ns) < QUIET_NS || self.down_parsed != self.down_seq {
            return;
        }
        let quiet_end = match Phase::from_raw(self.phase) {
            Phase::Tail => true,
            Phase::Response => self.seems_whole(),
            _ => false,
        };
        if quiet_end {
            self.finish(Outcome::Success, effects);
            self.phase = Phase::Idle as u8;
        }
    }

    /// Whether a response under TLS looks like one that was not streamed and is complete.
    #[inline(always)]
    fn seems_whole(&self) -> bool {
        // A first burst that small may be session tickets.
        let tickets = self.flags & MeterFlags::TICKETS_NOW != 0 && self.exchange.emissions < 2;
        let least = WHOLE_BYTES << (2 * u32::from(tickets));
        self.wire == Wire::Tls as u8 && self.exchange.emissions <= 2 && self.exchange.latest >= least
    }

    /// The stream `id` of an HTTP/2 connection begins.
    #[inline(always)]
    pub fn stream_opened(&mut self, id: u32, effects: &mut Effects) {
        self.last_stream = id;
        let open = self.open + 1;
        self.hold(open, open, self.held_bytes, effects);
    }

    /// A stream of an HTTP/2 connection has ended, that had sent `request_bytes`.
    #[inline(always)]
    pub fn stream_closed(&mut self, request_bytes: u64, effects: &mut Effects) {
        let open = self.open.saturating_sub(1);
        let held = self.held_bytes.saturating_sub(request_bytes);
        self.requests = self.requests.wrapping_add(1);
        self.hold(open, open, held, effects);
    }

    /// A stream of an HTTP/2 connection sends `bytes` of its request.
    #[inline(always)]
    pub fn stream_request(&mut self, bytes: u32, effects: &mut Effects) {
        self.hold(self.load, self.open, self.held_bytes + u64::from(bytes), effects);
    }
}

/// A side of the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}
