// SPDX-License-Identifier: Apache-2.0
//! Whether a backend is wedged: it has begun to answer several clients and sends none of them anything, or reads nothing of what they
//! sent. Pure: what is seen in one pass goes in, with the time; a verdict comes out.
//!
//! Evidence is a stream that has begun to emit and is silent for longer than the backend's own pace allows, or, on the backend's node, a
//! connection whose bytes the server leaves unread while it works on nothing. A request in prefill is no evidence, however long it takes; a
//! backend without requests shows none. One stream that emits, or one that begins to, proves the backend alive. Nothing else does: that
//! requests are read, headers sent and `/health` answered is the doing of a front that may have lost its engine.
//! Invariant: a verdict needs the word of every stream that has begun, and of as many as the policy asks for.

use std::{collections::HashMap, time::Duration};

use nodemesh_abi::{ListedConnection, Phase, Protocol, Vantage};

/// So many times the 99th percentile of the gaps between emissions may pass.
const GAPS: u64 = 10;
/// What a stream is given if nothing is known of its backend's pace.
const UNKNOWN_PACE_NS: u64 = 10_000_000_000;
/// Least time that the server leaves bytes unread before that means anything.
const LEAST_UNREAD_NS: u64 = 3_000_000_000;

/// What a connection shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It has an open stream that has begun to emit; the latest byte came at this time.
    Stream(u64),
    /// It has requests that the server works on, as far as is known.
    Busy,
    /// The server has not read what came, and works on nothing else of this connection.
    Unread {
        /// Bytes that it read before, ever.
        up: u64,
    },
}

impl Sign {
    /// What `listed` shows; `None` if it tells nothing.
    pub fn of(listed: &ListedConnection) -> Option<Self> {
        let (connection, meter) = (&listed.connection, &listed.connection.meter);
        if connection.protocol != Protocol::Tcp as u16 {
            return None;
        }
        let is_server = Vantage::from_raw(meter.vantage) == Vantage::Server;
        if meter.open == 0 {
            let is_unread = is_server && listed.unread > 0;
            return is_unread.then_some(Self::Unread { up: meter.bytes_up });
        }
        let phase = Phase::from_raw(meter.phase);
        if phase == Phase::Response && meter.exchange.first_token_ns != 0 {
            // A client that does not read what came is silent by its own doing.
            let is_slow = !is_server && listed.unread > 0;
            return (!is_slow).then_some(Self::Stream(meter.last_ns));
        }
        Some(Self::Busy)
    }
}

/// A connection of a backend, in one pass.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Its cookie.
    pub cookie: u64,
    /// At which end it was seen.
    pub vantage: Vantage,
    /// What it shows.
    pub sign: Sign,
}

/// What was ever counted of a backend, at the end that is nearer to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Answers whose first token it has sent.
    pub begun: u64,
    /// Bytes that it has read.
    pub read: u64,
}

/// What a backend is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// So many connections must agree.
    pub streams: u32,
    /// Least silence.
    pub minimum: Duration,
    /// 99th percentile of the gaps between its emissions, nanoseconds.
    pub gap_ns: Option<u64>,
}

impl Demand {
    /// How long a stream may be silent, nanoseconds.
    pub fn limit_ns(&self) -> u64 {
        let pace = self
            .gap_ns
            .map_or(UNKNOWN_PACE_NS, |gap| gap.saturating_mul(GAPS));
        pace.max(self.minimum.as_nanos() as u64)
    }

    fn unread_ns(&self) -> u64 {
        let pace = self.gap_ns.unwrap_or_default().saturating_mul(GAPS);
        LEAST_UNREAD_NS.max(pace).max(self.minimum.as_nanos() as u64)
    }
}

/// What is to be done about a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing. It may be found wedged at the given time, if it goes on like that.
    Leave(Option<u64>),
    /// It is wedged: it is to be out.
    Eject,
    /// It emits again.
    Readmit,
}

/// What is remembered of a backend between passes.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Connections with unread bytes: how much had been read when they were first seen so, and when.
    unread: HashMap<u64, (u64, u64)>,
    /// Answers that had begun in the last pass.
    begun: Option<u64>,
    /// When it last emitted something, as far as is known; 0 for never.
    emitted_ns: u64,
    passed_ns: u64,
    out: Option<Out>,
}

/// How a backend was when it was first seen to be out.
#[derive(Clone, Copy, Debug)]
struct Out {
    emitted_ns: u64,
    read: u64,
    /// Whether it had left bytes unread.
    is_unread: bool,
}

impl Memory {
    /// Looks at a backend at `now`; `is_out` if it is ejected for silence.
    pub fn pass(
        &mut self,
        demand: Demand,
        seen: &[Seen],
        progress: Progress,
        is_out: bool,
        now: u64,
    ) -> Verdict {
        let was_unread = !self.unread.is_empty();
        self.note_emissions(seen, progress.begun, now);
        let finding = self.finding(demand, seen, now);
        self.passed_ns = now;
        if !is_out {
            self.out = None;
            return finding;
        }
        let before = *self.out.get_or_insert(Out {
            emitted_ns: self.emitted_ns,
            read: progress.read,
            is_unread: was_unread,
        });
        let emits = self.emitted_ns > before.emitted_ns;
        let reads = before.is_unread && progress.read != before.read && self.unread.is_empty();
        match finding {
            _ if emits => {
                self.out = None;
                Verdict::Readmit
            }
            Verdict::Eject => Verdict::Eject,
            _ if reads => {
                self.out = None;
                Verdict::Readmit
            }
            // Where nothing is left to be seen, the kernel's probe decides.
            Verdict::Leave(_) | Verdict::Readmit => Verdict::Leave(None),
        }
    }

    /// Whether nothing is remembered that matters.
    pub fn is_idle(&self) -> bool {
        self.unread.is_empty() && self.out.is_none()
    }

    /// Notes when the backend emitted last. A stream that has begun and ended between two passes is taken to have done so in the middle.
    fn note_emissions(&mut self, seen: &[Seen], begun: u64, now: u64) {
        if self.begun.is_some_and(|before| before != begun) {
            self.emitted_ns = self.emitted_ns.max(self.passed_ns.midpoint(now));
        }
        self.begun = Some(begun);
        for one in seen {
            if let Sign::Stream(last_ns) = one.sign {
                self.emitted_ns = self.emitted_ns.max(last_ns);
            }
        }
    }

    fn finding(&mut self, demand: Demand, seen: &[Seen], now: u64) -> Verdict {
        let mut tally = Tally::default();
        let mut former = std::mem::take(&mut self.unread);
        for one in seen {
            let vantage = one.vantage as usize;
            match one.sign {
                Sign::Stream(_) => tally.streams[vantage] += 1,
                Sign::Busy => tally.busy[vantage] = true,
                Sign::Unread { up } => {
                    let (read, since) = former.remove(&one.cookie).unwrap_or((up, now));
                    let since = if read == up { since } else { now };
                    self.unread.insert(one.cookie, (up, since));
                    tally.unread.push(since.saturating_add(demand.unread_ns()));
                }
            }
        }
        let silent_at = match self.emitted_ns {
            0 => 0,
            emitted => emitted.saturating_add(demand.limit_ns()),
        };
        match tally.due(demand.streams as usize, silent_at) {
            Some(due) if due <= now => Verdict::Eject,
            due => Verdict::Leave(due),
        }
    }
}

/// The evidence of one pass.
#[derive(Debug, Default)]
struct Tally {
    /// Streams that have begun, by vantage.
    streams: [usize; 2],
    busy: [bool; 2],
    /// When connections with unread bytes begin to count.
    unread: Vec<u64>,
}

impl Tally {
    /// When `wanted` connections agree, if nothing happens until then; `None` if there are too few. From `silent_at` on the backend has
    /// emitted nothing for too long.
    fn due(mut self, wanted: usize, silent_at: u64) -> Option<u64> {
        // One connection may be seen at both ends. The backend's own node sees those of every client.
        let [client, server] = self.streams;
        let [client_busy, server_busy] = self.busy;
        let is_server = server > 0 || server_busy || !self.unread.is_empty();
        let (streams, is_busy) = if is_server {
            (server, server_busy)
        } else {
            (client, client_busy)
        };
        let Some(more) = wanted.checked_sub(streams).filter(|more| *more > 0) else {
            return Some(silent_at);
        };
        // A server that works on something may have no time to read.
        if is_busy || self.unread.len() < more {
            return None;
        }
        self.unread.sort_unstable();
        Some(silent_at.max(self.unread[more - 1]))
    }
}

#[cfg(test)]
mod tests;
