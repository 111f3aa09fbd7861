// SPDX-License-Identifier: Apache-2.0
//! A developer tool from crates.io at a pinned version, installed into the project's own cache.
//!
//! Used by the steps for bpf-linker and cargo-deny. The folder names everything that the binary depends on, so a new
//! pin is a new folder and never overwrites what another checkout uses.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{process, workspace};

/// A pinned tool.
pub(crate) struct CargoTool {
    /// Package and binary name.
    pub(crate) package: &'static str,
    /// Exact version.
    pub(crate) version: &'static str,
    /// What else the build depends on; part of the folder name.
    pub(crate) variant: Option<String>,
    /// Further arguments of `cargo install`.
    pub(crate) arguments: Vec<String>,
    /// Variables of the build.
    pub(crate) variables: Vec<(String, String)>,
}

impl CargoTool {
    /// Where the binary is once it is installed.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        Ok(self.folder()?.join("bin").join(self.package))
    }

    /// Whether the binary is there and starts: the libraries that it links may have gone.
    pub(crate) fn works(&self) -> bool {
        let version = |path| process::capture(Command::new(path).arg("--version"));
        self.path()
            .and_then(version)
            .is_ok_and(|text| text.contains(self.version))
    }

    /// Builds and installs it, and makes sure that it starts.
    pub(crate) fn install(&self) -> Result<()> {
        let mut command = workspace::cargo("install")?;
        command
            .args([
                self.package,
                "--version",
                self.version,
                "--locked",
                "--force",
                "--root",
            ])
            .arg(self.folder()?)
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            // The tool's build is its own: no shared output, no flags meant for the workspace.
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTFLAGS");
        process::run(&mut command)?;
        let path = self.path()?;
        process::capture(Command::new(&path).arg("--version"))
            .map(drop)
            .with_context(|| format!("{} was installed but does not start", path.display()))
    }

    fn folder(&self) -> Result<PathBuf> {
        let variant = self
            .variant
            .as_deref()
            .map(|variant| format!("-{variant}"))
            .unwrap_or_default();
        Ok(workspace::cache_dir()?.join(format!("{}-{}{variant}", self.package, self.version)))
    }
}
