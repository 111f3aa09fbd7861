// SPDX-License-Identifier: Apache-2.0
//! `nodemesh-agent`: the daemon of a node.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use nodemesh_agent::{
    app,
    config::AgentCli,
    logging,
    shortcut::{self, LabArgs},
};

fn main() -> ExitCode {
    let config = match AgentCli::parse() {
        AgentCli::Run(config) => config,
        AgentCli::ShortcutTest(args) => return test_shortcut(&args),
    };
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

/// For the agent, which reads what is printed.
fn test_shortcut(args: &LabArgs) -> ExitCode {
    match shortcut::run_lab(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
