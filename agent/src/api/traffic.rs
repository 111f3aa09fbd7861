// SPDX-License-Identifier: Apache-2.0
//! The raw counters of the meter, from which rates and quantiles over any interval can be computed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Vantage;

/// Answer of `GET /v1/traffic`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TrafficReport {
    /// When the counters were read: nanoseconds of `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
    /// Upper bounds, inclusive, of the histograms' buckets.
    pub bounds: HistogramBounds,
    /// One for each backend and vantage that has had a connection, and one for all that share a row.
    pub rows: Vec<Traffic>,
}

/// Upper bounds of the histograms in [`Traffic`]; each histogram has one more bucket, without a bound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistogramBounds {
    /// Of the time to first byte and to first token, seconds.
    pub first_seconds: Vec<f64>,
    /// Of inter-token latency, seconds.
    pub gap_seconds: Vec<f64>,
    /// Of stream duration, seconds.
    pub duration_seconds: Vec<f64>,
    /// Of request and response size, bytes.
    pub size_bytes: Vec<f64>,
    /// Of the round-trip time, seconds.
    pub rtt_seconds: Vec<f64>,
}

/// A histogram.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Observations per bucket, not cumulative.
    pub counts: Vec<u64>,
    /// Sum of the observations, in the unit of the bounds.
    pub sum: f64,
}

/// What was counted of one backend from one vantage, since the row was given to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Traffic {
    /// `namespace/name` of the service; `other` for the backends that share a row.
    pub service: String,
    /// Address of the backend; `other` for those that share a row.
    pub backend: String,
    /// Which end was observed.
    pub vantage: Vantage,
    /// Model that the service's replicas serve.
    pub model: Option<String>,
    /// Requests that have begun and not ended.
    pub requests_in_flight: u64,
    /// Bytes of these requests.
    pub request_bytes_in_flight: u64,
    /// Open requests that have been silent for too long.
    pub stalled_streams: u64,
    /// Seconds since the latest byte of the open request that has been silent for longest; 0 without one.
    pub last_byte_age_seconds: f64,
    /// Open connections.
    pub open_connections: u64,
    /// Connections, ever.
    pub connections_total: u64,
    /// Bytes in request direction, ever.
    pub request_bytes_total: u64,
    /// Bytes in response direction, ever.
    pub response_bytes_total: u64,
    /// Finished requests by outcome.
    pub requests: BTreeMap<String, u64>,
    /// Requests that the client gave up, by `prefill` or `decode` and `fin` or `rst`.
    pub cancels: BTreeMap<String, u64>,
    /// Emissions of streamed responses, from the first token on.
    pub chunks: u64,
    /// Sockets whose requests could not be told apart.
    pub ambiguous_sockets: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// From the last byte of the request to the first byte of the response.
    pub time_to_first_byte: Histogram,
    /// From the last byte of the request to the first token of the response.
    pub time_to_first_token: Histogram,
    /// Between two emissions, from the first token on.
    pub inter_token_latency: Histogram,
    /// From the first byte of the request to the last of the response.
    pub stream_duration: Histogram,
    /// Bytes of a request.
    pub request_size: Histogram,
    /// Bytes of a response.
    pub response_size: Histogram,
    /// Smoothed round-trip time at the end of each request.
    pub rtt: Histogram,
}
