// SPDX-License-Identifier: Apache-2.0
//! `nodemesh-agent`: the daemon of a node.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use nodemesh_agent::{app, config::AgentCli, logging};

fn main() -> ExitCode {
    let AgentCli::Run(config) = AgentCli::parse();
    let logging = match logging::init(&config.log, config.log_format) {
        Ok(logging) => logging,
        Err(error) => {
            eprintln!("nodemesh-agent: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    match app::run(&config, logging) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
