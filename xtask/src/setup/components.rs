// SPDX-License-Identifier: Apache-2.0
//! rustfmt and clippy, for the host's toolchain and for the one that builds the kernel programs.
//!
//! Called by `setup` and `lint`. A missing one is installed or reported, never skipped.

use std::{env, process::Command};

use anyhow::Result;

use crate::{
    process,
    setup::{
        apt,
        outcome::{Mode, Outcome},
        toolchain::{EbpfToolchain, Origin, rustup},
    },
    workspace,
};

/// Debian's clippy, under the names of the two families of packages.
const DEBIAN_CLIPPY: [&str; 2] = ["rust-web-clippy", "rust-clippy"];

/// rustfmt and clippy of the toolchain that runs xtask.
pub(crate) fn host(mode: Mode) -> Outcome {
    let version = |tool: &str| process::capture(workspace::cargo(tool)?.arg("--version"));
    let found = || {
        Ok::<_, anyhow::Error>(format!(
            "{}, {}",
            version("fmt")?.trim(),
            version("clippy")?.trim()
        ))
    };
    let remedy = "`rustup component add rustfmt clippy`, or the packages of this distribution";
    match found() {
        Ok(both) => Outcome::Ready(both),
        Err(error) if mode == Mode::Check => Outcome::missing(format!("{error:#}"), remedy),
        Err(_) => match add_host_components().and_then(|()| found()) {
            Ok(both) => Outcome::Installed(both),
            Err(error) => Outcome::missing(format!("{error:#}"), remedy),
        },
    }
}

/// clippy of the toolchain that builds the kernel programs.
pub(crate) fn ebpf(mode: Mode) -> Outcome {
    let Some(toolchain) = EbpfToolchain::find() else {
        return Outcome::missing("depends on the toolchain above", "the one above");
    };
    let file = toolchain.clippy_file();
    if file.is_file() {
        return Outcome::Ready(file.display().to_string());
    }
    let (remedy, install): (_, fn() -> Result<()>) = match toolchain.origin {
        Origin::RustupNightly => (
            "`rustup component add clippy --toolchain nightly`".to_owned(),
            add_nightly_clippy,
        ),
        Origin::Debian => (
            format!("`{}`", apt::install_line(&[debian_clippy()])),
            add_debian_clippy,
        ),
    };
    if mode == Mode::Check {
        return Outcome::missing(file.display().to_string(), remedy);
    }
    match install() {
        Ok(()) if file.is_file() => Outcome::Installed(file.display().to_string()),
        Ok(()) => Outcome::missing(
            format!("{} is not there after installing", file.display()),
            remedy,
        ),
        Err(error) => Outcome::missing(format!("{error:#}"), remedy),
    }
}

fn add_host_components() -> Result<()> {
    // Unlike elsewhere, the toolchain that runs xtask is the one meant.
    let mut command = Command::new("rustup");
    command.args(["component", "add", "rustfmt", "clippy"]);
    if let Some(toolchain) = env::var_os("RUSTUP_TOOLCHAIN") {
        command.arg("--toolchain").arg(toolchain);
    }
    process::run(&mut command)
}

fn add_nightly_clippy() -> Result<()> {
    process::run(&mut rustup(&[
        "component",
        "add",
        "clippy",
        "--toolchain",
        "nightly",
    ]))
}

fn add_debian_clippy() -> Result<()> {
    apt::install(&[debian_clippy()])
}

/// The package of the family that the installed compiler belongs to.
fn debian_clippy() -> &'static str {
    let mut query = Command::new("dpkg-query");
    query.args(["--search", "/usr/bin/rustc"]);
    let web = process::capture(&mut query).is_ok_and(|owner| owner.starts_with("rustc-web:"));
    DEBIAN_CLIPPY[usize::from(!web)]
}
