// SPDX-License-Identifier: Apache-2.0
//! The agent's own settings: flags, each with its environment variable and default. What the mesh does is not here but in the
//! resources that `--config` names or that come from `--control`.
//!
//! Invariant: parsed once, in `main`; no other module reads the environment or the command line.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use anyhow::anyhow;
use clap::{ArgGroup, Args, Parser, ValueEnum};
use nodemesh_abi::{LogLevel, MeterPath, limits};
use nodemesh_model::Locality;

use crate::{
    control::ControlArgs, datapath::pins::DEFAULT_PIN_DIR, packet::PacketArgs, shortcut::LabArgs,
    startup::Step,
};

/// Default folder for the lock and the admin socket.
pub const DEFAULT_RUN_DIR: &str = "/run/nodemesh";
/// Default address of HTTP.
pub const DEFAULT_HTTP: &str = "127.0.0.1:9464";
/// Default folder for the last state of the control plane.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/nodemesh";
/// Name of the admin socket in the run directory.
pub const ADMIN_SOCKET: &str = "agent.sock";

/// Version, commit and ABI of this build.
pub const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("NODEMESH_COMMIT"),
    ", ABI ",
    env!("NODEMESH_ABI"),
    ")"
);

/// The mesh agent of this node.
#[derive(Debug, Parser)]
#[command(name = "nodemesh-agent", version = VERSION)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one, for the life of the process"
)]
pub enum AgentCli {
    /// Run in the foreground until SIGTERM or SIGINT. The data path stays when the agent goes.
    Run(AgentConfig),
    /// Test on this kernel what the shortcut does to applications, and print it. The agent runs this itself.
    #[command(hide = true)]
    ShortcutTest(LabArgs),
}

/// Flags of `nodemesh-agent run`.
#[derive(Args, Clone, Debug)]
#[command(group(ArgGroup::new("source").required(true).args(["config", "control"])))]
pub struct AgentConfig {
    /// File with resources (several YAML documents), or a directory of *.yaml and *.yml files. Reloaded when it changes. Either this
    /// or --control.
    #[arg(long, env = "NODEMESH_CONFIG", value_name = "PATH")]
    pub config: Option<PathBuf>,

    /// The control plane, from which resources come instead.
    #[command(flatten, next_help_heading = "Control plane")]
    pub control: ControlArgs,

    /// Folder for the last state of the control plane, from which the agent starts while no control plane answers.
    #[arg(long, env = "NODEMESH_STATE_DIR", value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,

    /// Name of this node at the control plane; the host's name by default.
    #[arg(long, env = "NODEMESH_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// Where this node is, for the control plane.
    #[arg(long, env = "NODEMESH_LOCALITY", value_name = "REGION[/ZONE]")]
    pub locality: Option<String>,

    /// Cgroup v2 whose processes are in the mesh; the root of the hierarchy by default.
    #[arg(long, env = "NODEMESH_CGROUP", value_name = "DIR")]
    pub cgroup: Option<PathBuf>,

    /// Cgroup, below the one above, whose sockets are left alone. May be repeated.
    #[arg(
        long,
        env = "NODEMESH_EXCLUDE_CGROUP",
        value_name = "PATH",
        value_delimiter = ','
    )]
    pub exclude_cgroup: Vec<PathBuf>,

    /// Folder, on a bpf file system, for the maps and links that outlive the agent.
    #[arg(long, env = "NODEMESH_PIN_DIR", value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,

    /// Folder for the lock and the admin socket.
    #[arg(long, env = "NODEMESH_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    pub run_dir: PathBuf,

    /// Address of /metrics, /healthz and /readyz.
    #[arg(
        long,
        env = "NODEMESH_HTTP",
        value_name = "IP:PORT",
        default_value = DEFAULT_HTTP
    )]
    pub http: SocketAddr,

    /// Most service ports, set when the maps are created.
    #[arg(long, env = "NODEMESH_MAX_SERVICES", default_value_t = limits::SERVICES,
          value_parser = clap::value_parser!(u32).range(1..=limits::MAX_SERVICES as i64))]
    pub max_services: u32,

    /// Most backends, set when the maps are created; 256 bytes each.
    #[arg(long, env = "NODEMESH_MAX_BACKENDS", default_value_t = limits::BACKENDS,
          value_parser = clap::value_parser!(u32).range(1..=limits::MAX_BACKENDS as i64))]
    pub max_backends: u32,

    /// Most backends with metrics of their own, set when the maps are created; 2.5 KiB each. Further ones share the backend "other".
    #[arg(long, env = "NODEMESH_MAX_METERED_BACKENDS", default_value_t = limits::TRAFFIC_PAIRS - 1,
          value_parser = clap::value_parser!(u32).range(0..=limits::MAX_BACKENDS as i64))]
    pub max_metered_backends: u32,

    /// Most connections that are tracked at once, 0 for no limit; further ones are placed but neither counted nor metered. By
    /// default what a 64th of the machine's memory holds at 704 bytes each, between 65536 and 4194304.
    #[arg(long, env = "NODEMESH_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<u32>,

    /// Where the meter sees bytes: at the tracepoints of each send and receive (Linux 6.3), in packets where these are missing, or off.
    #[arg(long, env = "NODEMESH_METER_PATH", value_enum, default_value_t = MeterPathChoice::Auto)]
    pub meter_path: MeterPathChoice,

    /// Whether messages between sockets of this node may go past TCP, where a traffic policy says so: if a self-test on this kernel
    /// found nothing against it, not at all, or in spite of what it found.
    #[arg(long, env = "NODEMESH_SHORTCUT", value_enum, value_name = "WHEN", default_value_t = ShortcutChoice::Auto)]
    pub shortcut: ShortcutChoice,

    /// Cgroup, below --cgroup, whose sockets take no shortcut. May be repeated.
    #[arg(
        long,
        env = "NODEMESH_SHORTCUT_EXCLUDE_CGROUP",
        value_name = "PATH",
        value_delimiter = ','
    )]
    pub shortcut_exclude_cgroup: Vec<PathBuf>,

    /// The packet path.
    #[command(flatten, next_help_heading = "Packet path")]
    pub packet: PacketArgs,

    /// Measure run count and time of the programs (`kernel.bpf_stats_enabled`, some 30 ns per run, host-wide).
    #[arg(long, env = "NODEMESH_PROGRAM_STATS", default_value_t = true, action = clap::ArgAction::Set)]
    pub program_stats: bool,

    /// Filter of the agent's log, in the syntax of `tracing-subscriber`.
    #[arg(long, env = "NODEMESH_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,

    /// Form of the log.
    #[arg(long, env = "NODEMESH_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Level of the kernel programs' log, which is merged into the agent's.
    #[arg(long, env = "NODEMESH_PROGRAM_LOG", value_enum, default_value_t = ProgramLogLevel::Error)]
    pub program_log: ProgramLogLevel,

    /// Write one line per finished request and connection. Can be switched at run time by `nodemesh log --access`.
    #[arg(long, env = "NODEMESH_ACCESS_LOG", value_enum, value_name = "FORMAT", default_value_t = AccessLogFormat::Off)]
    pub access_log: AccessLogFormat,

    /// Write one of this many lines, chosen at random.
    #[arg(long, env = "NODEMESH_ACCESS_LOG_SAMPLE", value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub access_log_sample: u32,

    /// File that the access log is appended to, opened anew on SIGHUP; standard output by default.
    #[arg(long, env = "NODEMESH_ACCESS_LOG_FILE", value_name = "PATH")]
    pub access_log_file: Option<PathBuf>,

    /// Take this feature, by its name in `nodemesh check`, as missing: for the tests of fallbacks. May be repeated.
    #[arg(long, hide = true, value_name = "NAME")]
    pub without_feature: Vec<String>,

    /// End as by SIGKILL after this step of the start: for the tests of crash recovery.
    #[arg(long, hide = true, value_enum)]
    pub crash_after: Option<Step>,
}

/// Memory of the machine per byte that tracked connections may take.
const MEMORY_SHARE: u64 = 64;
/// What a tracked connection takes: an object of 512 bytes for its record, and one of 192 for the storage of the socket.
const CONNECTION_BYTES: u64 = 704;
/// Bounds of the default number of tracked connections.
const CONNECTIONS: (u64, u64) = (1 << 16, 1 << 22);

impl AgentConfig {
    /// Name of this node at the control plane.
    pub fn node_name(&self) -> String {
        let host = || nix::sys::utsname::uname().map(|uts| uts.nodename().to_string_lossy().into_owned());
        self.node_name
            .clone()
            .unwrap_or_else(|| host().unwrap_or_else(|_| "unknown".to_owned()))
    }

    /// What the agent was told, by the name of the flag without its dashes; what was not given and has no default is absent. No value is
    /// a secret: of tokens and keys only the files are named.
    pub fn settings(&self) -> BTreeMap<String, String> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let list = |items: Vec<String>| (!items.is_empty()).then(|| items.join(","));
        let control = &self.control;
        let settings = [
            ("config", path(&self.config)),
            (
                "control",
                list(control.control.iter().map(ToString::to_string).collect()),
            ),
            ("control-ca", path(&control.control_ca)),
            ("control-cert", path(&control.control_cert)),
            ("control-key", path(&control.control_key)),
            ("control-token-file", path(&control.control_token_file)),
            ("control-name", control.control_name.clone()),
            (
                "control-plaintext",
                control.control_plaintext.then(|| "true".to_owned()),
            ),
            ("state-dir", Some(self.state_dir.display().to_string())),
            ("node-name", Some(self.node_name())),
            ("locality", self.locality.clone()),
            ("cgroup", path(&self.cgroup)),
            (
                "exclude-cgroup",
                list(
                    self.exclude_cgroup
                        .iter()
                        .map(|path| path.display().to_string())
                        .collect(),
                ),
            ),
            ("pin-dir", Some(self.pin_dir.display().to_string())),
            ("run-dir", Some(self.run_dir.display().to_string())),
            ("http", Some(self.http.to_string())),
            ("max-services", Some(self.max_services.to_string())),
            ("max-backends", Some(self.max_backends.to_string())),
            (
                "max-metered-backends",
                Some(self.max_metered_backends.to_string()),
            ),
            (
                "max-connections",
                self.max_connections.map(|limit| limit.to_string()),
            ),
            ("program-stats", Some(self.program_stats.to_string())),
            ("access-log-file", path(&self.access_log_file)),
        ];
        settings
            .into_iter()
            .filter_map(|(flag, value)| Some((flag.to_owned(), value?)))
            .collect()
    }

    /// Where this node is; an error names the flag.
    pub fn place(&self) -> anyhow::Result<Locality> {
        let (region, zone) = match self.locality.as_deref() {
            Some(text) => text
                .split_once('/')
                .map_or((Some(text), None), |(region, zone)| (Some(region), Some(zone))),
            None => (None, None),
        };
        Locality::new(region, zone, Some(&self.node_name()))
            .map_err(|problem| anyhow!("--locality: {problem}"))
    }

    /// Most connections that are tracked at once on a machine with `memory` bytes; 0 for no limit.
    pub fn connection_limit(&self, memory: u64) -> u32 {
        let default =
            || (memory / MEMORY_SHARE / CONNECTION_BYTES).clamp(CONNECTIONS.0, CONNECTIONS.1) as u32;
        self.max_connections.unwrap_or_else(default)
    }
}

/// [`MeterPath`] as people choose it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MeterPathChoice {
    /// The tracepoints if the kernel has them, else packets.
    Auto,
    /// The tracepoints `sock_send_length` and `sock_recv_length`.
    Tracepoint,
    /// Packets.
    Packet,
    /// Nothing is metered; connections are placed and counted.
    Off,
}

impl From<MeterPathChoice> for Option<MeterPath> {
    fn from(choice: MeterPathChoice) -> Self {
        match choice {
            MeterPathChoice::Auto => None,
            MeterPathChoice::Tracepoint => Some(MeterPath::Tracepoint),
            MeterPathChoice::Packet => Some(MeterPath::Packet),
            MeterPathChoice::Off => Some(MeterPath::Off),
        }
    }
}

/// When the shortcut may be taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShortcutChoice {
    /// Never.
    Off,
    /// If the self-test found nothing against it and nobody else uses maps of sockets.
    #[default]
    Auto,
    /// Whatever the self-test found.
    Force,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of text per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// Form of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLogFormat {
    /// No access log.
    Off,
    /// One JSON object per line.
    Json,
    /// One line of `key=value` pairs.
    Logfmt,
}

/// [`LogLevel`] as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProgramLogLevel {
    /// Nothing.
    Off,
    /// Internal errors.
    Error,
    /// Refused connections too.
    Warn,
    /// The same.
    Info,
    /// Every placed connection too.
    Debug,
    /// The same.
    Trace,
}

impl From<ProgramLogLevel> for LogLevel {
    fn from(level: ProgramLogLevel) -> Self {
        match level {
            ProgramLogLevel::Off => Self::Off,
            ProgramLogLevel::Error => Self::Error,
            ProgramLogLevel::Warn => Self::Warn,
            ProgramLogLevel::Info => Self::Info,
            ProgramLogLevel::Debug => Self::Debug,
            ProgramLogLevel::Trace => Self::Trace,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[&str]) -> AgentConfig {
        let command = ["nodemesh-agent", "run", "--config", "mesh.yaml"];
        match AgentCli::parse_from(command.iter().chain(flags)) {
            AgentCli::Run(config) => config,
            AgentCli::ShortcutTest(_) => panic!("the command is run"),
        }
    }

    #[test]
    fn resources_come_from_files_or_from_a_control_plane() {
        let parse = |flags: &[&str]| AgentCli::try_parse_from(["nodemesh-agent", "run"].iter().chain(flags));
        let (files, control) = (["--config", "a.yaml"], ["--control", "http://127.0.0.1:1"]);
        assert!(parse(&files).is_ok() && parse(&control).is_ok());
        assert!(parse(&[]).is_err());
        assert!(parse(&[files, control].concat()).is_err());
    }

    #[test]
    fn the_table_of_connections_follows_the_memory_within_bounds() {
        let limit = |gib: u64| config(&[]).connection_limit(gib << 30);
        assert_eq!(
            [1, 4, 16, 64, 512].map(limit),
            [65_536, 95_325, 381_300, 1_525_201, 4_194_304]
        );
        assert_eq!(config(&["--max-connections", "7"]).connection_limit(16 << 30), 7);
        assert_eq!(config(&["--max-connections", "0"]).connection_limit(16 << 30), 0);
    }

    #[test]
    fn the_meter_path_is_left_to_the_kernel_unless_it_is_asked_for() {
        let path = |flags: &[&str]| Option::<MeterPath>::from(config(flags).meter_path);
        assert_eq!(path(&[]), None);
        assert_eq!(path(&["--meter-path", "packet"]), Some(MeterPath::Packet));
        assert_eq!(path(&["--meter-path", "tracepoint"]), Some(MeterPath::Tracepoint));
    }
}
