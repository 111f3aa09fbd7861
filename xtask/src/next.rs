// SPDX-License-Identifier: Apache-2.0
//! The agent of an ABI that is yet to come, `nodemesh-agent-next` beside the other binaries: what the tests of upgrades and downgrades meet.
//!
//! Called before the host's own build, which puts the agent of this ABI back in its place.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{ebpf, process, workspace};

/// Builds it, optimised or not.
pub(crate) fn build(release: bool) -> Result<PathBuf> {
    let object = ebpf::build_next_object()?;
    let mut cargo = workspace::cargo("build")?;
    let agent = [
        "--package",
        "nodemesh-agent",
        "--bin",
        "nodemesh-agent",
        "--features",
        "next",
    ];
    let profile = if release {
        cargo.arg("--release");
        "release"
    } else {
        "debug"
    };
    process::run(cargo.args(agent).env("NODEMESH_EBPF_OBJECT", object))?;
    let folder = workspace::target_dir()?.join(profile);
    let (built, next) = (folder.join("nodemesh-agent"), folder.join("nodemesh-agent-next"));
    // A rename, so that a test that runs at the same time starts a whole one.
    let staged = next.with_extension(format!("{}", std::process::id()));
    fs::copy(&built, &staged).with_context(|| format!("copy {}", built.display()))?;
    fs::rename(&staged, &next).with_context(|| format!("rename {}", staged.display()))?;
    Ok(next)
}
