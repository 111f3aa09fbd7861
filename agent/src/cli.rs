// SPDX-License-Identifier: Apache-2.0
//! `nodemesh`: the CLI, one file per verb. Verbs about this node talk to the agent through its admin socket (`cleanup` works without
//! one), verbs about the mesh to the control plane over gRPC.
//!
//! Invariant: tables are for people and may change; `-o json` is what [`crate::api`] promises.

mod apply;
mod backends;
mod check;
mod cleanup;
mod client;
mod columns;
mod connections;
mod describe;
mod documents;
mod drain;
mod get;
mod kind;
mod log;
mod monitor;
mod policy;
mod register;
mod registry;
mod screen;
mod services;
mod status;
mod sysdump;
mod table;
mod top;
mod units;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};

use crate::config::{ADMIN_SOCKET, DEFAULT_RUN_DIR, VERSION};
pub use client::AdminClient;
pub(crate) use registry::{block_on, explain};

/// Look at the mesh on this node, and change what the control plane has.
#[derive(Debug, Parser)]
#[command(name = "nodemesh", version = VERSION)]
pub struct Cli {
    /// Folder of the agent's admin socket.
    #[arg(long, global = true, env = "NODEMESH_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,

    /// Form of the output.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,

    #[command(subcommand)]
    verb: Verb,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    #[value(alias = "text")]
    Table,
    /// For scripts.
    Json,
    /// For `nodemesh apply`; of `get`, `describe` and `check` only.
    Yaml,
}

/// Form of the output of verbs about this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// For people.
    Table,
    /// For scripts.
    Json,
}

impl Format {
    fn of_node(self) -> Result<Output> {
        match self {
            Self::Table => Ok(Output::Table),
            Self::Json => Ok(Output::Json),
            Self::Yaml => bail!("-o yaml is for `get` and `describe`; use -o json"),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show whether the agent, its configuration and its programs are well; exit code 1 if not.
    Status,
    /// Find out what is wrong on this node, with or without a running agent: what was looked at, how it is, what to do. Exit code 1 if
    /// something does not work.
    Check(check::Check),
    /// Write what is needed to find out what is wrong into one archive, without secrets.
    Sysdump(sysdump::Sysdump),
    /// List the services and how their backends are chosen.
    Services,
    /// List the backends with their connections.
    Backends(backends::Backends),
    /// List the live connections of this node.
    Connections(connections::Connections),
    /// Show what each service and replica is doing: requests in flight, rates, time to first token, inter-token latency.
    Top(top::Top),
    /// Show what is decided as it happens: refusals, ejections, audits, drains.
    Monitor(monitor::Monitor),
    /// Let a backend take no new connections of this node, and optionally wait until its last byte has left.
    Drain(drain::Drain),
    /// Explain who may connect.
    Policy(policy::Policy),
    /// Show or change the log levels of the running agent and of its programs, and the access log.
    Log(log::Log),
    /// Create or change resources at the control plane, from YAML or JSON.
    Apply(apply::Apply),
    /// List what the control plane has: services, workloads, trafficpolicies, accesspolicies, nodes, backends.
    Get(get::Get),
    /// Show all that the control plane knows of a resource or a node.
    Describe(describe::Describe),
    /// Delete resources at the control plane.
    Delete(apply::Delete),
    /// Run a server as a workload of the mesh: registered while it runs, drained before it is ended.
    Register(register::Register),
    /// Detach every program and remove every map, socket and folder of nodemesh. The agent must have ended.
    Cleanup(cleanup::Cleanup),
}

/// Runs a command line.
pub fn run(cli: &Cli) -> Result<ExitCode> {
    let (format, agent) = (cli.output, AdminClient::new(cli.run_dir.join(ADMIN_SOCKET)));
    let is_well = match &cli.verb {
        Verb::Status => status::run(&agent, format.of_node()?)?,
        Verb::Check(check) => check.run(&cli.run_dir, format)?,
        Verb::Sysdump(sysdump) => done(sysdump.run(&cli.run_dir))?,
        Verb::Services => done(services::run(&agent, format.of_node()?))?,
        Verb::Backends(backends) => done(backends.run(&agent, format.of_node()?))?,
        Verb::Connections(connections) => done(connections.run(&agent, format.of_node()?))?,
        Verb::Top(top) => done(top.run(&agent, format.of_node()?))?,
        Verb::Monitor(monitor) => done(monitor.run(&agent, format.of_node()?))?,
        Verb::Drain(drain) => drain.run(&agent, format.of_node()?)?,
        Verb::Policy(policy) => done(policy.run(&agent, format.of_node()?))?,
        Verb::Log(log) => done(log.run(&agent, format.of_node()?))?,
        Verb::Apply(apply) => apply.run()?,
        Verb::Get(get) => done(get.run(format))?,
        Verb::Describe(describe) => done(describe.run(format))?,
        Verb::Delete(delete) => delete.run()?,
        Verb::Register(register) => return register.run(),
        Verb::Cleanup(cleanup) => done(cleanup.run(&cli.run_dir))?,
    };
    Ok(if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn done(outcome: Result<()>) -> Result<bool> {
    outcome.map(|()| true)
}
