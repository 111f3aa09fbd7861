// SPDX-License-Identifier: Apache-2.0
//! etcd, which the tests of the control plane's store start themselves.
//!
//! Taken from the machine where it is in `PATH`. Otherwise Debian's archive is unpacked into the cache: installing the package would
//! leave its daemon running.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    process,
    setup::{
        apt,
        outcome::{Mode, Outcome},
    },
    workspace,
};

const PACKAGE: &str = "etcd-server";
const PROGRAM: &str = "etcd";

/// The program. The tests look in the same places.
pub(crate) fn program() -> Option<PathBuf> {
    let cached = || Some(unpacked().ok()?.join("usr/bin").join(PROGRAM));
    process::find(PROGRAM)
        .or_else(cached)
        .filter(|program| program.is_file())
}

/// Unpacks it unless it is there and starts.
pub(crate) fn step(mode: Mode) -> Outcome {
    if let Some(found) = program().filter(|program| version(program).is_ok()) {
        return Outcome::Ready(found.display().to_string());
    }
    let remedy = "`cargo xtask setup` on a Debian system, or put etcd into PATH";
    if mode == Mode::Check || !apt::present() {
        return Outcome::missing(PROGRAM, remedy);
    }
    match install() {
        Ok(version) => Outcome::Installed(version),
        Err(error) => Outcome::missing(format!("{PROGRAM}: {error:#}"), remedy),
    }
}

fn unpacked() -> Result<PathBuf> {
    Ok(workspace::cache_dir()?.join("etcd-debian"))
}

fn install() -> Result<String> {
    let root = unpacked()?;
    apt::unpack(PACKAGE, &root)?;
    version(&root.join("usr/bin").join(PROGRAM))
}

/// First line of what it says of itself.
fn version(program: &Path) -> Result<String> {
    let said = process::capture(Command::new(program).arg("--version"))?;
    Ok(said.lines().next().unwrap_or_default().to_owned())
}
