// SPDX-License-Identifier: Apache-2.0
//! The shapes of an answer that times are compared of.

/// How a server answers and a client asks.
pub struct Shape {
    pub name: &'static str,
    server: &'static str,
    client: &'static str,
    /// The answer is one object of a known length.
    pub whole: bool,
}

const fn stream(name: &'static str, server: &'static str, client: &'static str) -> Shape {
    Shape {
        name,
        server,
        client,
        whole: false,
    }
}

/// Clients keep their connection for this many requests, and let up to a few tokens' time go by between two.
const KEEP: &str = "--max-tokens 12 --mode keep-alive --requests-per-connection 5 --keep-alive-gap 1ms..40ms";

/// The client closes: two writes of a tail and the goodbye of TLS, read at once, would be as large as a token.
const CLOSE: &str = "--max-tokens 12 --mode keep-alive --requests-per-connection 1";

pub const SHAPES: [Shape; 11] = [
    stream("plain SSE", "--inter-token 30ms", "--max-tokens 12"),
    stream(
        "early headers",
        "--inter-token 30ms --early-headers=headers",
        "--max-tokens 12",
    ),
    stream(
        "role prelude",
        "--inter-token 30ms --early-headers=prelude",
        "--max-tokens 12",
    ),
    stream(
        "heartbeats",
        "--inter-token 30ms --early-headers=headers --heartbeat 47ms",
        "--max-tokens 12",
    ),
    stream(
        "4 tokens per write",
        "--inter-token 10ms --tokens-per-write 4 --early-headers=headers",
        "--max-tokens 41",
    ),
    stream(
        "16 tokens per write",
        "--inter-token 4ms --tokens-per-write 16",
        "--max-tokens 113",
    ),
    stream(
        "tail with the last token",
        "--inter-token 30ms --tail coalesced",
        "--max-tokens 12",
    ),
    stream("tail in two writes", "--inter-token 30ms --tail split", CLOSE),
    stream("kept connections", "--inter-token 30ms", KEEP),
    stream(
        "kept connections, role prelude, heartbeats",
        "--inter-token 30ms --early-headers=prelude --heartbeat 80ms --tail split",
        KEEP,
    ),
    Shape {
        name: "whole reply",
        server: "--inter-token 10ms --whole",
        client: "--max-tokens 12",
        whole: true,
    },
];

impl Shape {
    /// Flags of `model-server`. A prefill long beside what a busy machine takes to send headers: under TLS the meter has nothing but
    /// gaps to tell them from a token.
    pub fn server(&self) -> String {
        format!("--prefill 250ms --max-num-seqs 1000 {}", self.server)
    }

    /// Flags of `load-client` for this many requests.
    pub fn client(&self, requests: usize, concurrency: usize) -> String {
        format!(
            "--requests {requests} --concurrency {concurrency} --ramp 200ms {}",
            self.client
        )
    }
}
