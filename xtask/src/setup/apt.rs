// SPDX-License-Identifier: Apache-2.0
//! Debian packages: which version could be installed, and installing them.
//!
//! Called by the setup steps only. The package lists are refreshed at most once per run, and only when a package or a
//! version that they name cannot be had.

mod release;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, bail};

use crate::{process, setup::machine};

pub(crate) use release::Release;

const INSTALL: [&str; 4] = ["apt-get", "install", "-y", "--no-install-recommends"];

static REFRESHED: AtomicBool = AtomicBool::new(false);

/// Whether this machine has apt at all.
pub(crate) fn present() -> bool {
    process::find("apt-get").is_some()
}

/// The command line that installs `packages`, for remedies.
pub(crate) fn install_line(packages: &[&str]) -> String {
    format!("{} {}", INSTALL.join(" "), packages.join(" "))
}

/// Major and minor version of `package` that apt would install now; `None` where there is none.
pub(crate) fn candidate(package: &str) -> Option<(u32, u32)> {
    let policy = process::capture(
        Command::new("apt-cache")
            .env("LC_ALL", "C")
            .args(["policy", package]),
    )
    .ok()?;
    parse_candidate(&policy)
}

/// Like [`candidate`], with fresh package lists when the ones at hand do not satisfy `wanted`.
pub(crate) fn candidate_such_that(package: &str, wanted: fn((u32, u32)) -> bool) -> Option<(u32, u32)> {
    candidate(package).filter(|version| wanted(*version)).or_else(|| {
        refresh().ok()?;
        candidate(package).filter(|version| wanted(*version))
    })
}

/// Installs `packages`; needs root or sudo.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let attempt = || process::run(privileged(&INSTALL)?.args(packages));
    attempt().or_else(|error| {
        // Stale lists name versions that the mirror no longer has.
        if refresh()? { attempt() } else { Err(error) }
    })
}

/// Unpacks the archives of `packages` of another release of Debian, as [`unpack`] does, and nothing that they depend on.
pub(crate) fn unpack_of(packages: &[&str], release: &str, root: &Path) -> Result<()> {
    let fresh = root.with_extension(format!("new-{}", std::process::id()));
    let unpacked = (|| {
        Release::open(release, &fresh)?.unpack(packages, &fresh.join("root"))?;
        remove(root)?;
        fs::rename(fresh.join("root"), root).with_context(|| format!("create {}", root.display()))
    })();
    remove(&fresh)?;
    unpacked
}

/// The archive of Debian's releases that this machine uses: the one of its own release, not of updates to it.
fn mirror() -> Result<String> {
    let format = "$(ORIGIN) $(SUITE) $(REPO_URI)";
    let mut targets = Command::new("apt-get");
    let said = process::capture(targets.args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    parse_mirror(&said)
        .context("apt knows no archive of Debian: add one to its sources and run `apt-get update`")
}

fn parse_mirror(targets: &str) -> Option<String> {
    targets.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (origin, suite, uri) = (words.next()?, words.next()?, words.next()?);
        (origin == "Debian" && !suite.contains('-')).then(|| uri.to_owned())
    })
}

/// Puts the archive of `package` into `folder`, without installing anything; needs no privileges while the lists are fresh.
fn download(package: &str, folder: &Path) -> Result<()> {
    let attempt = || {
        let mut command = Command::new("apt-get");
        // As another user, apt could not write to a folder of ours.
        command.args(["-o", "APT::Sandbox::User=root", "download", package]);
        process::run(command.current_dir(folder))
    };
    attempt().or_else(|error| if refresh()? { attempt() } else { Err(error) })
}

/// Unpacks the archive of `package` at `root`, without installing anything. It is unpacked beside the place and then renamed, so
/// that what is there is whole.
pub(crate) fn unpack(package: &str, root: &Path) -> Result<()> {
    let fresh = root.with_extension(format!("new-{}", std::process::id()));
    let unpacked = unpack_beside(package, &fresh).and_then(|()| {
        remove(root)?;
        fs::rename(fresh.join("root"), root).with_context(|| format!("create {}", root.display()))
    });
    remove(&fresh)?;
    unpacked
}

fn unpack_beside(package: &str, fresh: &Path) -> Result<()> {
    fs::create_dir_all(fresh).with_context(|| format!("create {}", fresh.display()))?;
    download(package, fresh)?;
    extract(fresh, &fresh.join("root"))
}

/// Unpacks the archives in the folder `fresh` to `root`.
fn extract(fresh: &Path, root: &Path) -> Result<()> {
    let files = fs::read_dir(fresh)?.flatten().map(|entry| entry.path());
    let is_archive = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "deb");
    let archives: Vec<PathBuf> = files.filter(is_archive).collect();
    if archives.is_empty() {
        bail!("apt-get download left no archive in {}", fresh.display());
    }
    for archive in archives {
        let mut dpkg = Command::new("dpkg");
        process::capture(dpkg.arg("-x").arg(archive).arg(root))?;
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    Ok(())
}

/// Refreshes the package lists unless this run already did; says whether it did so now.
fn refresh() -> Result<bool> {
    if REFRESHED.swap(true, Ordering::Relaxed) {
        return Ok(false);
    }
    process::run(&mut privileged(&["apt-get", "update"])?)?;
    Ok(true)
}

fn privileged(words: &[&str]) -> Result<Command> {
    let mut all = vec!["env", "DEBIAN_FRONTEND=noninteractive"];
    if !machine::is_root() {
        process::find("sudo")
            .with_context(|| format!("neither root nor sudo: run `{}` as root", words.join(" ")))?;
        all.insert(0, "sudo");
    }
    all.extend(words);
    let mut command = Command::new(all[0]);
    command.args(&all[1..]);
    Ok(command)
}

fn parse_candidate(policy: &str) -> Option<(u32, u32)> {
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate:"))?
        .trim();
    let upstream = version.split_once(':').map_or(version, |(_epoch, rest)| rest);
    let mut numbers = upstream.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_the_release() {
        let targets = "Debian oldstable-security http://a.example/debian-security/\n\
                       Other stable http://b.example/\n\
                       Debian oldstable http://a.example/debian/\n";
        assert_eq!(parse_mirror(targets).as_deref(), Some("http://a.example/debian/"));
        assert_eq!(parse_mirror("Other stable http://b.example/\n"), None);
    }

    #[test]
    fn candidates_are_read_from_the_policy() {
        for (version, expected) in [
            ("1.96.0+dfsg1-1~deb12u2", Some((1, 96))),
            ("1:22.1.8-1~deb12u1", Some((22, 1))),
            ("(none)", None),
            ("", None),
        ] {
            let policy =
                format!("rustc-web:\n  Installed: (none)\n  Candidate: {version}\n  Version table:\n");
            assert_eq!(parse_candidate(&policy), expected, "{version}");
        }
        assert_eq!(parse_candidate("N: Unable to locate package x\n"), None);
    }
}
