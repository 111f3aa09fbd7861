// SPDX-License-Identifier: Apache-2.0
//! `load-client`: drives model servers and reports what a client saw. See [`nodemesh_e2e::load`].
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use nodemesh_e2e::load::{self, Options};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    load::run(Options::parse()).await
}
