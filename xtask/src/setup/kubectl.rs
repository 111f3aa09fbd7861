// SPDX-License-Identifier: Apache-2.0
//! kubectl, which builds the kustomizations.
//!
//! Taken from the machine where it is in `PATH` and new enough. Otherwise the one of the next release of Debian is unpacked into the cache:
//! the one of Debian 12 knows no patches with targets.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::{
    process,
    setup::{
        apt,
        outcome::{Mode, Outcome},
    },
    workspace,
};

const PACKAGE: &str = "kubectl";
const RELEASE: &str = "trixie";
const PROGRAM: &str = "kubectl";
/// The first major version of Kustomize that is good.
const OLDEST_KUSTOMIZE: u32 = 5;

/// The program; exists once the setup step ran.
pub(crate) fn program() -> Option<PathBuf> {
    let cached = || Some(unpacked().ok()?.join("usr/bin").join(PROGRAM));
    [process::find(PROGRAM), cached()]
        .into_iter()
        .flatten()
        .filter(|program| program.is_file())
        .find(|program| version(program).is_ok())
}

/// Unpacks it unless one is there that is new enough.
pub(crate) fn step(mode: Mode) -> Outcome {
    if let Some(found) = program() {
        return Outcome::Ready(found.display().to_string());
    }
    let remedy = "`cargo xtask setup` on a Debian system, or put kubectl 1.27 or newer into PATH";
    if mode == Mode::Check || !apt::present() {
        return Outcome::missing(PROGRAM, remedy);
    }
    match install() {
        Ok(version) => Outcome::Installed(version),
        Err(error) => Outcome::missing(format!("{PROGRAM}: {error:#}"), remedy),
    }
}

fn unpacked() -> Result<PathBuf> {
    Ok(workspace::cache_dir()?.join("kubectl-debian"))
}

fn install() -> Result<String> {
    let root = unpacked()?;
    apt::unpack_of(&[PACKAGE], RELEASE, &root)?;
    version(&root.join("usr/bin").join(PROGRAM))
}

/// What it says of its Kustomize, if that is new enough.
fn version(program: &Path) -> Result<String> {
    let said = process::capture(Command::new(program).args(["version", "--client"]))?;
    match kustomize(&said) {
        Some((major, line)) if major >= OLDEST_KUSTOMIZE => Ok(line.to_owned()),
        _ => bail!("its Kustomize is older than {OLDEST_KUSTOMIZE}"),
    }
}

/// Major version, and the line that says it.
fn kustomize(said: &str) -> Option<(u32, &str)> {
    let line = said.lines().find(|line| line.starts_with("Kustomize Version:"))?;
    let number = line.split(": v").nth(1)?.split('.').next()?;
    Some((number.trim().parse().ok()?, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_kustomize_decides() {
        let said = "Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0\n";
        assert_eq!(kustomize(said), Some((5, "Kustomize Version: v5.5.0")));
        assert_eq!(
            kustomize("Client Version: version.Info{Major:\"1\", Minor:\"20\"}\n"),
            None
        );
    }
}
