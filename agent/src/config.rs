// SPDX-License-Identifier: Apache-2.0
//! The agent's own settings: flags, each with its environment variable and default. What the mesh does is not here but in the
//! resources that `--config` names.
//!
//! Invariant: parsed once, in `main`; no other module reads the environment or the command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, ValueEnum};
use nodemesh_abi::{LogLevel, limits};

use crate::{datapath::pins::DEFAULT_PIN_DIR, startup::Step};

/// Default folder for the lock and the admin socket.
pub const DEFAULT_RUN_DIR: &str = "/run/nodemesh";
/// Name of the admin socket in the run directory.
pub const ADMIN_SOCKET: &str = "agent.sock";

/// Version, commit and ABI of this build.
pub const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("NODEMESH_COMMIT"),
    ", ABI 1)"
);
const _: () = assert!(nodemesh_abi::ABI_VERSION == 1, "VERSION above names the ABI");

/// The mesh agent of this node.
#[derive(Debug, Parser)]
#[command(name = "nodemesh-agent", version = VERSION)]
pub enum AgentCli {
    /// Run in the foreground until SIGTERM or SIGINT. The data path stays when the agent goes.
    Run(AgentConfig),
}

/// Flags of `nodemesh-agent run`.
#[derive(Args, Clone, Debug)]
pub struct AgentConfig {
    /// File with resources (several YAML documents), or a directory of *.yaml and *.yml files. Reloaded when it changes.
    #[arg(long, env = "NODEMESH_CONFIG", value_name = "PATH")]
    pub config: PathBuf,

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
        default_value = "127.0.0.1:9464"
    )]
    pub http: SocketAddr,

    /// Most service ports, set when the maps are created.
    #[arg(long, env = "NODEMESH_MAX_SERVICES", default_value_t = limits::SERVICES,
          value_parser = clap::value_parser!(u32).range(1..=limits::MAX_SERVICES as i64))]
    pub max_services: u32,

    /// Most backends, set when the maps are created; 160 bytes each.
    #[arg(long, env = "NODEMESH_MAX_BACKENDS", default_value_t = limits::BACKENDS,
          value_parser = clap::value_parser!(u32).range(1..=limits::MAX_BACKENDS as i64))]
    pub max_backends: u32,

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

    /// End as by SIGKILL after this step of the start: for the tests of crash recovery.
    #[arg(long, hide = true, value_enum)]
    pub crash_after: Option<Step>,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of text per event.
    Text,
    /// One JSON object per event.
    Json,
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
