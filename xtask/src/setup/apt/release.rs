// SPDX-License-Identifier: Apache-2.0
//! Another release of Debian: what it has, what that depends on, and unpacking it.
//!
//! Invariant: lists and settings of this machine stay as they are; nothing is installed.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{extract, mirror, remove};
use crate::process;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A release, with lists of its own in a folder.
pub(crate) struct Release {
    folder: PathBuf,
    /// By which apt sees nothing else.
    options: Vec<String>,
}

impl Release {
    /// Fetches the lists of the release `name` into `folder`.
    pub(crate) fn open(name: &str, folder: &Path) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let list = folder.join("sources.list");
        let line = format!("deb [signed-by={KEYRING}] {} {name} main\n", mirror()?);
        fs::write(&list, line).with_context(|| format!("write {}", list.display()))?;
        let settings = [
            ("Dir::Etc::sourcelist", list.display().to_string()),
            ("Dir::Etc::sourceparts", "-".to_owned()),
            ("Dir::State::lists", folder.join("lists").display().to_string()),
            // Nothing is installed: the candidate is the release's, whatever the machine has.
            ("Dir::State::status", "/dev/null".to_owned()),
            ("Dir::Cache", folder.join("cache").display().to_string()),
            ("APT::Sandbox::User", "root".to_owned()),
        ];
        let release = Self {
            folder: folder.to_owned(),
            options: settings
                .into_iter()
                .flat_map(|(name, value)| ["-o".to_owned(), format!("{name}={value}")])
                .collect(),
        };
        process::run(release.apt("apt-get").args(["-q", "update"]))?;
        Ok(release)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    /// Names of packages that begin with `prefix`.
    pub(crate) fn names(&self, prefix: &str) -> Result<BTreeSet<String>> {
        let said = process::capture(self.apt("apt-cache").args(["pkgnames", prefix]))?;
        Ok(said.lines().map(str::to_owned).collect())
    }

    /// `packages` and all that they depend on.
    pub(crate) fn needed_by(&self, packages: &[&str]) -> Result<Vec<String>> {
        let mut simulated = self.apt("apt-get");
        simulated.args(["-q", "--simulate", "--no-install-recommends", "install"]);
        let said = process::capture(simulated.args(packages))?;
        let installed = said.lines().filter_map(|line| line.strip_prefix("Inst "));
        Ok(installed
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_owned)
            .collect())
    }

    /// Unpacks the archives of `packages` at `root`, and nothing that they depend on.
    pub(crate) fn unpack<S: AsRef<str>>(&self, packages: &[S], root: &Path) -> Result<()> {
        let archives = self.folder.join("archives");
        fs::create_dir_all(&archives)?;
        let mut download = self.apt("apt-get");
        download
            .args(["-qq", "download"])
            .args(packages.iter().map(AsRef::as_ref));
        process::run(download.current_dir(&archives))?;
        extract(&archives, root)?;
        remove(&archives)
    }
}
