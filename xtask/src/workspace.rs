// SPDX-License-Identifier: Apache-2.0
//! Where things are: the repository, its build output, the cache of developer tools, and the host's cargo.
//!
//! Used by every verb; all paths are absolute, so a verb works from any folder of the repository.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

/// The package that only the BPF toolchain can build; host commands leave it out.
pub(crate) const EBPF_PACKAGE: &str = "nodemesh-ebpf";

/// The package whose tests need root and a network namespace of their own.
pub(crate) const E2E_PACKAGE: &str = "nodemesh-e2e";

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    // `cargo run` names the manifest of the checkout that is used; the compiled-in one covers a direct start.
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let manifest = PathBuf::from(manifest);
    manifest
        .parent()
        .map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// The target folder of the workspace: `$CARGO_TARGET_DIR`, or `target` in the root.
pub(crate) fn target_dir() -> Result<PathBuf> {
    match env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => {
            std::path::absolute(&dir).with_context(|| format!("resolve CARGO_TARGET_DIR {}", dir.display()))
        }
        None => Ok(root().join("target")),
    }
}

/// Where developer tools are installed: `$XDG_CACHE_HOME/nodemesh`, or `~/.cache/nodemesh`.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let set = |name| {
        env::var_os(name)
            .filter(|value: &OsString| !value.is_empty())
            .map(PathBuf::from)
    };
    let base = match set("XDG_CACHE_HOME") {
        Some(dir) => dir,
        None => set("HOME")
            .context("neither XDG_CACHE_HOME nor HOME is set: set one")?
            .join(".cache"),
    };
    std::path::absolute(base.join("nodemesh")).context("resolve the cache folder")
}

/// The host's cargo, in the root, writing to [`target_dir`].
pub(crate) fn cargo(subcommand: &str) -> Result<Command> {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root()).arg(subcommand);
    if env::var_os("CARGO_TARGET_DIR").is_some() {
        // A relative value means another folder once the command runs in the root.
        command.env("CARGO_TARGET_DIR", target_dir()?);
    }
    Ok(command)
}

/// The host's cargo over every package that the host can build.
pub(crate) fn cargo_host(subcommand: &str) -> Result<Command> {
    let mut command = cargo(subcommand)?;
    command.args(["--workspace", "--exclude", EBPF_PACKAGE]);
    Ok(command)
}
