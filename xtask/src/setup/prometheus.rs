// SPDX-License-Identifier: Apache-2.0
//! Prometheus and promtool, which scrape and check the agent's metrics in tests.
//!
//! Taken from the machine where both are in `PATH`. Otherwise Debian's archive is unpacked into the cache: installing the
//! package would leave its daemon running.

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

const PACKAGE: &str = "prometheus";
const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];

/// The folder that has both programs.
pub(crate) fn folder() -> Option<PathBuf> {
    let installed = process::find(PROGRAMS[0]).and_then(|file| Some(file.parent()?.to_owned()));
    let cached = unpacked().ok().map(|root| root.join("usr/bin"));
    [installed, cached]
        .into_iter()
        .flatten()
        .find(|folder| PROGRAMS.iter().all(|program| folder.join(program).is_file()))
}

/// Unpacks them unless they are there and start.
pub(crate) fn step(mode: Mode) -> Outcome {
    if let Some(found) = folder().filter(|folder| version(folder).is_ok()) {
        return Outcome::Ready(found.display().to_string());
    }
    let what = PROGRAMS.join(", ");
    let remedy = "`cargo xtask setup` on a Debian system, or put both into PATH";
    if mode == Mode::Check || !apt::present() {
        return Outcome::missing(what, remedy);
    }
    match install() {
        Ok(version) => Outcome::Installed(version),
        Err(error) => Outcome::missing(format!("{what}: {error:#}"), remedy),
    }
}

fn unpacked() -> Result<PathBuf> {
    Ok(workspace::cache_dir()?.join("prometheus-debian"))
}

fn install() -> Result<String> {
    let root = unpacked()?;
    apt::unpack(PACKAGE, &root)?;
    version(&root.join("usr/bin"))
}

/// First line of what promtool says of itself.
fn version(folder: &Path) -> Result<String> {
    let said = process::capture(Command::new(folder.join(PROGRAMS[1])).arg("--version"))?;
    Ok(said.lines().next().unwrap_or_default().to_owned())
}
