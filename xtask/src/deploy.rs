// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask deploy`: checks what is in `deploy/` with the tools that will read it. Part of `lint`.
//!
//! Invariant: nothing is deployed; the only file that is ever written is the base of the kustomizations, and only if asked.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process,
    setup::{self, Scope, archive::KUBECTL, python},
    workspace,
};

/// Each unit, and how exposed `systemd-analyze security` may find it, in tenths of 10.
const UNITS: [(&str, u32); 2] = [("nodemesh-agent", 45), ("nodemesh-control", 20)];

/// Check the Helm chart, the kustomizations, the units and the Dockerfile.
#[derive(clap::Args)]
pub(crate) struct Deploy {
    /// Write the base of the kustomizations anew, from the chart.
    #[arg(long)]
    update: bool,
}

impl Deploy {
    pub(crate) fn run(self) -> Result<ExitCode> {
        setup::ensure(Scope::Deploy)?;
        check(self.update)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Checks everything; the setup has run.
pub(crate) fn check(update: bool) -> Result<()> {
    let tools = python::deploy_folder()?.join("bin");
    let deploy = workspace::root().join("deploy");
    let kubectl = KUBECTL.program().context("no kubectl: run `cargo xtask setup`")?;
    let mut manifests = Command::new(tools.join("python"));
    manifests.arg(deploy.join("check/manifests.py")).arg(kubectl);
    if update {
        manifests.arg("--update");
    }
    process::run(&mut manifests)?;
    process::run(Command::new(tools.join("hadolint")).arg(deploy.join("Dockerfile")))?;
    units(&deploy.join("systemd"))
}

/// Checks copies of the units whose program exists: that of a machine without nodemesh does not.
fn units(folder: &Path) -> Result<()> {
    let scratch = workspace::target_dir()?.join("units");
    fs::create_dir_all(&scratch).with_context(|| format!("create {}", scratch.display()))?;
    for (name, exposure) in UNITS {
        let copy = copy(folder, &scratch, name)?;
        let mut verify = Command::new("systemd-analyze");
        process::run(verify.args(["--man=no", "verify"]).arg(&copy))?;
        let mut security = Command::new("systemd-analyze");
        security
            .args(["security", "--offline=yes", "--no-pager"])
            .arg(format!("--threshold={exposure}"))
            .arg(&copy);
        process::capture(&mut security)
            .with_context(|| format!("{name}.service is more exposed than {exposure} of 100"))?;
    }
    Ok(())
}

fn copy(folder: &Path, scratch: &Path, name: &str) -> Result<PathBuf> {
    let file = format!("{name}.service");
    let unit = folder.join(&file);
    let text = fs::read_to_string(&unit).with_context(|| format!("read {}", unit.display()))?;
    let program = format!("/usr/local/bin/{name}");
    if !text.contains(&program) {
        bail!("{} does not start {program}", unit.display());
    }
    let copy = scratch.join(file);
    fs::write(&copy, text.replace(&program, "/bin/true"))
        .with_context(|| format!("write {}", copy.display()))?;
    Ok(copy)
}
