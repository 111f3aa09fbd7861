// SPDX-License-Identifier: Apache-2.0
//! What a model server knows of its exchanges: the lines of `model-server --truth FILE`, to compare the meter with.
//!
//! Written by [`crate::model_server`], read by tests. Every stamp is nanoseconds of `CLOCK_MONOTONIC`; that of a write was taken
//! right before its system call. Bytes are those of the socket: with TLS, of its records. Invariant: a request to `/v1/` whose
//! head arrived whole has exactly one line, written when it ended.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::journal;

/// One request and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// The header `x-request-id`, by which a line of the client's log finds its line here.
    pub id: Option<String>,
    /// Path of the request.
    pub path: String,
    /// The client.
    pub peer: SocketAddr,
    /// The address that the client reached.
    pub local: SocketAddr,
    /// 1 for the first request of a connection; requests outside `/v1/` do not count.
    pub sequence: u64,
    /// `1.2` or `1.3`; none without TLS.
    pub tls: Option<String>,
    /// The request came together with one before it. The bytes and the times of its arrival are then not told apart:
    /// `request_bytes` counts with the earlier one, and the times are those of the read that brought its end.
    pub pipelined: bool,
    /// The status of the response, if there was one.
    pub status: Option<u16>,
    /// The first byte of the request was read.
    pub request_first_ns: u64,
    /// The last byte of the request was read; none if the exchange ended before the server had taken it.
    pub request_last_ns: Option<u64>,
    /// `100 Continue` was written.
    pub interim_ns: Option<u64>,
    /// The first byte of the response was written.
    pub first_byte_ns: Option<u64>,
    /// The first token was written; for an answer that is no stream, the start of its body.
    pub first_token_ns: Option<u64>,
    /// The writes that carried tokens, in order; the first of them is `first_token_ns`.
    pub emissions_ns: Vec<u64>,
    /// The writes that carried a heartbeat, in order.
    pub heartbeats_ns: Vec<u64>,
    /// System calls that wrote something.
    pub writes: u64,
    /// The latest write; that of the end marker if the exchange is complete.
    pub last_write_ns: Option<u64>,
    /// The client's FIN or RST was noticed.
    pub client_left_ns: Option<u64>,
    /// `last_write_ns` of a complete exchange; else when the server gave it up.
    pub ended_ns: u64,
    /// Read from the socket for this request.
    pub request_bytes: u64,
    /// Written to the socket, `100 Continue` included.
    pub response_bytes: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The response was written whole.
    Complete,
    /// The response was written whole, although the client had shut its side down before.
    HalfClose,
    /// The client gave up with a FIN.
    ClientFin,
    /// The client gave up with a RST.
    ClientRst,
    /// The server closed with a FIN before the response was whole.
    ServerFin,
    /// The server closed with a RST before the response was whole.
    ServerRst,
}

/// How far an exchange was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// No byte of the response had been written.
    Prefill,
    /// Some had.
    Decode,
}

impl Exchange {
    /// From the last byte of the request to the first of the response.
    pub fn ttfb(&self) -> Option<Duration> {
        self.since_request(self.first_byte_ns)
    }

    /// From the last byte of the request to the first token.
    pub fn ttft(&self) -> Option<Duration> {
        self.since_request(self.first_token_ns)
    }

    /// Times between one write with tokens and the next.
    pub fn gaps(&self) -> Vec<Duration> {
        gaps(&self.emissions_ns)
    }

    /// [`Self::gaps`] after every write that follows the one before it by less than `within` was counted to that one.
    pub fn gaps_merging(&self, within: Duration) -> Vec<Duration> {
        let within = u64::try_from(within.as_nanos()).unwrap_or(u64::MAX);
        let mut starts: Vec<u64> = Vec::with_capacity(self.emissions_ns.len());
        let mut previous = None;
        for &write in &self.emissions_ns {
            if previous.is_none_or(|previous| write - previous >= within) {
                starts.push(write);
            }
            previous = Some(write);
        }
        gaps(&starts)
    }

    /// From the first byte of the request to the end.
    pub fn duration(&self) -> Duration {
        span(self.request_first_ns, self.ended_ns)
    }

    /// Whether the client got all of the response.
    pub fn is_complete(&self) -> bool {
        matches!(self.outcome, Outcome::Complete | Outcome::HalfClose)
    }

    /// How far it was when the client left, or else when it ended.
    pub fn phase(&self) -> Phase {
        let end = self.client_left_ns.unwrap_or(self.ended_ns);
        match self.first_byte_ns {
            Some(first_byte) if first_byte <= end => Phase::Decode,
            _ => Phase::Prefill,
        }
    }

    fn since_request(&self, moment: Option<u64>) -> Option<Duration> {
        Some(span(self.request_last_ns?, moment?))
    }
}

impl Outcome {
    /// Whether the client gave up.
    pub fn is_cancel(self) -> bool {
        matches!(self, Self::ClientFin | Self::ClientRst)
    }

    /// Whether the server broke it off.
    pub fn is_truncation(self) -> bool {
        matches!(self, Self::ServerFin | Self::ServerRst)
    }
}

/// The exchanges that have ended so far.
pub fn read(path: &Path) -> Result<Vec<Exchange>> {
    journal::read(path)
}

fn gaps(moments: &[u64]) -> Vec<Duration> {
    moments.windows(2).map(|pair| span(pair[0], pair[1])).collect()
}

fn span(from: u64, to: u64) -> Duration {
    Duration::from_nanos(to.saturating_sub(from))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Exchange, Outcome, Phase};

    const MS: u64 = 1_000_000;

    fn exchange() -> Exchange {
        let address = "127.0.0.1:80".parse().expect("an address");
        Exchange {
            id: None,
            path: "/v1/completions".into(),
            peer: address,
            local: address,
            sequence: 1,
            tls: None,
            pipelined: false,
            status: Some(200),
            request_first_ns: 10 * MS,
            request_last_ns: Some(12 * MS),
            interim_ns: None,
            first_byte_ns: Some(13 * MS),
            first_token_ns: Some(112 * MS),
            emissions_ns: [112 * MS, 132 * MS, 132 * MS + 1, 153 * MS].into(),
            heartbeats_ns: Vec::new(),
            writes: 6,
            last_write_ns: Some(154 * MS),
            client_left_ns: None,
            ended_ns: 154 * MS,
            request_bytes: 1,
            response_bytes: 1,
            outcome: Outcome::Complete,
        }
    }

    #[test]
    fn times_count_from_the_last_byte_of_the_request() {
        let ms = Duration::from_millis;
        let exchange = exchange();
        assert_eq!((exchange.ttfb(), exchange.ttft()), (Some(ms(1)), Some(ms(100))));
        assert_eq!(exchange.duration(), ms(144));
        let nano = Duration::from_nanos(1);
        let rest = Duration::from_nanos(21 * MS - 1);
        assert_eq!(exchange.gaps(), [ms(20), nano, rest]);
        assert_eq!(exchange.gaps_merging(ms(1)), [ms(20), ms(21)]);
        let unread = Exchange {
            request_last_ns: None,
            ..exchange
        };
        assert_eq!(unread.ttft(), None);
    }

    #[test]
    fn the_phase_is_that_of_the_moment_when_the_client_left() {
        let cancelled = |left| Exchange {
            client_left_ns: left,
            outcome: Outcome::ClientFin,
            ..exchange()
        };
        assert_eq!(
            cancelled(Some(12 * MS)).phase(),
            Phase::Prefill,
            "the first byte was written to nobody"
        );
        assert_eq!(cancelled(Some(14 * MS)).phase(), Phase::Decode);
        assert_eq!(cancelled(None).phase(), Phase::Decode);
        assert_eq!(
            Exchange {
                first_byte_ns: None,
                ..exchange()
            }
            .phase(),
            Phase::Prefill
        );
    }

    #[test]
    fn a_line_reads_back_as_it_was_written() {
        let line = serde_json::to_string(&exchange()).unwrap();
        assert_eq!(serde_json::from_str::<Exchange>(&line).unwrap(), exchange());
        assert!(line.contains(r#""outcome":"complete""#), "{line}");
    }
}
