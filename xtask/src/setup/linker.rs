// SPDX-License-Identifier: Apache-2.0
//! bpf-linker, built against the LLVM major version of the toolchain whose bitcode it links.
//!
//! The LLVM is Debian's `llvm-N-dev`, or whichever `llvm-config` of that version the machine has; without one the
//! build is left to find LLVM by itself, and its failure is explained.

use std::{
    env,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    process,
    setup::{
        apt,
        cargo_tool::CargoTool,
        outcome::{Mode, Outcome},
        toolchain::EbpfToolchain,
    },
};

const VERSION: &str = "0.13.0";

/// The LLVM versions that [`VERSION`] has a feature for.
pub(crate) const SUPPORTED_LLVM: RangeInclusive<u32> = 21..=23;

/// The linker for what `toolchain` compiles; exists once the setup step ran.
pub(crate) fn path(toolchain: &EbpfToolchain) -> Result<PathBuf> {
    tool(toolchain.llvm_major).path()
}

/// Builds the linker unless it is in the cache and starts.
pub(crate) fn step(mode: Mode) -> Outcome {
    let Some(toolchain) = EbpfToolchain::find() else {
        return Outcome::missing(
            "which LLVM it must match depends on the step above",
            "the one above",
        );
    };
    let llvm = toolchain.llvm_major;
    let description = format!("{VERSION} with LLVM {llvm}");
    if tool(llvm).works() {
        return Outcome::Ready(description);
    }
    if mode == Mode::Check {
        return Outcome::missing(description, "`cargo xtask setup`");
    }
    match install(llvm) {
        Ok(()) => Outcome::Installed(description),
        Err(error) => Outcome::missing(
            format!("{description}: {error:#}"),
            format!(
                "install the development files of LLVM {llvm} (Debian: llvm-{llvm}-dev), or set {} to where they are",
                prefix_variable(llvm)
            ),
        ),
    }
}

/// Where LLVM `major` is installed with its development files.
pub(crate) fn llvm_prefix(major: u32) -> Option<PathBuf> {
    if let Some(chosen) = env::var_os(prefix_variable(major)) {
        return Some(chosen.into());
    }
    let debian = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    if debian.join("bin/llvm-config").exists() && debian.join("include/llvm-c").exists() {
        return Some(debian);
    }
    let config = process::find("llvm-config")?;
    let ask = |what: &str| process::capture(Command::new(&config).arg(what)).ok();
    let same = ask("--version")?.split('.').next()? == major.to_string();
    same.then(|| ask("--prefix"))
        .flatten()
        .map(|prefix| prefix.trim().into())
}

fn install(llvm: u32) -> Result<()> {
    let package = format!("llvm-{llvm}-dev");
    if llvm_prefix(llvm).is_none() && apt::present() && apt::candidate_such_that(&package, |_| true).is_some()
    {
        apt::install(&[&package])?;
    }
    tool(llvm).install()
}

fn tool(llvm: u32) -> CargoTool {
    let arguments = ["--no-default-features", "--features", &format!("llvm-{llvm}")]
        .map(str::to_owned)
        .to_vec();
    let variables = llvm_prefix(llvm)
        .map(|prefix| build_variables(llvm, &prefix))
        .unwrap_or_default();
    CargoTool {
        package: "bpf-linker",
        version: VERSION,
        variant: Some(format!("llvm-{llvm}")),
        arguments,
        variables,
    }
}

/// Names the LLVM both to llvm-sys, by its prefix, and to bpf-linker's own build script, by `PATH`.
fn build_variables(llvm: u32, prefix: &Path) -> Vec<(String, String)> {
    let path = env::var("PATH").unwrap_or_default();
    vec![
        (prefix_variable(llvm), prefix.display().to_string()),
        (
            "PATH".to_owned(),
            format!("{}:{path}", prefix.join("bin").display()),
        ),
    ]
}

/// The variable of llvm-sys, whose version is the major version followed by the minor one, always 1.
fn prefix_variable(llvm: u32) -> String {
    format!("LLVM_SYS_{llvm}1_PREFIX")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_keyed_by_linker_and_llvm() {
        let folders = SUPPORTED_LLVM
            .map(|llvm| tool(llvm).path().unwrap())
            .collect::<Vec<_>>();
        assert!(
            folders[0].ends_with("nodemesh/bpf-linker-0.13.0-llvm-21/bin/bpf-linker"),
            "{folders:?}"
        );
        assert_ne!(folders[0], folders[1]);
    }

    #[test]
    fn llvm_is_named_to_both_build_scripts() {
        let variables = build_variables(22, Path::new("/usr/lib/llvm-22"));
        assert_eq!(
            variables[0],
            ("LLVM_SYS_221_PREFIX".to_owned(), "/usr/lib/llvm-22".to_owned())
        );
        assert!(variables[1].1.starts_with("/usr/lib/llvm-22/bin:"));
    }
}
