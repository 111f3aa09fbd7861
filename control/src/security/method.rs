// SPDX-License-Identifier: Apache-2.0
//! The methods of the gRPC API, and what each asks of its caller.
//!
//! Invariant: a method that is not here is for admins only, and has no name of its own in metrics.

use super::role::Need;

/// A method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Path of its requests.
    pub path: &'static str,
    /// What it is called in logs and metrics.
    pub name: &'static str,
    /// Who may call it.
    pub need: Need,
    /// Whether its responses are a stream, which may go on for as long as the client likes.
    pub is_stream: bool,
}

const fn unary(path: &'static str, name: &'static str, need: Need) -> Method {
    Method {
        path,
        name,
        need,
        is_stream: false,
    }
}

const fn stream(path: &'static str, name: &'static str, need: Need) -> Method {
    Method {
        is_stream: true,
        ..unary(path, name, need)
    }
}

/// All of them.
pub const METHODS: [Method; 15] = [
    unary("/nodemesh.v1.Registry/Apply", "Registry/Apply", Need::Write),
    unary("/nodemesh.v1.Registry/Delete", "Registry/Delete", Need::Write),
    unary("/nodemesh.v1.Registry/Get", "Registry/Get", Need::Read),
    unary("/nodemesh.v1.Registry/List", "Registry/List", Need::Read),
    stream("/nodemesh.v1.Registry/Watch", "Registry/Watch", Need::Read),
    unary("/nodemesh.v1.Registry/Nodes", "Registry/Nodes", Need::Read),
    unary("/nodemesh.v1.Registry/Backends", "Registry/Backends", Need::Read),
    unary(
        "/nodemesh.v1.Registry/Register",
        "Registry/Register",
        Need::Register,
    ),
    stream("/nodemesh.v1.Registry/Renew", "Registry/Renew", Need::Register),
    unary(
        "/nodemesh.v1.Registry/Deregister",
        "Registry/Deregister",
        Need::Register,
    ),
    stream("/nodemesh.v1.Node/Report", "Node/Report", Need::Node),
    stream(
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
        "ADS/Delta",
        Need::Node,
    ),
    stream(
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        "ADS/Stream",
        Need::Node,
    ),
    stream(
        "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats",
        "LRS/StreamLoadStats",
        Need::Node,
    ),
    UNKNOWN,
];

/// Every other.
const UNKNOWN: Method = unary("", "unknown", Need::Everything);

impl Method {
    /// The method of requests for `path`.
    pub fn of(path: &str) -> Self {
        let mut methods = METHODS.into_iter();
        methods.find(|method| method.path == path).unwrap_or(UNKNOWN)
    }
}
