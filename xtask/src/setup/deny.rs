// SPDX-License-Identifier: Apache-2.0
//! cargo-deny, which checks licences, sources, bans and advisories of the dependency tree for `lint`.

use std::path::PathBuf;

use anyhow::Result;

use crate::setup::{
    cargo_tool::CargoTool,
    outcome::{Mode, Outcome},
};

const VERSION: &str = "0.20.2";

/// The pinned binary; exists once the setup step ran.
pub(crate) fn path() -> Result<PathBuf> {
    tool().path()
}

/// Installs it unless it is in the cache and starts.
pub(crate) fn step(mode: Mode) -> Outcome {
    if tool().works() {
        return Outcome::Ready(VERSION.to_owned());
    }
    let remedy = "`cargo xtask setup`, on a machine that reaches crates.io";
    if mode == Mode::Check {
        return Outcome::missing(VERSION, remedy);
    }
    match tool().install() {
        Ok(()) => Outcome::Installed(VERSION.to_owned()),
        Err(error) => Outcome::missing(format!("{error:#}"), remedy),
    }
}

fn tool() -> CargoTool {
    CargoTool {
        package: "cargo-deny",
        version: VERSION,
        variant: None,
        arguments: Vec::new(),
        variables: Vec::new(),
    }
}
