// SPDX-License-Identifier: Apache-2.0
//! `nodemesh`: the CLI.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use nodemesh_agent::cli;

fn main() -> ExitCode {
    match cli::run(&cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("nodemesh: {error:#}");
            ExitCode::FAILURE
        }
    }
}
