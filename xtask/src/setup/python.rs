// SPDX-License-Identifier: Apache-2.0
//! A Python of the project's own, with the servers and clients of `tests/real/requirements.txt` at their exact versions.
//!
//! The folder in the cache is named after the requirements, and has a copy of them once it is whole: that copy is how the
//! tests find it without this program.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    process,
    setup::{
        apt,
        outcome::{Mode, Outcome},
    },
    workspace,
};

/// What is installed, below the root of the repository.
const REQUIREMENTS: &str = "tests/real/requirements.txt";

/// The interpreter; exists once the setup step ran.
pub(crate) fn path() -> Result<PathBuf> {
    Ok(folder(&requirements()?)?.join("bin/python"))
}

/// Makes the environment unless it is whole and starts.
pub(crate) fn step(mode: Mode) -> Outcome {
    let remedy = "`cargo xtask setup`, on a machine that reaches PyPI and has Python 3 with its module venv";
    let wanted = match requirements() {
        Ok(text) => text,
        Err(error) => return Outcome::missing(format!("{error:#}"), "check out the whole repository"),
    };
    let environment = match folder(&wanted) {
        Ok(folder) => folder,
        Err(error) => return Outcome::missing(format!("{error:#}"), "set HOME"),
    };
    if works(&environment, &wanted) {
        return Outcome::Ready(environment.display().to_string());
    }
    if mode == Mode::Check {
        return Outcome::missing(environment.display().to_string(), remedy);
    }
    match install(&environment, &wanted) {
        Ok(()) => Outcome::Installed(environment.display().to_string()),
        Err(error) => Outcome::missing(format!("{error:#}"), remedy),
    }
}

fn requirements() -> Result<String> {
    let file = workspace::root().join(REQUIREMENTS);
    fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
}

fn folder(requirements: &str) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    requirements.hash(&mut hasher);
    Ok(workspace::cache_dir()?.join(format!("python-{:016x}", hasher.finish())))
}

/// Whether all was installed, and for the Python that the machine has now.
fn works(environment: &Path, requirements: &str) -> bool {
    let marker = fs::read_to_string(environment.join("requirements.txt"));
    let python = environment.join("bin/python");
    marker.is_ok_and(|marker| marker == requirements)
        && process::capture(Command::new(python).args(["-c", "import h11"])).is_ok()
}

fn install(environment: &Path, requirements: &str) -> Result<()> {
    if environment.exists() {
        fs::remove_dir_all(environment).with_context(|| format!("remove {}", environment.display()))?;
    }
    process::run(Command::new(interpreter()?).args(["-m", "venv"]).arg(environment))?;
    let mut pip = Command::new(environment.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        // The file names everything; a wheel needs no compiler.
        .args(["--no-deps", "--only-binary", ":all:", "--requirement"])
        .arg(workspace::root().join(REQUIREMENTS));
    process::run(&mut pip)?;
    process::run(Command::new(environment.join("bin/python")).args(["-m", "pip", "check"]))?;
    fs::write(environment.join("requirements.txt"), requirements).context("mark the environment as whole")
}

/// A Python 3 that can make environments; Debian's, which lasts, before one of the user's.
fn interpreter() -> Result<PathBuf> {
    let able = || {
        let candidates = [Some("/usr/bin/python3".into()), process::find("python3")];
        candidates.into_iter().flatten().find(|python: &PathBuf| {
            process::capture(Command::new(python).args(["-c", "import venv, ensurepip"])).is_ok()
        })
    };
    if able().is_none() && apt::present() {
        apt::install(&["python3-venv"])?;
    }
    able().context("no Python 3 with the modules venv and ensurepip")
}
