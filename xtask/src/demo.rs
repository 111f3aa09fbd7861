// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo`: a model service whose replicas die, join and leave, its control plane and two nodes, made of network
//! namespaces.
//!
//! The demo itself is `tests/src/demo.rs`; arguments are passed on as they are.

use std::process::ExitCode;

use anyhow::Result;

use crate::release;

/// Watch connections to a model service while its replicas come and go and its control plane restarts; `-- --help` lists the
/// options.
#[derive(clap::Args)]
pub(crate) struct Demo {
    /// Options of the demo: --seconds N, --plain.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION")]
    options: Vec<String>,
}

impl Demo {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let binaries = release::build()?;
        match release::become_program(&binaries, "demo", &self.options)? {}
    }
}
