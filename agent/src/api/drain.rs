// SPDX-License-Identifier: Apache-2.0
//! Drains: how `/v1/drain` is asked, and what it answers.

use serde::{Deserialize, Serialize};

/// Query of `/v1/drain`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainQuery {
    /// `[SERVICE/]BACKEND`.
    pub backend: String,
    /// Take the drain back instead.
    #[serde(default)]
    pub undo: bool,
    /// Answer when the last byte has left, rather than at once. Absent: yes for a GET, no for a POST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<bool>,
    /// Longest wait, as `90s` or `5m`; absent for as long as it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// Answer of `/v1/drain`. With status 504 if the time was over first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Whether nothing is left on any of the backends, and none of them takes new connections.
    pub drained: bool,
    /// The backends that were named, one per service.
    pub backends: Vec<DrainedBackend>,
}

/// A backend of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainedBackend {
    /// `namespace/name`.
    pub service: String,
    /// Its address.
    pub backend: String,
    /// Whether nothing is left on it.
    pub drained: bool,
    /// Open connections and connected UDP sockets: those of this node's clients, or, if it runs on this node, of all clients.
    pub connections: u64,
    /// Requests in flight, likewise.
    pub requests_in_flight: u64,
}
