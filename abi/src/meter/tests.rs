// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The state machine against scripts: each case of `docs/meter.md`, random schedules with a known truth, and random events.
//!
//! [`Bench`] plays the kernel: it turns what two applications do into packets and byte events, in the order that a path would bring
//! them. Invariant: every effect passes [`Bench::apply`], which checks what must hold after any event.

extern crate std;

mod facts;
mod half_close;
mod http1;
mod http2;
mod limits;
mod property;
mod schedule;
mod simulator;
mod teardown;
mod tls;

use std::{vec, vec::Vec};

use super::{DownFacts, End, Meter, MeterFlags, Phase, UpFacts, Wire};
use crate::{
    Effects,
    effects::Finished,
    traffic::{Cancel, Outcome, Vantage},
};

const MS: u64 = 1_000_000;
/// The stamps of a test begin here, as 0 is "not yet".
const EPOCH: u64 = 1_000 * MS;
/// Sequence numbers begin so close to their wrap that every test crosses it.
const FIRST_SEQ: u32 = u32::MAX - 700;
/// What TLS 1.3 adds to a write.
const TLS_BYTES: u32 = 22;

/// The headers of a stream of events.
const EVENT_STREAM: DownFacts = DownFacts::STATUS
    .with(DownFacts::HEADERS)
    .with(DownFacts::EVENTS)
    .with(DownFacts::CHUNKED);
/// The headers of a response of known length.
const OF_LENGTH: DownFacts = DownFacts::STATUS.with(DownFacts::HEADERS).with(DownFacts::LENGTH);
/// The headers of a response that its connection's end ends.
const UNMARKED: DownFacts = DownFacts::STATUS.with(DownFacts::HEADERS);
/// A part of a stream that holds the first token.
const TOKEN: DownFacts = DownFacts::DATA.with(DownFacts::TOKEN);
/// A heartbeat.
const HEARTBEAT: DownFacts = DownFacts::MARKER;

/// How packets and byte events follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    /// The packet is seen before the application's call returns.
    Eager,
    /// The packet leaves after the call has returned: a full window, or Nagle's algorithm.
    Late,
    /// Byte events are packets of at most this many bytes.
    Packets(u32),
}

/// A meter, and the sums of all it told.
struct Bench {
    meter: Meter,
    path: Path,
    now: u64,
    in_flight: i64,
    load: i64,
    held_bytes: i64,
    chunks: u32,
    ambiguous: u32,
    dropped: u32,
    first_bytes: Vec<u64>,
    first_tokens: Vec<u64>,
    gaps: Vec<u64>,
    finished: Vec<Finished>,
}

impl Bench {
    fn new(vantage: Vantage, path: Path) -> Self {
        let mut meter = Meter::default();
        meter.start(vantage, FIRST_SEQ, FIRST_SEQ);
        Self {
            meter,
            path,
            now: EPOCH,
            in_flight: 0,
            load: 1,
            held_bytes: 0,
            chunks: 0,
            ambiguous: 0,
            dropped: 0,
            first_bytes: Vec::new(),
            first_tokens: Vec::new(),
            gaps: Vec::new(),
            finished: Vec::new(),
        }
    }

    /// HTTP/1.1 in plaintext.
    fn plain(vantage: Vantage) -> Self {
        Self::new(vantage, Path::Eager)
    }

    /// TLS after its handshake, whose bytes have been exchanged.
    fn tls(vantage: Vantage) -> Self {
        Self::tls_with(vantage, 0)
    }

    /// TLS whose handshake left `flags`.
    fn tls_with(vantage: Vantage, flags: u32) -> Self {
        let mut bench = Self::new(vantage, Path::Eager);
        bench.step(|meter, _, effects| meter.recognise(Wire::TlsHandshake, effects));
        bench.step(|meter, now, effects| meter.up(517, now, effects));
        bench.step(|meter, now, effects| meter.down(2_300, now, effects));
        bench.meter.flags |= flags;
        let app_start = FIRST_SEQ.wrapping_add(517 + 80);
        bench.step(|meter, _, effects| {
            meter.handshake_done(app_start, flags & MeterFlags::TICKETS != 0, effects);
        });
        bench.step(|meter, now, effects| meter.up(80, now, effects));
        assert_eq!(bench.in_flight, 0, "a handshake is no request");
        bench
    }

    /// The clock shows `ms` since the test began.
    fn at(&mut self, ms: u64) -> &mut Self {
        self.at_ns(ms * MS)
    }

    fn at_ns(&mut self, ns: u64) -> &mut Self {
        assert!(EPOCH + ns >= self.now, "time goes on");
        self.now = EPOCH + ns;
        self
    }

    fn step(&mut self, step: impl FnOnce(&mut Meter, u64, &mut Effects)) -> &mut Self {
        let mut effects = Effects::default();
        step(&mut self.meter, self.now, &mut effects);
        self.apply(&effects);
        self
    }

    fn is_tls(&self) -> bool {
        !matches!(
            Wire::from_raw(self.meter.wire),
            Wire::Unknown | Wire::Http1 | Wire::Http2
        )
    }

    /// A write or read of `bytes` of plaintext in request direction.
    fn up(&mut self, bytes: u32, facts: UpFacts) -> &mut Self {
        if self.is_tls() {
            return self.up_bytes(bytes + TLS_BYTES);
        }
        match self.path {
            Path::Eager => self.up_packet(bytes, facts).up_bytes(bytes),
            Path::Late => {
                let mark = self.meter.up_seq.wrapping_add(bytes);
                self.up_bytes(bytes).up_packet_to(mark, facts)
            }
            Path::Packets(most) => {
                let (mut rest, mut facts) = (bytes, facts);
                while rest > 0 {
                    let piece = rest.min(most);
                    self.up_packet(piece, facts).up_bytes(piece);
                    (rest, facts) = (rest - piece, UpFacts::default());
                }
                self
            }
        }
    }

    /// A packet with the next `bytes` that the application has not read or written.
    fn up_packet(&mut self, bytes: u32, facts: UpFacts) -> &mut Self {
        let mark = self.meter.up_seq.wrapping_add(bytes);
        self.up_packet_to(mark, facts)
    }

    fn up_packet_to(&mut self, mark: u32, facts: UpFacts) -> &mut Self {
        self.meter.up_parsed = mark;
        if self.meter.wire == Wire::Unknown as u8 {
            self.step(|meter, _, effects| meter.recognise(Wire::Http1, effects));
        }
        if facts != UpFacts::default() {
            self.step(|meter, _, effects| meter.note_up(facts, mark, effects));
        }
        self
    }

    fn up_bytes(&mut self, bytes: u32) -> &mut Self {
        self.step(|meter, now, effects| meter.up(bytes, now, effects))
    }

    /// A request of `bytes` in one write.
    fn ask(&mut self, bytes: u32) -> &mut Self {
        self.up(bytes, UpFacts::BEGIN)
    }

    /// A write or read of `bytes` of plaintext in response direction.
    fn down(&mut self, bytes: u32, facts: DownFacts) -> &mut Self {
        self.down_with(bytes, facts, 2, 0)
    }

    /// The same, of a response with a status of class `status`, after which `rest` bytes of its body are to come.
    fn down_with(&mut self, bytes: u32, facts: DownFacts, status: u8, rest: u32) -> &mut Self {
        if self.is_tls() {
            return self.down_bytes(bytes + TLS_BYTES);
        }
        let mark = self.meter.down_seq.wrapping_add(bytes);
        let note = Note {
            facts,
            status,
            end: mark.wrapping_add(rest),
        };
        match self.path {
            Path::Eager => self.down_packet_to(mark, note).down_bytes(bytes),
            Path::Late => self.down_bytes(bytes).down_packet_to(mark, note),
            Path::Packets(most) => {
                let mut left = bytes;
                while left > 0 {
                    let piece = left.min(most);
                    let mark = self.meter.down_seq.wrapping_add(piece);
                    let (first, last) = (left == bytes, left == piece);
                    self.down_packet_to(mark, note.of_piece(first, last))
                        .down_bytes(piece);
                    left -= piece;
                }
                self
            }
        }
    }

    /// A packet up to `mark`, that the parser reads.
    fn down_packet_to(&mut self, mark: u32, note: Note) -> &mut Self {
        self.meter.down_parsed = mark;
        if note.facts != DownFacts::default() {
            self.step(|meter, _, effects| {
                meter.note_down(note.facts, mark, note.status, note.end, 0, effects);
            });
        }
        self
    }

    /// A packet with `bytes` after those that the parser has read.
    fn down_packet(&mut self, bytes: u32, facts: DownFacts) -> &mut Self {
        let mark = self.meter.down_parsed.wrapping_add(bytes);
        self.down_packet_to(
            mark,
            Note {
                facts,
                status: 2,
                end: mark,
            },
        )
    }

    fn down_bytes(&mut self, bytes: u32) -> &mut Self {
        let end = self.meter.down_seq.wrapping_add(bytes);
        if self.is_tls() && self.meter.down_parsed.wrapping_sub(end).cast_signed() < 0 {
            // Its packet was seen.
            self.meter.down_parsed = end;
        }
        self.step(|meter, now, effects| meter.down(bytes, now, effects))
    }

    fn fin(&mut self) -> &mut Self {
        self.step(|meter, _, _| meter.peer_fin())
    }

    fn end(&mut self, end: End) -> &mut Self {
        self.step(|meter, now, effects| meter.end(end, 0, now, effects));
        assert_eq!(
            (self.in_flight, self.load, self.held_bytes),
            (0, 0, 0),
            "after the end nothing is held"
        );
        self
    }

    fn settle(&mut self) -> &mut Self {
        self.step(Meter::settle)
    }

    /// What must hold after every event.
    fn apply(&mut self, effects: &Effects) {
        let meter = &self.meter;
        self.in_flight += i64::from(effects.in_flight);
        self.load += i64::from(effects.load);
        self.held_bytes += effects.request_bytes;
        assert_eq!(
            self.in_flight,
            i64::from(meter.open),
            "in flight is what the meter holds"
        );
        assert_eq!(self.load, i64::from(meter.load), "load is what the meter holds");
        assert_eq!(
            Ok(self.held_bytes),
            i64::try_from(meter.held_bytes),
            "bytes are what the meter holds"
        );
        assert!(
            self.in_flight >= 0 && self.load >= 0 && self.held_bytes >= 0,
            "never negative"
        );
        let many = meter.phase == Phase::Streams as u8;
        assert!(many || meter.open <= 1, "one exchange at a time");
        let lived = self.now - EPOCH;
        let gaps = &effects.gaps_ns[..effects.gap_count as usize];
        for sample in gaps
            .iter()
            .chain([&effects.first_byte_ns, &effects.first_token_ns])
        {
            assert!(
                *sample <= lived.max(1),
                "{sample} ns is longer than the connection lives"
            );
        }
        if let Some(finished) = effects.finished {
            assert_eq!(finished.cancel.is_some(), finished.outcome == Outcome::Canceled);
            assert!(finished.end_ns >= finished.start_ns && finished.end_ns <= self.now);
        }
        self.chunks += effects.chunks;
        self.ambiguous += u32::from(effects.ambiguous);
        self.dropped += effects.dropped;
        self.first_bytes
            .extend(Some(effects.first_byte_ns).filter(|ns| *ns != 0));
        self.first_tokens
            .extend(Some(effects.first_token_ns).filter(|ns| *ns != 0));
        self.gaps.extend(gaps);
        self.finished.extend(effects.finished);
    }

    fn phase(&self) -> Phase {
        Phase::from_raw(self.meter.phase)
    }

    fn outcomes(&self) -> Vec<Outcome> {
        self.finished.iter().map(|finished| finished.outcome).collect()
    }

    fn cancels(&self) -> Vec<Cancel> {
        self.finished
            .iter()
            .filter_map(|finished| finished.cancel)
            .collect()
    }

    /// The latencies, in milliseconds: to first byte, to first token, between tokens.
    fn latencies(&self) -> [Vec<u64>; 3] {
        [&self.first_bytes, &self.first_tokens, &self.gaps]
            .map(|samples| samples.iter().map(|ns| ns / MS).collect())
    }

    /// That the socket became ambiguous once, holds no request and told no latency.
    fn assert_ambiguous(&self) {
        assert_eq!(
            (self.phase(), self.ambiguous, self.in_flight),
            (Phase::Opaque, 1, 0)
        );
        assert_eq!(self.latencies(), [vec![], vec![], vec![]]);
    }
}

/// What the parser tells of a packet in response direction.
#[derive(Clone, Copy)]
struct Note {
    facts: DownFacts,
    status: u8,
    end: u32,
}

impl Note {
    /// What it tells of one packet of several: the head is in the first, the end of the body in the last.
    fn of_piece(self, first: bool, last: bool) -> Self {
        let mut bits = self.facts.0;
        if !last {
            bits &= !DownFacts::END.0;
        }
        if !first {
            bits &= DownFacts::END.0 | DownFacts::DATA.0 | DownFacts::MARKER.0;
        }
        Self {
            facts: DownFacts(bits),
            ..self
        }
    }
}
