// SPDX-License-Identifier: Apache-2.0
//! What the admin socket answers and the CLI shows: the JSON that scripts may rely on. Used by `admin` and `cli`.
//!
//! Invariant: a field is added, never renamed or given another meaning. Times are seconds, addresses `ip:port`.

mod connection;
mod drain;
mod event;
mod packet;
mod policy;
mod traffic;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::{
    connection::{Connection, ConnectionQuery, Path, Phase, Sort, Vantage},
    drain::{DrainQuery, Drained, DrainedBackend},
    event::{Event, EventKind, EventQuery},
    packet::{PacketEvent, PacketInterface, PacketSource, PacketStatus},
    policy::{Explanation, MatchingRule, PolicyQuery, PortAccess},
    traffic::{Histogram, HistogramBounds, Traffic, TrafficReport},
};
use crate::{
    config::{AccessLogFormat, ProgramLogLevel},
    shortcut::State,
};

/// Answer of `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version, commit and ABI of the agent.
    pub version: String,
    /// Process id of the agent, as it sees itself.
    pub pid: u32,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// Whether everything below is as it should be.
    pub ready: bool,
    /// What is not as it should be.
    pub problems: Vec<String>,
    /// The configuration.
    pub config: ConfigStatus,
    /// The data path.
    pub datapath: DatapathStatus,
    /// The log.
    pub log: LogStatus,
}

/// The configuration's part of [`Status`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// File or directory, or the URLs of the control plane.
    pub path: String,
    /// `ok`, or `invalid` while the last good configuration is kept in force.
    pub state: ConfigState,
    /// Number of the configuration in force.
    pub generation: u64,
    /// Number of the configuration that the kernel has.
    pub applied_generation: u64,
    /// Unix time at which the one in force was loaded.
    pub loaded_at: u64,
    /// Errors of the last reload.
    pub errors: Vec<String>,
    /// What is odd about the configuration in force.
    pub warnings: Vec<String>,
    /// The connection to the control plane; absent with files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<ControlStatus>,
}

/// The connection to the control plane. Times are Unix times in seconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ControlStatus {
    /// URL of the control plane that the agent is connected to.
    pub connected: Option<String>,
    /// Since when it is connected, or not connected.
    pub since: u64,
    /// Why there is no connection, or why the last one ended.
    pub error: Option<String>,
    /// The control plane's version of the state in force.
    pub version: String,
    /// Whether the state in force is the one that was on disk when the agent started.
    pub from_disk: bool,
    /// When something was last received.
    pub updated_at: Option<u64>,
    /// When the state was last written to disk.
    pub saved_at: Option<u64>,
    /// Connections that were opened since the agent started.
    pub connections: u64,
    /// Responses that were refused, in part or as a whole, since the agent started.
    pub nacks: u64,
    /// What is refused at this time, and why.
    pub rejected: Vec<String>,
    /// Fields of what was received that have no effect.
    pub unsupported: Vec<String>,
    /// Services that wait for something that was announced and has not come.
    pub waiting: Vec<String>,
}

/// Whether the last reload took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConfigState {
    /// It did.
    Ok,
    /// It did not.
    Invalid,
}

/// The data path's part of [`Status`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DatapathStatus {
    /// Release of the running kernel.
    pub kernel: String,
    /// Cgroup whose processes are in the mesh.
    pub cgroup: String,
    /// Folder of the pins.
    pub pin_dir: String,
    /// Programs that are attached, and whether the kernel runs each of them.
    pub programs: BTreeMap<String, bool>,
    /// What was put right of what is attached.
    #[serde(default)]
    pub attachment: AttachmentStatus,
    /// Fill of the maps.
    pub maps: BTreeMap<String, MapUsage>,
    /// Internal errors since the maps were created, by reason.
    pub internal_errors: BTreeMap<String, u64>,
    /// Frontends that are not as configured, with the reason.
    pub frontends_not_programmed: BTreeMap<String, String>,
    /// Configured cgroups that do not exist.
    pub cgroups_missing: Vec<String>,
    /// What measures traffic.
    pub meter: MeterStatus,
    /// Whether messages may take the shortcut, and why.
    #[serde(default)]
    pub shortcut: State,
    /// The packet path; absent where it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packet: Option<PacketStatus>,
}

/// What other tools did to what is attached, and the agent put right.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AttachmentStatus {
    /// How often since the agent started, by what was wrong: `unpinned`, `replaced`, `detached`, `moved` or `ineffective`.
    pub repairs: BTreeMap<String, u64>,
    /// The last time.
    pub last_repair: Option<Repair>,
}

/// Something that was put right.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Repair {
    /// Program or map.
    pub object: String,
    /// What was wrong with it.
    pub fault: String,
    /// When, seconds since 1970.
    pub at: u64,
}

/// The meter's part of [`Status`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MeterStatus {
    /// Where its events come from: `tracepoint`, one per application read and write, or `packet`, one per packet.
    pub path: String,
    /// Connections that are tracked now.
    pub connections: u64,
    /// Most connections that are tracked at once; 0 for no limit.
    pub connection_limit: u64,
    /// Connections that found no room, ever.
    pub connections_untracked: u64,
    /// Connections older than this agent that it adopted at its start.
    pub adopted: u64,
    /// Requests that are in flight and have been silent for too long, as this node's clients see them.
    pub stalled_client: u64,
    /// The same, as this node's servers see them.
    pub stalled_server: u64,
    /// Rows whose number in flight was corrected since the agent started.
    pub corrections: u64,
}

/// Fill of a map.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct MapUsage {
    /// Entries in use.
    pub entries: u64,
    /// Entries there is room for.
    pub capacity: u64,
}

/// The logs' part of [`Status`], and body of `PUT /v1/log`, where all fields are optional.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogStatus {
    /// Filter of the agent's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Level of the programs' log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programs: Option<ProgramLogLevel>,
    /// Form of the access log, or `off`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<AccessLogFormat>,
    /// One of this many finished requests and connections is in the access log; at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_sample: Option<u32>,
    /// Lines that the access log has had since the agent started. Only told, never asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_records: Option<u64>,
    /// Lines that the access log has lost. Only told, never asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_lost: Option<u64>,
}

/// One frontend, in the answer of `GET /v1/services`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Service {
    /// `namespace/name`.
    pub service: String,
    /// Model that the replicas serve.
    pub model: Option<String>,
    /// Virtual address.
    pub address: String,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// How a replica is chosen.
    pub algorithm: String,
    /// Seconds of session affinity; 0 without.
    pub session_affinity_seconds: u32,
    /// Backends by state.
    pub backends: BTreeMap<BackendState, usize>,
    /// Sockets placed on its backends that are still open.
    pub active_connections: u64,
    /// Connections and UDP flows placed, ever.
    pub connections_total: u64,
    /// Connections refused, by reason.
    pub refused: BTreeMap<String, u64>,
}

/// State of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// Takes new connections.
    Active,
    /// Takes none, keeps those it has.
    Draining,
    /// Out of rotation by observation.
    Ejected,
    /// Out of rotation by configuration.
    Unhealthy,
}

impl BackendState {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Ejected => "ejected",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One backend of one frontend, in the answer of `GET /v1/backends`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Backend {
    /// `namespace/name` of the service.
    pub service: String,
    /// Address of the replica.
    pub address: String,
    /// Workload it was selected as.
    pub workload: Option<String>,
    /// Share of the load.
    pub weight: u32,
    /// State.
    pub state: BackendState,
    /// Sockets placed here that are still open.
    pub active_connections: u64,
    /// Connections and UDP flows placed here, ever.
    pub connections_total: u64,
    /// Connections that ended after they were established, ever.
    pub connections_closed: u64,
    /// Connections that were never established, by reason.
    pub connections_failed: BTreeMap<String, u64>,
    /// Mean time from `connect()` to established; absent without a sample.
    pub connect_seconds_mean: Option<f64>,
    /// Requests in flight: all of them if the backend runs on this node, else those of this node's clients. Absent if the
    /// backend has no counters of its own.
    pub requests_in_flight: Option<u64>,
    /// Median time to the first token, since the backend was added, from the same vantage; absent without a sample.
    pub time_to_first_token_seconds_p50: Option<f64>,
}

/// Body of every answer other than 200.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong and what to do.
    pub error: String,
}
