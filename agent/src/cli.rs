// SPDX-License-Identifier: Apache-2.0
//! `nodemesh`: the CLI of a node, one file per verb. Talks to the agent through its admin socket; `cleanup` works without one.
//!
//! Invariant: tables are for people and may change; `-o json` is what [`crate::api`] promises.

mod backends;
mod cleanup;
mod client;
mod columns;
mod connections;
mod log;
mod monitor;
mod screen;
mod services;
mod status;
mod table;
mod top;
mod units;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use crate::config::{ADMIN_SOCKET, DEFAULT_RUN_DIR, VERSION};
use client::AdminClient;

/// Look at the mesh on this node.
#[derive(Debug, Parser)]
#[command(name = "nodemesh", version = VERSION)]
pub struct Cli {
    /// Folder of the agent's admin socket.
    #[arg(long, global = true, env = "NODEMESH_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,

    /// Form of the output.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,

    #[command(subcommand)]
    verb: Verb,
}

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[value(alias = "text")]
    Table,
    /// For scripts.
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show whether the agent, its configuration and its programs are well; exit code 1 if not.
    Status,
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
    /// Show or change the log levels of the running agent and of its programs, and the access log.
    Log(log::Log),
    /// Detach every program and remove every map, socket and folder of nodemesh. The agent must have ended.
    Cleanup(cleanup::Cleanup),
}

/// Runs a command line; the result is whether all is well.
pub fn run(cli: &Cli) -> Result<bool> {
    let agent = AdminClient::new(cli.run_dir.join(ADMIN_SOCKET));
    match &cli.verb {
        Verb::Status => return status::run(&agent, cli.output),
        Verb::Services => services::run(&agent, cli.output)?,
        Verb::Backends(backends) => backends.run(&agent, cli.output)?,
        Verb::Connections(connections) => connections.run(&agent, cli.output)?,
        Verb::Top(top) => top.run(&agent, cli.output)?,
        Verb::Monitor(monitor) => monitor.run(&agent, cli.output)?,
        Verb::Log(log) => log.run(&agent, cli.output)?,
        Verb::Cleanup(cleanup) => cleanup.run(&cli.run_dir)?,
    }
    Ok(true)
}
