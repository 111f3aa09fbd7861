// SPDX-License-Identifier: Apache-2.0
//! The standard library that releases are linked with: musl's, so that a binary needs nothing of the machine that it runs on.
//!
//! Invariant: it belongs to the toolchain that runs xtask, as the one that tests were run with.

use std::{env, path::Path, process::Command};

use anyhow::Result;

use crate::{
    process,
    setup::outcome::{Mode, Outcome},
    workspace,
};

/// What releases are built for.
pub(crate) fn target() -> String {
    format!("{}-unknown-linux-musl", env::consts::ARCH)
}

/// `cargo SUBCOMMAND` for [`target`].
pub(crate) fn cargo(subcommand: &str) -> Result<Command> {
    let mut command = workspace::cargo(subcommand)?;
    // The C and assembler of dependencies; rustc brings its own linker arguments.
    command
        .args(["--target", &target()])
        .env(format!("CC_{}", target().replace('-', "_")), "musl-gcc");
    Ok(command)
}

/// Adds the library unless it is there.
pub(crate) fn step(mode: Mode) -> Outcome {
    let target = target();
    if is_there() {
        return Outcome::Ready(target);
    }
    let remedy = format!("`rustup target add {target}`");
    if mode == Mode::Check {
        return Outcome::missing(format!("the standard library for {target}"), remedy);
    }
    match process::run(Command::new("rustup").args(["target", "add", &target])) {
        Ok(()) if is_there() => Outcome::Installed(target),
        Ok(()) => Outcome::missing(format!("{target} in the toolchain that runs this"), remedy),
        Err(error) => Outcome::missing(format!("{target}: {error:#}"), remedy),
    }
}

fn is_there() -> bool {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    process::capture(Command::new(rustc).args(["--print", "sysroot"])).is_ok_and(|sysroot| {
        Path::new(sysroot.trim())
            .join("lib/rustlib")
            .join(target())
            .is_dir()
    })
}
