// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Random schedules of what a client and a model server do on one connection, with the truth about them.
//!
//! Invariant: the same seed gives the same schedule; stamps rise.

use super::{DownFacts, EVENT_STREAM, HEARTBEAT, MS, TOKEN, Vec};
use crate::traffic::{Cancel, Outcome};

/// A generator of the `SplitMix64` kind.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// From `least` up to and including `most`.
    pub fn within(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// The client writes the beginning of a request.
    Ask(u32),
    /// The client writes more of it.
    Body(u32),
    /// The server writes.
    Write(u32, DownFacts),
    /// The server writes what ends its response, apart from its tokens.
    Done(u32),
    /// Nothing has happened for a while.
    Quiet,
    /// The client closes; with RST if true.
    ClientGone(bool),
    /// The server closes.
    ServerGone,
}

/// An act and its time since the beginning.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub at_ns: u64,
    pub act: Act,
}

/// What is true of one exchange.
#[derive(Clone, Debug)]
pub struct Truth {
    pub outcome: Outcome,
    pub cancel: Option<Cancel>,
    /// From the last byte of the request to the first one of the response.
    pub first_byte_ns: Option<u64>,
    pub first_token_ns: Option<u64>,
    pub gaps_ns: Vec<u64>,
    pub request_bytes: u64,
}

/// A schedule.
#[derive(Default)]
pub struct Schedule {
    pub moments: Vec<Moment>,
    pub truths: Vec<Truth>,
    now: u64,
}

/// How an exchange is to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// All of it is written; in a write of its own if true.
    Complete(bool),
    CancelInPrefill(bool),
    CancelInDecode(bool),
    NoResponse,
    Truncated,
}

impl Schedule {
    /// Of `exchanges` at most, on a connection whose plaintext is not seen if `tls`.
    pub fn new(seed: u64, exchanges: u64, tls: bool) -> Self {
        let mut random = Random(seed);
        let mut schedule = Self {
            now: 5 * MS,
            ..Self::default()
        };
        for left in (0..exchanges).rev() {
            let ending = match random.within(0, 19) {
                0 => Ending::CancelInPrefill(random.chance(50)),
                1 | 2 => Ending::CancelInDecode(random.chance(50)),
                3 => Ending::NoResponse,
                4 => Ending::Truncated,
                // A terminator that nothing shows ends with the next request: there has to be one.
                5..=8 if left > 0 || !tls => Ending::Complete(false),
                _ => Ending::Complete(true),
            };
            schedule.exchange(&mut random, ending, tls);
            if !matches!(ending, Ending::Complete(_)) {
                return schedule;
            }
            schedule.wait(random.within(5, 5_000) * MS, Act::Quiet);
            schedule.now += MS;
        }
        schedule.push(if random.chance(50) {
            Act::ClientGone(false)
        } else {
            Act::ServerGone
        });
        schedule
    }

    fn push(&mut self, act: Act) {
        self.moments.push(Moment { at_ns: self.now, act });
    }

    fn wait(&mut self, ns: u64, act: Act) {
        self.now += ns;
        self.push(act);
    }

    fn exchange(&mut self, random: &mut Random, ending: Ending, tls: bool) {
        let head = random.within(200, 5_000) as u32;
        let body = if random.chance(30) {
            random.within(100, 60_000) as u32
        } else {
            0
        };
        self.push(Act::Ask(head));
        if body > 0 {
            self.wait(random.within(1, 4_000_000), Act::Body(body));
        }
        let sent = self.now;
        let reused = !self.truths.is_empty();
        let mut truth = Truth {
            outcome: Outcome::Success,
            cancel: None,
            first_byte_ns: None,
            first_token_ns: None,
            gaps_ns: Vec::new(),
            request_bytes: u64::from(head + body),
        };
        match ending {
            Ending::CancelInPrefill(reset) => {
                self.wait(random.within(1, 900) * MS, Act::ClientGone(reset));
                (truth.outcome, truth.cancel) = (Outcome::Canceled, Some(Cancel::new(false, reset)));
            }
            Ending::NoResponse => {
                self.wait(random.within(1, 900) * MS, Act::ServerGone);
                truth.outcome = if reused {
                    Outcome::KeepaliveRace
                } else {
                    Outcome::NoResponse
                };
            }
            _ => {
                let early = self.prefill(random, sent, &mut truth);
                self.decode(random, (sent, early), (ending, tls), &mut truth);
            }
        }
        self.truths.push(truth);
    }

    /// What comes before the first token; true if the headers do.
    fn prefill(&mut self, random: &mut Random, sent: u64, truth: &mut Truth) -> bool {
        let early = random.chance(60);
        if early {
            self.wait(random.within(MS / 2, 3 * MS), Act::Write(149, EVENT_STREAM));
            truth.first_byte_ns = Some(self.now - sent);
            match random.within(0, 2) {
                0 => {}
                1 => self.wait(random.within(1_000, 500_000), Act::Write(210, DownFacts::DATA)),
                _ => self.wait(random.within(4, 9) * MS, Act::Write(210, DownFacts::DATA)),
            }
            for _ in 0..random.within(0, 4).saturating_sub(2) {
                self.wait(random.within(1_100, 15_000) * MS, Act::Write(58, HEARTBEAT));
            }
        }
        let just_after_a_heartbeat = early && random.chance(10);
        self.now += if just_after_a_heartbeat {
            600_000
        } else {
            random.within(160, 3_000) * MS
        };
        if just_after_a_heartbeat {
            self.wait(random.within(1_100, 2_000) * MS, Act::Write(58, HEARTBEAT));
            self.now += random.within(100_000, 900_000);
        }
        early
    }

    fn decode(
        &mut self,
        random: &mut Random,
        (sent, early): (u64, bool),
        (ending, tls): (Ending, bool),
        truth: &mut Truth,
    ) {
        let writes = random.within(3, 24);
        let bytes = 250 * random.within(1, 16) as u32;
        let pace = random.within(15, 60) * MS;
        let mut latest = self.now;
        for write in 0..writes {
            let mut act = (bytes, if write == 0 { TOKEN } else { DownFacts::DATA });
            if write == 0 {
                truth.first_token_ns = Some(self.now - sent);
                if !early {
                    truth.first_byte_ns = truth.first_token_ns;
                    act = (bytes + 149, TOKEN.with(EVENT_STREAM));
                }
            } else {
                let gap = pace * random.within(80, 120) / 100;
                if !tls && random.chance(3) {
                    self.now += gap / 2;
                    self.push(Act::Write(58, HEARTBEAT));
                    self.now -= gap / 2;
                }
                self.now += gap;
                truth.gaps_ns.push(self.now - latest);
            }
            latest = self.now;
            if write + 1 == writes && ending == Ending::Complete(false) {
                act = (act.0 + 24, act.1.with(DownFacts::END));
            }
            self.push(Act::Write(act.0, act.1));
        }
        match ending {
            Ending::Complete(true) => {
                self.wait(random.within(1, pace), Act::Write(19, HEARTBEAT));
                self.wait(random.within(1, 900_000), Act::Done(5));
            }
            Ending::CancelInDecode(reset) => {
                self.wait(random.within(1, 2 * pace), Act::ClientGone(reset));
                (truth.outcome, truth.cancel) = (Outcome::Canceled, Some(Cancel::new(true, reset)));
            }
            Ending::Truncated => {
                self.wait(random.within(1, 2 * pace), Act::ServerGone);
                truth.outcome = Outcome::Truncated;
            }
            _ => {}
        }
    }
}
