// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench`: what the mesh costs, measured on this machine, as Markdown on standard output and in
//! `<target>/bench/<date>.md`.
//!
//! The benchmarks themselves are `tests/src/bench.rs`; arguments are passed on as they are.

use std::process::ExitCode;

use anyhow::Result;

use crate::{release, workspace};

/// Measure what the mesh costs; `-- --help` lists the cases.
#[derive(clap::Args)]
pub(crate) struct Bench {
    /// Options and cases of the benchmark: --quick, connect-hook, exchange, ...
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "OPTION|CASE"
    )]
    options: Vec<String>,
}

impl Bench {
    pub(crate) fn run(mut self) -> Result<ExitCode> {
        let binaries = release::build()?;
        let folder = workspace::target_dir()?.join("bench");
        self.options.push(format!("--output={}", folder.display()));
        match release::become_program(&binaries, "bench", &self.options)? {}
    }
}
