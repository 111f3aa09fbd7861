// SPDX-License-Identifier: Apache-2.0
//! `socket-probe`: tells what the socket API itself says, one JSON line per run. See [`nodemesh_e2e::probe`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use nodemesh_e2e::probe::{self, Options};

fn main() -> anyhow::Result<ExitCode> {
    probe::run(Options::parse())
}
