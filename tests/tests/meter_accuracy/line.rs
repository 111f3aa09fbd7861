// SPDX-License-Identifier: Apache-2.0
//! Lines of the agent's access log, as far as they are compared with something.

use std::{net::SocketAddr, time::Duration};

use nodemesh_agent::api::Vantage;
use serde::Deserialize;

/// A line.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    kind: String,
    pub backend: SocketAddr,
    pub vantage: Vantage,
    pub protocol: String,
    pub client: SocketAddr,
    pub outcome: Option<String>,
    pub cancel: Option<String>,
    pub started_monotonic_ns: u64,
    time_to_first_byte_seconds: Option<f64>,
    time_to_first_token_seconds: Option<f64>,
    pub chunks: Option<u64>,
}

impl Line {
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// About a request, and not about a connection.
    pub fn is_request(&self) -> bool {
        self.kind == "request"
    }

    /// Outcome, and how the client gave up if it did.
    pub fn ending(&self) -> (&str, Option<&str>) {
        (self.outcome.as_deref().unwrap_or("none"), self.cancel.as_deref())
    }

    pub fn ttfb(&self) -> Option<Duration> {
        self.time_to_first_byte_seconds.map(Duration::from_secs_f64)
    }

    pub fn ttft(&self) -> Option<Duration> {
        self.time_to_first_token_seconds.map(Duration::from_secs_f64)
    }
}
