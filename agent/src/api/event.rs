// SPDX-License-Identifier: Apache-2.0
//! Events: what `GET /v1/events` answers, one JSON object per line, and how it is asked.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum EventKind {
    /// A connection or datagram to a service was refused.
    Refused,
    /// A connection was let through that a rule which is tried out would deny.
    Audited,
    /// A SYN to a backend of this node was dropped.
    Dropped,
    /// A backend was taken out of rotation.
    Ejected,
    /// An ejected backend was given one connection to show what it can.
    Probed,
    /// An ejected backend is well again.
    Readmitted,
    /// A backend began to drain.
    Draining,
    /// The last stream of a draining backend has ended.
    Drained,
    /// An established connection was ended by the agent.
    Closed,
    /// Events are missing here: this reader was behind. Tells nothing of the mesh.
    Lost,
}

impl EventKind {
    /// Every kind that is counted.
    pub const ALL: [Self; 9] = [
        Self::Refused,
        Self::Audited,
        Self::Dropped,
        Self::Ejected,
        Self::Probed,
        Self::Readmitted,
        Self::Draining,
        Self::Drained,
        Self::Closed,
    ];

    /// The word of the API, the CLI and the metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Audited => "audited",
            Self::Dropped => "dropped",
            Self::Ejected => "ejected",
            Self::Probed => "probed",
            Self::Readmitted => "readmitted",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Closed => "closed",
            Self::Lost => "lost",
        }
    }
}

/// One event. What is not known, or does not belong to its kind, is absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Time of day, RFC 3339 in UTC.
    pub time: String,
    /// The same by the clock of the programs, nanoseconds of `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
    /// What happened.
    pub kind: EventKind,
    /// Why: a word that depends on the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `namespace/name` of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Address that the client dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_address: Option<String>,
    /// `TCP` or `UDP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Address of the backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// `namespace/name` of the workload that the backend is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_workload: Option<String>,
    /// Address of the client, with its port if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Name of the client's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_identity: Option<String>,
    /// `namespace/name` of the workload at the client's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_workload: Option<String>,
    /// Process of the client, in the initial pid namespace, where it is on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_pid: Option<u32>,
    /// Cgroup of the client, where it is on this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_cgroup: Option<u64>,
    /// For how long a backend is ejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejected_seconds: Option<f64>,
    /// How often it happened since the last event with the same kind, reason, client and service, of what is told at most once a second;
    /// absent if once. Of [`EventKind::Lost`], how many events are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Event {
    /// An event of which nothing but time and kind is known.
    pub fn new(kind: EventKind, time: String, monotonic_ns: u64) -> Self {
        Self {
            time,
            monotonic_ns,
            kind,
            reason: None,
            service: None,
            service_address: None,
            protocol: None,
            backend: None,
            backend_workload: None,
            client: None,
            client_identity: None,
            client_workload: None,
            client_pid: None,
            client_cgroup: None,
            ejected_seconds: None,
            count: None,
        }
    }
}

/// Query of `GET /v1/events`. All that is given must hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    /// Only these kinds: words with commas between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Only those about this service (`namespace/name`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Only those about this backend (`ip:port`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Those that are remembered and no older than so many seconds come first. Without it: none if those to come are followed,
    /// else all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<f64>,
    /// Whether those to come are sent as they come; if not, the answer ends with the last one that is remembered.
    #[serde(default)]
    pub follow: bool,
}
