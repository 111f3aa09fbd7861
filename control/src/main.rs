// SPDX-License-Identifier: Apache-2.0
//! `nodemesh-control`: the control plane.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use nodemesh_control::{app, config::ControlConfig, logging};

fn main() -> ExitCode {
    let config = ControlConfig::parse();
    if let Err(error) = logging::init(&config.log, config.log_format) {
        eprintln!("nodemesh-control: {error:#}");
        return ExitCode::FAILURE;
    }
    match app::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
