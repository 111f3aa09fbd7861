// SPDX-License-Identifier: Apache-2.0
//! Builds and lints the kernel programs with the toolchain that `setup` found.
//!
//! Called by every verb that compiles the agent, because `agent/build.rs` embeds the object. The object is rewritten
//! only when its content changed, so an unchanged datapath never recompiles the agent.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    process,
    setup::{self, Scope, linker, toolchain::EbpfToolchain},
    workspace,
};

/// Builds the kernel programs and returns `<target>/ebpf/nodemesh-ebpf.o`.
pub(crate) fn build_object() -> Result<PathBuf> {
    build_as("nodemesh-ebpf.o", &[])
}

/// The same of the version of the ABI that stands for one to come: `<target>/ebpf/nodemesh-ebpf-next.o`.
pub(crate) fn build_next_object() -> Result<PathBuf> {
    build_as("nodemesh-ebpf-next.o", &["--features", "next"])
}

fn build_as(name: &str, features: &[&str]) -> Result<PathBuf> {
    setup::ensure(Scope::Kernel)?;
    let toolchain = EbpfToolchain::require()?;
    let mut command = toolchain.cargo();
    compile(command.arg("build").arg("--release"), &toolchain)?;
    process::run(command.args(features))?;
    let folder = output_dir()?;
    let linked = folder
        .join(target())
        .join("release")
        .join(workspace::EBPF_PACKAGE);
    let object = folder.join(name);
    publish(&linked, &object)?;
    Ok(object)
}

/// A copy of `object` without what only debuggers read: three quarters of it. The kernel's own types stay.
pub(crate) fn stripped(object: &Path) -> Result<PathBuf> {
    let toolchain = EbpfToolchain::require()?;
    let llvm = linker::llvm_prefix(toolchain.llvm_major).context("no LLVM: run `cargo xtask setup`")?;
    let copy = object.with_file_name("nodemesh-ebpf-stripped.o");
    let mut strip = Command::new(llvm.join("bin/llvm-strip"));
    process::run(strip.arg("--strip-debug").arg("-o").arg(&copy).arg(object))?;
    Ok(copy)
}

/// Clippy over the kernel programs, for the target that they are built for.
pub(crate) fn clippy() -> Result<()> {
    let toolchain = EbpfToolchain::require()?;
    let mut command = toolchain.clippy();
    compile(&mut command, &toolchain)?;
    process::run(command.args(["--", "-D", "warnings"]))
}

/// Adds what both builds need: package, target, `core` from source, linker and flags.
fn compile(command: &mut Command, toolchain: &EbpfToolchain) -> Result<()> {
    let linker = linker::path(toolchain)?;
    let flags = [
        "-C".to_owned(),
        format!("linker={}", linker.display()),
        "-C".to_owned(),
        "link-arg=--btf".to_owned(),
        // Else every value that is zeroed or copied is so by a call of a loop over its bytes, which the verifier walks each time.
        "-C".to_owned(),
        "link-arg=--disable-expand-memcpy-in-order".to_owned(),
        "-C".to_owned(),
        "debuginfo=2".to_owned(),
        // 32-bit registers and jumps (Linux 5.1), which rustc must know of to accept them in `asm!`.
        "-C".to_owned(),
        "target-cpu=v3".to_owned(),
        "--cfg".to_owned(),
        format!("bpf_target_arch=\"{}\"", env::consts::ARCH),
    ];
    command
        .current_dir(workspace::root())
        .args([
            "--package",
            workspace::EBPF_PACKAGE,
            "--target",
            target(),
            "-Z",
            "build-std=core",
            "--target-dir",
        ])
        .arg(output_dir()?)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    Ok(())
}

/// The kernel runs the byte order of the host.
fn target() -> &'static str {
    if cfg!(target_endian = "big") {
        "bpfeb-unknown-none"
    } else {
        "bpfel-unknown-none"
    }
}

fn output_dir() -> Result<PathBuf> {
    Ok(workspace::target_dir()?.join("ebpf"))
}

/// Makes `object` equal to `linked`; leaves an equal file, and so its time stamp, alone.
fn publish(linked: &Path, object: &Path) -> Result<()> {
    let new = fs::read(linked).with_context(|| format!("read the linked object {}", linked.display()))?;
    if fs::read(object).is_ok_and(|old| old == new) {
        return Ok(());
    }
    // A rename, so that a build that runs at the same time reads the old or the new object, never half of one.
    let staged = object.with_extension(format!("o.{}", std::process::id()));
    fs::write(&staged, new).with_context(|| format!("write {}", staged.display()))?;
    fs::rename(&staged, object)
        .with_context(|| format!("rename {} to {}", staged.display(), object.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_object_keeps_its_time_stamp() {
        let folder = env::temp_dir().join(format!("nodemesh-xtask-publish-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (linked, object) = (folder.join("linked"), folder.join("object.o"));
        let modified = |file: &Path| fs::metadata(file).unwrap().modified().unwrap();

        fs::write(&linked, "one").unwrap();
        publish(&linked, &object).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH;
        fs::File::options()
            .write(true)
            .open(&object)
            .unwrap()
            .set_modified(old)
            .unwrap();
        publish(&linked, &object).unwrap();
        assert_eq!(modified(&object), old);

        fs::write(&linked, "two").unwrap();
        publish(&linked, &object).unwrap();
        assert_ne!(modified(&object), old);
        assert_eq!(fs::read(&object).unwrap(), b"two");
        assert_eq!(
            fs::read_dir(&folder).unwrap().count(),
            2,
            "a staged file was left behind"
        );
        fs::remove_dir_all(&folder).unwrap();
    }
}
