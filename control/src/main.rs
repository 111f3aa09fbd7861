// SPDX-License-Identifier: Apache-2.0
//! `nodemesh-control`: the control plane.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use nodemesh_control::{
    app,
    config::{Command, ControlConfig},
    kubernetes::crd,
    logging,
};

fn main() -> ExitCode {
    let config = ControlConfig::parse();
    if let Some(Command::Crds) = config.command {
        return print_crds();
    }
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

/// Prints the definitions as one list, which `kubectl apply -f -` takes.
fn print_crds() -> ExitCode {
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": crd::definitions()});
    println!("{list:#}");
    ExitCode::SUCCESS
}
