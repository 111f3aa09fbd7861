// SPDX-License-Identifier: Apache-2.0
//! Release builds of everything that the demo and the benchmarks run, and the step from `cargo xtask` to such a program.
//!
//! Invariant: the program takes the place of this process, so that Ctrl-C reaches it alone and it can clean up before the
//! shell goes on.

use std::{
    convert::Infallible,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    ebpf, next, process,
    setup::{self, Scope},
    workspace,
};

/// Where the programs look for each other.
const BIN_DIR: &str = "NODEMESH_BIN_DIR";
const PACKAGES: [&str; 3] = ["nodemesh-agent", "nodemesh-control", workspace::E2E_PACKAGE];

/// Builds the agent and the test bed with optimisation, and returns the folder of the binaries.
pub(crate) fn build() -> Result<PathBuf> {
    setup::ensure(Scope::Tests)?;
    next::build(true)?;
    ebpf::build_object()?;
    let mut cargo = workspace::cargo("build")?;
    cargo.args(["--release", "--bins"]);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    process::run(&mut cargo)?;
    Ok(workspace::target_dir()?.join("release"))
}

/// Becomes the program `name` in `folder`; returns only if that fails.
pub(crate) fn become_program(folder: &Path, name: &str, arguments: &[String]) -> Result<Infallible> {
    let program = folder.join(name);
    Err(Command::new(&program).args(arguments).env(BIN_DIR, folder).exec())
        .with_context(|| format!("start {}", program.display()))
}
