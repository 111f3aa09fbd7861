// SPDX-License-Identifier: Apache-2.0
//! Programs of Debian packages that are unpacked into the cache, not installed: installing would leave a daemon running, or need another
//! release of Debian.
//!
//! ```text
//! PATH --(every program there, new enough)--> used
//!   `--otherwise--> cache/NAME-debian/usr/bin --(apt-get download, dpkg -x)--> used
//! ```
//!
//! Steps of `setup`, and where other verbs find the programs. Invariant: the tests look in the same places (`tests/src/real/tool.rs`).

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    process,
    setup::{
        apt,
        outcome::{Mode, Outcome},
    },
    workspace,
};

/// A package, and what is wanted of it.
pub(crate) struct Archive {
    package: &'static str,
    /// Release of Debian that has it; `None` is that of the machine.
    release: Option<&'static str>,
    /// Names the folder in the cache.
    name: &'static str,
    /// All in one folder; the last tells the version.
    programs: &'static [&'static str],
    /// Asks it.
    arguments: &'static [&'static str],
    /// What of the answer is shown, or why the program is no good.
    read: fn(&str) -> Result<&str>,
    /// What to put into PATH otherwise.
    wanted: &'static str,
}

/// The tests of the control plane's store start it themselves.
pub(crate) const ETCD: Archive = Archive {
    package: "etcd-server",
    release: None,
    name: "etcd",
    programs: &["etcd"],
    arguments: &["--version"],
    read: first_line,
    wanted: "etcd",
};

/// Builds the kustomizations, and is used by tests as a person would. The one of Debian 12 knows no patches with targets.
pub(crate) const KUBECTL: Archive = Archive {
    package: "kubectl",
    release: Some("trixie"),
    name: "kubectl",
    programs: &["kubectl"],
    arguments: &["version", "--client"],
    read: kustomize,
    wanted: "kubectl 1.27 or newer",
};

/// They scrape and check the metrics in tests.
pub(crate) const PROMETHEUS: Archive = Archive {
    package: "prometheus",
    release: None,
    name: "prometheus",
    programs: &["prometheus", "promtool"],
    arguments: &["--version"],
    read: first_line,
    wanted: "prometheus and promtool",
};

/// The first major version of Kustomize that is good.
const OLDEST_KUSTOMIZE: u32 = 5;

impl Archive {
    /// The folder that has all the programs.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        let installed = process::find(self.programs[0]).and_then(|file| Some(file.parent()?.to_owned()));
        let cached = self.unpacked().ok().map(|root| bin(&root));
        [installed, cached]
            .into_iter()
            .flatten()
            .filter(|folder| self.programs.iter().all(|program| folder.join(program).is_file()))
            .find(|folder| self.version(folder).is_ok())
    }

    /// Its first program.
    pub(crate) fn program(&self) -> Option<PathBuf> {
        Some(self.folder()?.join(self.programs[0]))
    }

    /// Unpacks it unless the programs are there and good.
    pub(crate) fn step(&self, mode: Mode) -> Outcome {
        if let Some(found) = self.folder() {
            return Outcome::Ready(found.display().to_string());
        }
        let remedy = format!(
            "`cargo xtask setup` on a Debian system, or put {} into PATH",
            self.wanted
        );
        if mode == Mode::Check || !apt::present() {
            return Outcome::missing(self.programs.join(", "), remedy);
        }
        match self.install() {
            Ok(version) => Outcome::Installed(version),
            Err(error) => Outcome::missing(format!("{}: {error:#}", self.package), remedy),
        }
    }

    fn unpacked(&self) -> Result<PathBuf> {
        Ok(workspace::cache_dir()?.join(format!("{}-debian", self.name)))
    }

    fn install(&self) -> Result<String> {
        let root = self.unpacked()?;
        match self.release {
            Some(release) => apt::unpack_of(&[self.package], release, &root)?,
            None => apt::unpack(self.package, &root)?,
        }
        self.version(&bin(&root))
    }

    /// What the programs in `folder` say of themselves.
    fn version(&self, folder: &Path) -> Result<String> {
        let teller = self.programs.last().context("an archive without programs")?;
        let said = process::capture(Command::new(folder.join(teller)).args(self.arguments))?;
        Ok((self.read)(&said)?.to_owned())
    }
}

fn bin(root: &Path) -> PathBuf {
    root.join("usr/bin")
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "one of two readers; the other one refuses"
)]
fn first_line(said: &str) -> Result<&str> {
    Ok(said.lines().next().unwrap_or_default())
}

/// The line about Kustomize, if that is new enough.
fn kustomize(said: &str) -> Result<&str> {
    let line = said.lines().find(|line| line.starts_with("Kustomize Version:"));
    let number = line.and_then(|line| line.split(": v").nth(1)?.split('.').next());
    let major: Option<u32> = number.and_then(|number| number.trim().parse().ok());
    match (line, major) {
        (Some(line), Some(major)) if major >= OLDEST_KUSTOMIZE => Ok(line),
        _ => bail!("its Kustomize is older than {OLDEST_KUSTOMIZE}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_kustomize_decides() {
        let said = "Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0\n";
        assert_eq!(kustomize(said).unwrap(), "Kustomize Version: v5.5.0");
        for old in [
            "Client Version: version.Info{Major:\"1\", Minor:\"20\"}\n",
            "Kustomize Version: v4.5.7\n",
        ] {
            assert!(kustomize(old).is_err(), "{old}");
        }
    }
}
