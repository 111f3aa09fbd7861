// SPDX-License-Identifier: Apache-2.0
//! What a client saw of its exchanges: the lines of `load-client --log FILE`, which [`crate::truth`] has the other side of.
//!
//! Written by `request`, read by tests. Stamps are nanoseconds of `CLOCK_MONOTONIC`; that of an arrival was taken right
//! after the system call that read it, that of a write right before. Bytes are those of the socket: with TLS, of its records.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::cancel::How;
use super::tally::Failure;
use crate::journal;

/// One request that was sent, at least in part, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Sent as `x-request-id`; unique in the run.
    pub id: String,
    /// The address of this end.
    pub source: SocketAddr,
    /// What `getpeername()` says.
    pub peer: SocketAddr,
    /// The address that was dialled.
    pub dialled: SocketAddr,
    /// 1 for the first request of a connection.
    pub sequence: u64,
    /// `x-replica` of the response.
    pub replica: Option<String>,
    /// Sent before the response to the request ahead of it had come. Bytes of responses that came in one read count with the
    /// first of them.
    pub pipelined: bool,
    /// The first write of the request.
    pub request_first_ns: u64,
    /// The last write of the request; none if it failed.
    pub request_last_ns: Option<u64>,
    /// `100 Continue` came.
    pub interim_ns: Option<u64>,
    /// The first byte of the response came.
    pub first_byte_ns: Option<u64>,
    /// The first token came; for an answer that is no stream, the start of its body.
    pub first_token_ns: Option<u64>,
    /// The reads that brought tokens, in order; the first of them is `first_token_ns`.
    pub emissions_ns: Vec<u64>,
    /// Chunks with text, or tokens that an answer without stream reports.
    pub tokens: u64,
    /// The status of the response, if there was one.
    pub status: Option<u16>,
    /// Written to the socket.
    pub request_bytes: u64,
    /// Read from the socket, `100 Continue` included.
    pub response_bytes: u64,
    /// How it was given up, if it was, and when.
    pub cancel: Option<(How, u64)>,
    /// The last byte of the response came, or the exchange ended otherwise.
    pub ended_ns: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Complete and correct, also after a half-close.
    Ok,
    /// Given up on purpose.
    Cancelled,
    /// Failed.
    Failed(Failure),
    /// Cut at the end of the run.
    Aborted,
}

impl Observation {
    /// From the last write of the request to the first byte of the response.
    pub fn ttfb(&self) -> Option<Duration> {
        self.since_request(self.first_byte_ns)
    }

    /// From the last write of the request to the first token.
    pub fn ttft(&self) -> Option<Duration> {
        self.since_request(self.first_token_ns)
    }

    /// Times between one read that brought tokens and the next.
    pub fn gaps(&self) -> Vec<Duration> {
        let pairs = self.emissions_ns.windows(2);
        pairs
            .map(|pair| Duration::from_nanos(pair[1] - pair[0]))
            .collect()
    }

    fn since_request(&self, moment: Option<u64>) -> Option<Duration> {
        Some(Duration::from_nanos(
            moment?.saturating_sub(self.request_last_ns?),
        ))
    }
}

/// The exchanges that have ended so far.
pub fn read(path: &Path) -> Result<Vec<Observation>> {
    journal::read(path)
}
