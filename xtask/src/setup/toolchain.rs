// SPDX-License-Identifier: Apache-2.0
//! The Rust that builds the kernel programs: it has the sources of `core` and an LLVM that bpf-linker knows.
//!
//! Either rustup's nightly with `rust-src`, or the compiler of Debian in `/usr`, which is a stable release and so is
//! told by `RUSTC_BOOTSTRAP` to accept `-Z build-std`. Found anew by each verb; nothing is written down.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    process,
    setup::{
        apt, linker,
        outcome::{Mode, Outcome},
    },
};

/// The first release whose LLVM (21) the pinned bpf-linker can read.
const OLDEST_RUST: (u32, u32) = (1, 91);

/// The names that Debian gives the same three things: for browsers in a stable release, and in general.
const DEBIAN_FAMILIES: [[&str; 3]; 2] = [
    ["rustc-web", "cargo-web", "rust-web-src"],
    ["rustc", "cargo", "rust-src"],
];

/// Where a toolchain came from, which decides how it is completed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// `rustup run nightly`.
    RustupNightly,
    /// Packages that install to `/usr`.
    Debian,
}

/// A Rust that can build for the BPF target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct EbpfToolchain {
    /// Who installed it.
    pub(crate) origin: Origin,
    /// The release, as `rustc -vV` says it.
    pub(crate) release: String,
    /// The LLVM that its bitcode is for.
    pub(crate) llvm_major: u32,
    bin: PathBuf,
}

impl EbpfToolchain {
    /// The toolchain to build with.
    ///
    /// Of two, the one whose LLVM is on the machine, because bpf-linker can be built for that one.
    pub(crate) fn find() -> Option<Self> {
        let mut found: Vec<Self> = [Self::rustup_nightly(), Self::debian()]
            .into_iter()
            .flatten()
            .collect();
        let best = found
            .iter()
            .position(|one| linker::llvm_prefix(one.llvm_major).is_some())
            .unwrap_or(0);
        (!found.is_empty()).then(|| found.swap_remove(best))
    }

    /// [`Self::find`], for callers that ran the setup step before.
    pub(crate) fn require() -> Result<Self> {
        Self::find().context("no Rust that can build for the BPF target: run `cargo xtask setup`")
    }

    /// Its cargo, which uses its own compiler whatever toolchain started xtask.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(self.bin.join("cargo"));
        self.isolate(&mut command);
        command
    }

    /// Its clippy.
    pub(crate) fn clippy(&self) -> Command {
        // Not `cargo clippy`: cargo looks in `~/.cargo/bin` first and would find rustup's.
        let mut command = Command::new(self.clippy_file());
        self.isolate(command.arg("clippy"));
        command
    }

    /// Where its clippy is, if it is installed.
    pub(crate) fn clippy_file(&self) -> PathBuf {
        self.bin.join("cargo-clippy")
    }

    fn isolate(&self, command: &mut Command) {
        command
            .env("RUSTC", self.bin.join("rustc"))
            .env("CARGO", self.bin.join("cargo"));
        // The libraries of the toolchain that runs xtask.
        command
            .env_remove("LD_LIBRARY_PATH")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTDOC");
        if self.origin == Origin::Debian {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
    }

    fn rustup_nightly() -> Option<Self> {
        let sysroot =
            process::capture(&mut rustup(&["run", "nightly", "rustc", "--print", "sysroot"])).ok()?;
        Self::from_sysroot(Origin::RustupNightly, Path::new(sysroot.trim()))
    }

    fn debian() -> Option<Self> {
        let mut rustc = Command::new("/usr/bin/rustc");
        rustc.env_remove("LD_LIBRARY_PATH").args(["--print", "sysroot"]);
        let sysroot = process::capture(&mut rustc).ok()?;
        // Debian's rustup package puts its proxies into /usr/bin; those lead elsewhere.
        (sysroot.trim() == "/usr")
            .then(|| Self::from_sysroot(Origin::Debian, Path::new("/usr")))
            .flatten()
    }

    fn from_sysroot(origin: Origin, sysroot: &Path) -> Option<Self> {
        let bin = sysroot.join("bin");
        let complete =
            sysroot.join("lib/rustlib/src/rust/library/core").is_dir() && bin.join("cargo").is_file();
        if !complete {
            return None;
        }
        let version = process::capture(
            Command::new(bin.join("rustc"))
                .env_remove("LD_LIBRARY_PATH")
                .arg("-vV"),
        )
        .ok()?;
        let (release, llvm_major) = parse_version(&version)?;
        let usable = number_pair(&release)? >= OLDEST_RUST && linker::SUPPORTED_LLVM.contains(&llvm_major);
        usable.then_some(Self {
            origin,
            release,
            llvm_major,
            bin,
        })
    }

    fn describe(&self) -> String {
        let name = match self.origin {
            Origin::RustupNightly => "rustup nightly",
            Origin::Debian => "Debian",
        };
        format!(
            "{name} {} with LLVM {}, sources of core",
            self.release, self.llvm_major
        )
    }
}

/// Finds the toolchain or installs one: Debian's where it is new enough, else rustup's nightly.
pub(crate) fn step(mode: Mode) -> Outcome {
    if let Some(found) = EbpfToolchain::find() {
        return Outcome::Ready(found.describe());
    }
    let what = "no Rust with the sources of core and a recent LLVM";
    let remedy = "`rustup toolchain install nightly --profile minimal --component rust-src`";
    if mode == Mode::Check {
        return Outcome::missing(what, format!("`cargo xtask setup`, or {remedy}"));
    }
    let tried = install();
    match (EbpfToolchain::find(), tried) {
        (Some(found), _) => Outcome::Installed(found.describe()),
        (None, Ok(())) => Outcome::missing(format!("{what}, also after installing"), remedy),
        (None, Err(error)) => Outcome::missing(format!("{what}: {error:#}"), remedy),
    }
}

fn install() -> Result<()> {
    if let Some(packages) = debian_family() {
        return apt::install(&packages);
    }
    let installed =
        process::capture(&mut rustup(&["toolchain", "list"])).context("neither apt nor rustup can help")?;
    if installed.lines().any(|line| line.starts_with("nightly-")) {
        process::run(&mut rustup(&[
            "component",
            "add",
            "rust-src",
            "--toolchain",
            "nightly",
        ]))
    } else {
        let words = [
            "toolchain",
            "install",
            "nightly",
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ];
        process::run(&mut rustup(&words))
    }
}

fn debian_family() -> Option<[&'static str; 3]> {
    let new_enough = |version| version >= OLDEST_RUST;
    if !apt::present() {
        return None;
    }
    DEBIAN_FAMILIES
        .into_iter()
        .find(|family| apt::candidate_such_that(family[0], new_enough).is_some())
}

/// rustup without the choice that it made for the process that runs xtask.
pub(crate) fn rustup(words: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("LD_LIBRARY_PATH")
        .args(words);
    command
}

/// Release and LLVM major version from `rustc -vV`.
fn parse_version(text: &str) -> Option<(String, u32)> {
    let field = |name| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some((field("release:")?.to_owned(), llvm))
}

fn number_pair(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_compiler() {
        let text = "rustc 1.97.0-nightly (e50 2026-05-19)\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(parse_version(text), Some(("1.97.0-nightly".to_owned(), 22)));
        assert_eq!(number_pair("1.97.0-nightly"), Some((1, 97)));
        assert_eq!(parse_version("rustc 1.97.0\n"), None);
    }

    #[test]
    fn a_toolchain_without_the_sources_of_core_is_not_one() {
        let folder = std::env::temp_dir().join(format!("nodemesh-xtask-sysroot-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("bin")).unwrap();
        assert_eq!(EbpfToolchain::from_sysroot(Origin::RustupNightly, &folder), None);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
