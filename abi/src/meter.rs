// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The meter of a socket: the state machine that turns bytes in two directions into requests, first tokens and gaps.
//!
//! ```text
//!             U                D                 end seen            next U, close, quiet
//!   Fresh ────────► Request ────────► Response ────────────► Idle   ◄──────────────────── Tail
//!     ▲               ▲                  │  short last write (TLS)                         ▲ │
//!     └ connect       └──── U ── Idle    └─────────────────────────────────────────────────┘ │ D: it was none
//!                                        ▲───────────────────────────────────────────────────┘
//! ```
//!
//! U is bytes in request direction, D in response direction. *Byte events* ([`Meter::up`], [`Meter::down`]) come once per
//! application read or write and carry the time; *facts* ([`Meter::note_up`], [`Meter::note_down`]) come from the packet parser,
//! carry what plaintext shows, and take effect when the byte events have reached the end of their packet. Both may
//! run ahead of the other. Where plaintext is not seen (TLS), timing and sizes decide, and what they cannot decide is left out:
//! a socket whose exchanges cannot be told apart becomes [`Phase::Opaque`] and contributes bytes and age alone.
//!
//! Every method tells [`Effects`] what is to be counted; the caller holds the socket's lock around it. Pure, and tested on the
//! host. The table of edge cases is in `docs/meter.md`.

mod end;
mod facts;
mod response;
mod state;
#[cfg(test)]
mod tests;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use self::{
    end::{End, Held},
    facts::{DownFacts, UpFacts},
    state::{MeterFlags, Phase, Wire},
};
use crate::{
    Effects, Exchange,
    layout::abi_struct,
    traffic::{Outcome, Vantage},
};

/// The meter of one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Meter {
    /// Bytes in request direction, ever.
    pub bytes_up: u64,
    /// Bytes in response direction, ever.
    pub bytes_down: u64,
    /// Latest byte in either direction.
    pub last_ns: u64,
    /// The present exchange, or the last one while idle.
    pub exchange: Exchange,
    /// Sequence number after the bytes that the application has sent (client) or read (server).
    pub up_seq: u32,
    /// Sequence number after the bytes that the application has read (client) or sent (server).
    pub down_seq: u32,
    /// Sequence number that the parser expects next, request direction.
    pub up_parsed: u32,
    /// Sequence number that the parser expects next, response direction.
    pub down_parsed: u32,
    /// End of the packet that the pending facts in request direction are about.
    pub up_mark: u32,
    /// End of the packet that the pending facts in response direction are about.
    pub down_mark: u32,
    /// Where the application's data begins, in request direction, on TLS.
    pub app_start: u32,
    /// Where the present response ends, if its length is known.
    pub response_end: u32,
    /// Bytes of the present TLS record or HTTP/2 frame that are still to come, request direction.
    pub up_skip: u32,
    /// The same, response direction.
    pub down_skip: u32,
    /// Beginning of a record or frame header that a packet cut off, request direction.
    pub up_carry: [u8; 9],
    /// Bytes in `up_carry`.
    pub up_carried: u8,
    /// The same, response direction.
    pub down_carry: [u8; 9],
    /// Bytes in `down_carry`.
    pub down_carried: u8,
    /// A [`Phase`].
    pub phase: u8,
    /// A [`Wire`].
    pub wire: u8,
    /// A [`Vantage`].
    pub vantage: u8,
    /// Class of the present response's status, 1 to 5; 0 for unknown.
    pub status: u8,
    /// See [`MeterFlags`].
    pub flags: u32,
    /// Facts in request direction that wait for the byte events: bits of [`UpFacts`].
    pub pending_up: u16,
    /// Facts in response direction that wait for the byte events: bits of [`DownFacts`].
    pub pending_down: u16,
    /// What this socket adds to [`crate::BackendState::load`].
    pub load: u32,
    /// What this socket adds to [`crate::traffic::Traffic::in_flight`].
    pub open: u32,
    /// What this socket adds to the request bytes in flight.
    pub held_bytes: u64,
    /// Requests that have ended on this connection.
    pub requests: u32,
    /// Highest HTTP/2 stream that has been opened; on TLS, how many records of the server were looked at for HTTP/2.
    pub last_stream: u32,
    /// Bytes of the TLS record that ends the latest packet in response direction, its header included; 0 if it is not a short one.
    pub tail: u16,
    /// Zero.
    pub pad: [u8; 6],
}
abi_struct!(Meter: 224 {
    bytes_up: 0, bytes_down: 8, last_ns: 16, exchange: 24, up_seq: 120, down_seq: 124, up_parsed: 128, down_parsed: 132,
    up_mark: 136, down_mark: 140, app_start: 144, response_end: 148, up_skip: 152, down_skip: 156, up_carry: 160,
    up_carried: 169, down_carry: 170, down_carried: 179, phase: 180, wire: 181, vantage: 182, status: 183, flags: 184,
    pending_up: 188, pending_down: 190, load: 192, open: 196, held_bytes: 200, requests: 208, last_stream: 212, tail: 216,
    pad: 218,
});

/// Largest write in request direction, TLS record included, that is no request: a `close_notify` alert, or the
/// acknowledgement of HTTP/2 settings.
const CONTROL_BYTES: u32 = 31;
/// Writes up to this size after the first byte of a response, where HTTP/2 was offered, are its frames of control.
const FRAME_BYTES: u32 = 64;
/// The smallest of these: 9 bytes in a TLS 1.3 record. On TLS 1.2 that is the size of an alert.
const FRAME_LEAST_BYTES: u32 = 31;
/// Some libraries read a TLS record in two calls, of which the first takes its header.
const RECORD_HEADER_BYTES: u32 = 5;
/// Responses in one or two bursts, of which the last has at least this many bytes, are taken for complete when they are quiet.
const WHOLE_BYTES: u32 = 512;
/// How long such a response, and one in [`Phase::Tail`], must have been quiet.
pub const QUIET_NS: u64 = 1_000_000_000;

/// Whether a TLS record of `bytes` is an alert: of TLS 1.3, or of TLS 1.2 with AES-GCM or ChaCha20-Poly1305.
#[inline(always)]
const fn is_alert(bytes: u32) -> bool {
    matches!(bytes, 23 | 24 | 31)
}

impl Meter {
    /// The meter of a connection whose next bytes have the given sequence numbers. It weighs on its backend from now on; the
    /// caller counts its `load` of 1.
    #[inline(always)]
    pub fn start(&mut self, vantage: Vantage, up_seq: u32, down_seq: u32) {
        self.vantage = vantage as u8;
        self.align(up_seq, down_seq);
        self.load = 1;
    }

    /// Sets the sequence numbers of the next bytes, known once the handshake is complete.
    #[inline(always)]
    pub fn align(&mut self, up_seq: u32, down_seq: u32) {
        self.up_seq = up_seq;
        self.up_parsed = up_seq;
        self.down_seq = down_seq;
        self.down_parsed = down_seq;
    }

    /// `bytes` in request direction were written by the client, or read by the server.
    #[inline(always)]
    pub fn up(&mut self, bytes: u32, now: u64, effects: &mut Effects) {
        self.bytes_up += u64::from(bytes);
        effects.bytes_up = bytes;
        self.last_ns = now;
        self.up_seq = self.up_seq.wrapping_add(bytes);
        let facts = self.take_up();
        let bytes = match Wire::from_raw(self.wire) {
            Wire::Http1 => bytes,
            Wire::Tls => {
                let of_application = self.up_seq.wrapping_sub(self.app_start).cast_signed();
                if of_application <= 0 {
                    return;
                }
                // Stays close behind: sequence numbers more than 2 GiB apart compare the wrong way.
                self.app_start = self.up_seq;
                if of_application.cast_unsigned() < bytes {
                    of_application.cast_unsigned()
                } else {
                    bytes
                }
            }
            _ => return,
        };
        if self.flags & MeterFlags::RESET_BETWEEN != 0 {
            self.begin_canceled(bytes, now, effects);
            return;
        }
        match Phase::from_raw(self.phase) {
            Phase::Idle | Phase::Tail if self.is_frame(bytes) => self.opaque(Wire::TlsHttp2, effects),
            Phase::Fresh | Phase::Idle => self.begin(bytes, facts, now, effects),
            Phase::Tail => {
                if !self.is_control(bytes) {
                    self.finish(Outcome::Success, effects);
                    self.begin(bytes, facts, now, effects);
                }
            }
            Phase::Request => self.more_request(bytes, facts, now, effects),
            Phase::Response => self.up_in_response(bytes, facts, now, effects),
            Phase::Opaque | Phase::Streams => {}
        }
    }

    /// `bytes` in response direction were written by the server, or read by the client.
    #[inline(always)]
    pub fn down(&mut self, bytes: u32, now: u64, effects: &mut Effects) {
        self.bytes_down += u64::from(bytes);
        effects.bytes_down = bytes;
        self.last_ns = now;
        self.down_seq = self.down_seq.wrapping_add(bytes);
        let facts = self.take_down();
        match Phase::from_raw(self.phase) {
            Phase::Request => {
                // What is pending counts too: the application may read a packet in pieces.
                let informational = Self::is_informational(facts.with(DownFacts(self.pending_down)));
                if informational {
                    return;
                }
                if self.is_control(bytes) {
                    self.exchange.response_bytes += u64::from(bytes);
                    return;
                }
                self.phase = Phase::Response as u8;
                self.write(bytes, facts, now, effects);
            }
            Phase::Idle if self.is_uncalled(bytes, facts) => {
                let wire = Wire::from_raw(self.wire);
                self.opaque(wire, effects);
            }
            Phase::Response => self.write(bytes, facts, now, effects),
            Phase::Tail => self.write_in_tail(bytes, facts, now, effects),
            _ => {}
        }
    }

    /// A request begins.
    #[inline(always)]
    fn begin(&mut self, bytes: u32, facts: UpFacts, now: u64, effects: &mut Effects) {
        if self.is_control(bytes) {
            return;
        }
        // Facts that wait are about this request, be it that the application reads their packet in pieces.
        let facts = facts.with(UpFacts(self.pending_up));
        self.pending_up = 0;
        let first = self.phase == Phase::Fresh as u8;
        self.flags &= !MeterFlags::OF_REQUEST;
        if self.flags & MeterFlags::ADOPTED != 0 {
            self.flags = self.flags & !MeterFlags::ADOPTED | MeterFlags::UNTIMED;
        }
        if first && self.flags & MeterFlags::TICKETS != 0 {
            self.flags |= MeterFlags::TICKETS_NOW;
        }
        self.take_line(facts);
        if self.pending_down & DownFacts::STATUS.0 == 0 {
            self.status = 0;
        }
        self.exchange.begin(bytes, now);
        self.phase = Phase::Request as u8;
        self.hold(1, 1, u64::from(bytes), effects);
    }

    #[inline(always)]
    fn more_request(&mut self, bytes: u32, facts: UpFacts, now: u64, effects: &mut Effects) {
        if facts.has(UpFacts::BEGIN) && self.flags & MeterFlags::BEGUN != 0 {
            self.opaque(Wire::Http1, effects);
        } else if !self.is_control(bytes) {
            self.take_line(facts);
            self.exchange.request(bytes, now);
            self.hold(1, 1, self.held_bytes + u64::from(bytes), effects);
        } else if is_alert(bytes) {
            self.client_left();
        }
    }

    /// Bytes of the client while the response is on its way: the rest of its request, the next one, or no HTTP/1 at all.
    #[inline(always)]
    fn up_in_response(&mut self, bytes: u32, facts: UpFacts, now: u64, effects: &mut Effects) {
        if self.is_plain() {
            if facts.has(UpFacts::BEGIN) {
                self.opaque(Wire::Http1, effects);
            } else {
                // An answer that did not wait for the whole request.
                self.flags |= MeterFlags::UNTIMED;
                self.exchange.request_bytes += u64::from(bytes);
                self.hold(1, 1, self.held_bytes + u64::from(bytes), effects);
            }
        } else if self.is_frame(bytes) {
            self.opaque(Wire::TlsHttp2, effects);
        } else if !self.is_control(bytes) && self.has_tickets_first(now) {
            // What came was no answer.
            self.flags &= !MeterFlags::TICKETS_NOW;
            self.exchange.resume(bytes, now);
            self.phase = Phase::Request as u8;
            self.hold(1, 1, self.held_bytes + u64::from(bytes), effects);
        } else if !self.is_control(bytes) {
            // The client has what it asked for.
            self.finish(Outcome::Success, effects);
            self.begin(bytes, facts, now, effects);
        } else if is_alert(bytes) {
            self.client_left();
        }
    }

    /// Whether the marks of HTTP/1.x in plaintext are seen.
    #[inline(always)]
    fn is_plain(&self) -> bool {
        self.wire == Wire::Http1 as u8
    }

    /// Whether `bytes` in request direction are of the TLS connection itself.
    #[inline(always)]
    fn is_control(&self, bytes: u32) -> bool {
        self.wire == Wire::Tls as u8 && bytes <= CONTROL_BYTES
    }

    /// Whether `bytes` in request direction, after the first request, are a frame of HTTP/2 under TLS.
    #[inline(always)]
    fn is_frame(&self, bytes: u32) -> bool {
        let least = FRAME_LEAST_BYTES + u32::from(self.flags & MeterFlags::TLS12 != 0);
        let offered = self.wire == Wire::Tls as u8 && self.flags & MeterFlags::OFFERS_HTTP2 != 0;
        offered && bytes >= least && bytes <= FRAME_BYTES
    }

    /// Sets what the socket holds on its backend and its row, and tells `effects` the differences. After its end it holds nothing.
    #[inline(always)]
    fn hold(&mut self, load: u32, open: u32, bytes: u64, effects: &mut Effects) {
        let (load, open, bytes) = if self.flags & MeterFlags::ENDED == 0 {
            (load, open, bytes)
        } else {
            (0, 0, 0)
        };
        effects.load += load.cast_signed() - self.load.cast_signed();
        effects.in_flight += open.cast_signed() - self.open.cast_signed();
        effects.request_bytes += bytes.cast_signed() - self.held_bytes.cast_signed();
        self.load = load;
        self.open = open;
        self.held_bytes = bytes;
    }

    /// The socket's exchanges cannot be told apart: from now on only bytes and age are counted, and the connection weighs 1 as
    /// long as it lives.
    #[inline(always)]
    fn opaque(&mut self, wire: Wire, effects: &mut Effects) {
        if self.phase == Phase::Opaque as u8 {
            return;
        }
        effects.ambiguous = true;
        self.wire = wire as u8;
        self.phase = Phase::Opaque as u8;
        self.hold(1, 0, 0, effects);
    }
}
