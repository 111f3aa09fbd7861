// SPDX-License-Identifier: Apache-2.0
//! One connection, and what may be asked of the list of them.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// One connection, in the answer of `GET /v1/connections`. The bytes are those of the connection, TLS and framing included.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// `namespace/name` of the service; the address that was dialled if the service is gone.
    pub service: String,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// The client's end; absent until established.
    pub client: Option<String>,
    /// Workload of the client, if one is configured for its cgroup.
    pub client_workload: Option<String>,
    /// Id of the client's cgroup; 0 at the server's vantage.
    pub client_cgroup: u64,
    /// Process that connected, in the initial pid namespace; 0 at the server's vantage.
    pub client_pid: u32,
    /// What the client dialled; at the server's vantage, where that is not known, the backend's address.
    pub service_address: String,
    /// Where it was sent.
    pub backend: String,
    /// `connecting` or `established`; on the packet path the state of the flow, such as `syn_sent` or `time_wait`.
    pub state: String,
    /// Seconds since `connect()`, or since it was accepted.
    pub age_seconds: f64,
    /// Which end is a socket of this node: `client` or `server`. A connection within the node is listed once for each. `node` for a flow
    /// whose packets this node translates; of its sockets nothing is known.
    pub vantage: Vantage,
    /// How it reaches its backend.
    #[serde(default)]
    pub path: Path,
    /// The client as the backend sees it, on the packet path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_as: Option<String>,
    /// What travels on it: `unknown`, `http1`, `tls`, `http2`, `tls_http2` or `other`.
    pub wire: String,
    /// State of the socket, as `ss` names it.
    pub tcp_state: String,
    /// Whether it is older than the meter and had no request since: the first one is counted and not timed.
    pub adopted: bool,
    /// What it is doing.
    pub phase: Phase,
    /// Requests that have begun and not ended.
    pub requests_in_flight: u32,
    /// Requests that have ended on this connection.
    pub requests_total: u32,
    /// Whether an open request has been silent for longer than its backend's usual pace allows.
    pub stalled: bool,
    /// Seconds since the open request began; absent without one and for HTTP/2.
    pub request_age_seconds: Option<f64>,
    /// Seconds since the latest byte in either direction; absent before the first.
    pub quiet_seconds: Option<f64>,
    /// Bytes in request direction.
    pub request_bytes: u64,
    /// Bytes in response direction.
    pub response_bytes: u64,
    /// Bytes that have arrived and that the application has not read.
    pub unread_bytes: u32,
    /// Smoothed round-trip time; absent before the first sample and for UDP.
    pub rtt_seconds: Option<f64>,
    /// Segments sent again.
    pub retransmits: u32,
    /// Cookie of the socket, as in the access log and in `ss -e`.
    pub cookie: u64,
}

/// Which end of a connection is observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Vantage {
    /// A socket of this node that was placed on a backend.
    Client,
    /// A socket that a backend of this node accepted.
    Server,
    /// No socket: packets that this node translates.
    Node,
}

impl Vantage {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => nodemesh_abi::Vantage::Client.label(),
            Self::Server => nodemesh_abi::Vantage::Server.label(),
            Self::Node => "node",
        }
    }
}

impl From<nodemesh_abi::Vantage> for Vantage {
    fn from(vantage: nodemesh_abi::Vantage) -> Self {
        match vantage {
            nodemesh_abi::Vantage::Client => Self::Client,
            nodemesh_abi::Vantage::Server => Self::Server,
        }
    }
}

/// How a connection reaches its backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// A socket, placed when it connected.
    #[default]
    Socket,
    /// Packets, translated on their way.
    Packet,
}

impl Path {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Packet => "packet",
        }
    }
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// No request is open.
    Idle,
    /// A request is open whose response has not begun.
    Request,
    /// A response is on its way.
    Stream,
    /// HTTP/2 with open streams.
    Streams,
    /// Requests cannot be told apart.
    Opaque,
}

impl Phase {
    /// The phase of a meter with `open` requests.
    pub fn of(phase: nodemesh_abi::Phase, open: u32) -> Self {
        use nodemesh_abi::Phase as Kernel;
        match phase {
            Kernel::Request => Self::Request,
            Kernel::Response => Self::Stream,
            Kernel::Opaque => Self::Opaque,
            Kernel::Streams if open > 0 => Self::Streams,
            Kernel::Fresh | Kernel::Idle | Kernel::Tail | Kernel::Streams => Self::Idle,
        }
    }

    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Request => "request",
            Self::Stream => "stream",
            Self::Streams => "streams",
            Self::Opaque => "opaque",
        }
    }
}

/// What a list of connections is sorted by; the largest comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Sort {
    /// Time since it was opened.
    #[default]
    Age,
    /// Bytes in both directions.
    Bytes,
    /// Time since the latest byte.
    Quiet,
    /// Age of the open request; connections without one come last.
    Request,
    /// Requests that have ended.
    Requests,
    /// Round-trip time.
    Rtt,
    /// Segments sent again.
    Retransmits,
}

/// Query of `GET /v1/connections`: the filters combine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionQuery {
    /// Only those of this service (`namespace/name`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Only those on this backend (`ip:port`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Only those in this phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Only those seen from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vantage: Option<Vantage>,
    /// Only those that reach their backends so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Path>,
    /// Only those that were opened more than so many seconds ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than: Option<f64>,
    /// Only those with a stalled request.
    #[serde(default)]
    pub stalled: bool,
    /// Order.
    #[serde(default)]
    pub sort: Sort,
    /// Only the first so many in that order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// One JSON object per line instead of an array.
    #[serde(default)]
    pub lines: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_open_streams_make_http2_busy() {
        use nodemesh_abi::Phase as Kernel;
        for (phase, open, expected) in [
            (Kernel::Fresh, 0, Phase::Idle),
            (Kernel::Tail, 0, Phase::Idle),
            (Kernel::Request, 1, Phase::Request),
            (Kernel::Response, 1, Phase::Stream),
            (Kernel::Opaque, 0, Phase::Opaque),
            (Kernel::Streams, 0, Phase::Idle),
            (Kernel::Streams, 2, Phase::Streams),
        ] {
            assert_eq!(Phase::of(phase, open), expected, "{phase:?} with {open} open");
        }
    }

    #[test]
    fn what_is_not_asked_for_is_not_in_the_query() {
        let query = ConnectionQuery {
            phase: Some(Phase::Stream),
            older_than: Some(1.5),
            ..ConnectionQuery::default()
        };
        let text = serde_urlencoded::to_string(&query).unwrap();
        assert_eq!(
            text,
            "phase=stream&older_than=1.5&stalled=false&sort=age&lines=false"
        );
        let back: ConnectionQuery = serde_urlencoded::from_str("phase=stream&sort=rtt").unwrap();
        assert_eq!(
            (back.phase, back.sort, back.lines),
            (Some(Phase::Stream), Sort::Rtt, false)
        );
    }
}
