// SPDX-License-Identifier: Apache-2.0
//! `bench`: what the mesh costs on this machine. See [`nodemesh_e2e::bench`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use nodemesh_e2e::bench::{self, Options};

fn main() -> anyhow::Result<ExitCode> {
    bench::run(Options::parse())
}
