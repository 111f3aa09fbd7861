// SPDX-License-Identifier: Apache-2.0
//! `demo`: a model service whose replicas die, join and leave, and what its clients see. See [`nodemesh_e2e::demo`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use nodemesh_e2e::demo::{self, Options};

fn main() -> anyhow::Result<ExitCode> {
    demo::run(&Options::parse())
}
