// SPDX-License-Identifier: Apache-2.0
//! What a server or client says of its own requests, which is what the meter must find out without asking.
//!
//! Read from the JSON lines of the scripts (`tests/real/truth.py`). Times are nanoseconds of `CLOCK_MONOTONIC`. Invariant: the
//! exchanges are in the order of their numbers, and a line that belongs to none fails the test.

use std::{collections::BTreeMap, ops::RangeInclusive};

use serde::Deserialize;

/// Writes that are certainly one emission for the meter, which draws the line at 1 ms.
const SURELY_ONE_NS: u64 = 500_000;
/// Writes that are certainly two.
const SURELY_TWO_NS: u64 = 2_000_000;

#[derive(Debug, Deserialize)]
struct Line {
    request: u64,
    at: u64,
    #[serde(flatten)]
    event: Event,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event {
    Request {
        peer: Option<String>,
    },
    RequestRead,
    FirstByte {
        local: Option<String>,
    },
    #[serde(alias = "chunk")]
    Send(Part),
    Disconnect,
    End {
        outcome: String,
    },
    Idle,
}

/// What a part of a response is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Status line and headers.
    Headers,
    /// The chunk that names the role.
    Role,
    /// A comment that keeps the connection alive.
    Heartbeat,
    /// Text.
    Token,
    /// The chunk that says why the text ends.
    Finish,
    /// The end marker.
    Done,
    /// An answer in one piece.
    Body,
    /// Anything else that a client read.
    Other,
}

/// A part of a response.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Part {
    /// Right before it was written, or when it had been read.
    #[serde(skip)]
    pub at_ns: u64,
    /// What it is.
    pub kind: Kind,
    /// Its length, without framing.
    pub bytes: u64,
}

/// A request and its response, as one side saw them.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    /// When the request was about to be sent, or had been seen.
    pub requested_ns: u64,
    /// When a server had read all of it.
    pub read_ns: Option<u64>,
    /// When a client had the headers.
    pub first_byte_ns: Option<u64>,
    /// Parts of the response, in order.
    pub parts: Vec<Part>,
    /// When it ended, and how: `ok`, or a word of the library.
    pub ended: Option<(u64, String)>,
    /// Whether the server was told that the client had gone, which it is also after the end.
    pub disconnected: bool,
    /// The client's address: of the peer at a server, its own at a client.
    pub client: Option<String>,
}

impl Exchange {
    /// When the first token was written or read.
    pub fn first_token_ns(&self) -> Option<u64> {
        self.of(Kind::Token).next().map(|part| part.at_ns)
    }

    /// From the request to the first token.
    pub fn time_to_first_token_ns(&self) -> u64 {
        let first = self
            .first_token_ns()
            .unwrap_or_else(|| panic!("no token: {self:?}"));
        first - self.read_ns.unwrap_or(self.requested_ns)
    }

    /// From the request to the first part of the response.
    pub fn time_to_first_byte_ns(&self) -> u64 {
        let first = self.first_byte_ns.or(self.parts.first().map(|part| part.at_ns));
        first.unwrap_or_else(|| panic!("no response: {self:?}")) - self.read_ns.unwrap_or(self.requested_ns)
    }

    /// The parts of this kind.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(move |part| part.kind == kind)
    }

    /// Parts with text.
    pub fn tokens(&self) -> usize {
        self.of(Kind::Token).count()
    }

    /// How it ended; nothing if it did not.
    pub fn outcome(&self) -> Option<&str> {
        self.ended.as_ref().map(|(_, outcome)| &**outcome)
    }

    /// How many emissions there are from the first token on. More than one number if writes came so close to the 1 ms at which
    /// they become another emission that a clock beside them cannot tell.
    pub fn emissions(&self) -> RangeInclusive<u64> {
        let written: Vec<&Part> = self
            .parts
            .iter()
            .skip_while(|part| part.kind != Kind::Token)
            .collect();
        let mut count = (u64::from(!written.is_empty()), u64::from(!written.is_empty()));
        for pair in written.windows(2) {
            let gap = pair[1].at_ns - pair[0].at_ns;
            // The end marker alone is no emission, if it is known for what it is.
            count.0 += u64::from(gap > SURELY_TWO_NS && pair[1].kind != Kind::Done);
            count.1 += u64::from(gap > SURELY_ONE_NS);
        }
        count.0..=count.1
    }
}

/// All requests of a server or client.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// In the order of their numbers.
    pub exchanges: Vec<Exchange>,
}

impl Truth {
    /// From what a script printed; lines that are no JSON object are left out.
    pub fn of(lines: &[String]) -> Self {
        let mut exchanges: BTreeMap<u64, Exchange> = BTreeMap::new();
        for line in lines.iter().filter(|line| line.starts_with('{')) {
            let line: Line = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if let Event::Request { peer } = line.event {
                let requested = Exchange {
                    requested_ns: line.at,
                    client: peer,
                    ..Exchange::default()
                };
                assert!(
                    exchanges.insert(line.request, requested).is_none(),
                    "request {} twice",
                    line.request
                );
            } else if !matches!(line.event, Event::Idle) {
                let exchange = exchanges.get_mut(&line.request);
                exchange
                    .expect("its request is logged first")
                    .take(line.at, line.event);
            }
        }
        Self {
            exchanges: exchanges.into_values().collect(),
        }
    }

    /// The only exchange.
    #[track_caller]
    pub fn only(&self) -> &Exchange {
        assert_eq!(self.exchanges.len(), 1, "{self:#?}");
        &self.exchanges[0]
    }

    /// How many exchanges ended this way.
    pub fn ended_with(&self, outcome: &str) -> usize {
        self.exchanges
            .iter()
            .filter(|exchange| exchange.outcome() == Some(outcome))
            .count()
    }

    /// How many different connections there were.
    pub fn connections(&self) -> usize {
        let mut clients: Vec<_> = self
            .exchanges
            .iter()
            .filter_map(|one| one.client.as_ref())
            .collect();
        clients.sort_unstable();
        clients.dedup();
        clients.len()
    }
}

impl Exchange {
    fn take(&mut self, at: u64, event: Event) {
        match event {
            Event::Request { .. } | Event::Idle => unreachable!("has no part in an exchange"),
            Event::RequestRead => self.read_ns = Some(at),
            Event::FirstByte { local } => {
                self.first_byte_ns = Some(at);
                self.client = local;
            }
            Event::Send(part) => self.parts.push(Part { at_ns: at, ..part }),
            Event::Disconnect => self.disconnected = true,
            Event::End { outcome } => self.ended = Some((at, outcome)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(gaps_us: &[(u64, &str)]) -> Exchange {
        let mut at = 1_000_000_000;
        let mut lines = vec![format!(r#"{{"event": "request", "request": 0, "at": {at}}}"#)];
        for (gap, kind) in gaps_us {
            at += gap * 1_000;
            lines.push(format!(
                r#"{{"event": "send", "request": 0, "at": {at}, "kind": "{kind}", "bytes": 9}}"#
            ));
        }
        Truth::of(&lines).only().clone()
    }

    #[test]
    fn emissions_are_counted_from_the_first_token_with_their_doubt() {
        let headers = [(1_000, "headers"), (50, "role"), (300_000, "token")];
        for (name, more, expected) in [
            ("one token", &[][..], 1..=1),
            ("a marker at once", &[(30, "finish"), (20, "done")], 1..=1),
            (
                "steady tokens",
                &[(20_000, "token"), (20_000, "token"), (30, "done")],
                3..=3,
            ),
            ("in doubt", &[(900, "token")], 1..=2),
            ("a marker by itself", &[(20_000, "done")], 1..=2),
        ] {
            let exchange = written(&[&headers[..], more].concat());
            assert_eq!(exchange.emissions(), expected, "{name}");
            assert_eq!(exchange.time_to_first_token_ns(), 301_050_000, "{name}");
            assert_eq!(exchange.time_to_first_byte_ns(), 1_000_000, "{name}");
        }
        assert_eq!(written(&headers[..2]).emissions(), 0..=0);
    }
}
