// SPDX-License-Identifier: Apache-2.0
//! What `nodemesh check` looked at, before anybody judges it.
//!
//! Filled by `gather`, read by `judge`. Invariant: a fact that could not be had says why in its own place; no fact is a guess.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    api,
    datapath::{features::Answer, hooks::HookUse},
};

/// What came of reading the configuration: warnings, or errors.
pub type Reading = Result<Vec<String>, Vec<String>>;

/// Everything that was looked at.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The kernel.
    pub kernel: KernelFacts,
    /// Names of the capabilities that this process lacks.
    pub lacking: Vec<&'static str>,
    /// Cgroups.
    pub cgroup: CgroupFacts,
    /// The bpf file system.
    pub pins: PinFacts,
    /// Who is at the hooks that nodemesh uses.
    pub hooks: Vec<HookUse>,
    /// Network plugins that `/etc/cni/net.d` names.
    pub cni: Vec<String>,
    /// The clock.
    pub clock: ClockFacts,
    /// Folders that the agent writes to.
    pub folders: Vec<FolderFacts>,
    /// Address of the agent's HTTP, and why nothing could listen there; only without an agent.
    pub http: Option<(String, Option<String>)>,
    /// The agent.
    pub agent: AgentFacts,
    /// The configuration in files: path, and its errors or its warnings.
    pub files: Option<(PathBuf, Reading)>,
    /// Contradictions of the control plane's flags.
    pub control_flags: Option<String>,
    /// Control planes, each with why it cannot be used.
    pub control: Vec<(String, Option<String>)>,
    /// Certificates, each with the seconds until it expires, or why it cannot be used.
    pub certificates: Vec<(PathBuf, Result<i64, String>)>,
    /// The last state of the control plane on disk.
    pub snapshot: Option<SnapshotFacts>,
}

/// The kernel.
#[derive(Clone, Debug)]
pub struct KernelFacts {
    /// Its release.
    pub release: String,
    /// What it can do, by the name of the feature.
    pub features: BTreeMap<&'static str, Answer>,
    /// Why its types cannot be read.
    pub btf_error: Option<String>,
    /// `net.core.bpf_jit_enable`.
    pub jit: Option<u32>,
    /// The mode of the lockdown security module.
    pub lockdown: Option<String>,
    /// Whether maps count against the limit of locked memory.
    pub memlock: MemlockFacts,
}

/// The limit of locked memory.
#[derive(Clone, Debug)]
pub struct MemlockFacts {
    /// Whether a map could be created with a limit of 0: `No` means that maps count against the limit.
    pub free: Answer,
    /// The limit in bytes; `None` if there is none.
    pub limit: Option<u64>,
}

/// Cgroups.
#[derive(Clone, Debug)]
pub struct CgroupFacts {
    /// The cgroup of the mesh, or why there is none.
    pub root: Result<PathBuf, String>,
    /// Where version 2 is mounted.
    pub mounts: Vec<String>,
    /// Whether version 1 is mounted too.
    pub hybrid: bool,
    /// Controllers of version 1 that take sockets away from version 2 (`net_cls`, `net_prio`), if they have groups.
    pub socket_controllers: Vec<String>,
}

/// Pins.
#[derive(Clone, Debug)]
pub struct PinFacts {
    /// The folder.
    pub folder: PathBuf,
    /// Whether it is, or would be, on a bpf file system.
    pub on_bpffs: bool,
    /// Whether one could be mounted, because the folder is at the usual place and this process may.
    pub mountable: bool,
    /// Whether there are pins of this ABI.
    pub own: bool,
    /// Versions of the ABI, other than this one, that have pins.
    pub others: Vec<String>,
}

/// The clock.
#[derive(Clone, Debug)]
pub struct ClockFacts {
    /// Seconds since the epoch.
    pub now: u64,
    /// Whether something keeps it right; `None` if the kernel does not tell.
    pub synchronized: Option<bool>,
}

/// A folder.
#[derive(Clone, Debug)]
pub struct FolderFacts {
    /// The flag that names it.
    pub flag: &'static str,
    /// The folder.
    pub path: PathBuf,
    /// Why the agent could not write there.
    pub error: Option<String>,
    /// Bytes that are free.
    pub free: Option<u64>,
}

/// The agent.
#[derive(Clone, Debug)]
pub enum AgentFacts {
    /// None holds the lock.
    Absent,
    /// A process holds the lock, and the socket does not answer.
    Silent {
        /// The socket.
        socket: PathBuf,
        /// What the lock file says.
        pid: String,
        /// The process' state in words of procfs, such as `T (stopped)`, if it can be seen.
        state: Option<String>,
        /// What came of asking.
        error: String,
    },
    /// This process may not ask it.
    Forbidden(PathBuf),
    /// It answers.
    Here(Box<Answers>),
}

/// What the agent answered.
#[derive(Clone, Debug)]
pub struct Answers {
    /// How it is.
    pub status: api::Status,
    /// Its services, or why they could not be had.
    pub services: Result<Vec<api::Service>, String>,
    /// Limit of its memory and what it uses, if its cgroup can be seen.
    pub memory: Option<(u64, u64)>,
}

impl AgentFacts {
    /// How it is, if it answers.
    pub fn status(&self) -> Option<&api::Status> {
        match self {
            Self::Here(answers) => Some(&answers.status),
            _ => None,
        }
    }
}

/// The last state of the control plane on disk.
#[derive(Clone, Debug)]
pub struct SnapshotFacts {
    /// The file.
    pub path: PathBuf,
    /// Seconds since it was written and the version in it; `None` if there is no file; or why it is of no use.
    pub content: Result<Option<(u64, String)>, String>,
}
