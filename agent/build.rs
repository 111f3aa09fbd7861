// SPDX-License-Identifier: Apache-2.0
//! Hands the compiled kernel programs, the commit and the version of the ABI to the agent.
//!
//! The object is built by `cargo xtask build`, which knows the toolchains that can target BPF. Invariant: an agent
//! without its kernel programs does not build.

use std::{env, fs, path::PathBuf, process::Command};

fn main() {
    let object = object_path();
    println!("cargo:rerun-if-env-changed=NODEMESH_EBPF_OBJECT");
    println!("cargo:rerun-if-changed={}", object.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("nodemesh-ebpf.o");
    if let Err(error) = fs::copy(&object, &out) {
        panic!(
            "{}: {error}; run `cargo xtask build`, which compiles the kernel programs first",
            object.display()
        );
    }
    println!("cargo:rustc-env=NODEMESH_ABI={}", nodemesh_abi::ABI_VERSION);
    println!("cargo:rerun-if-env-changed=NODEMESH_COMMIT");
    // Written with every commit, while HEAD itself only names the branch.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
    // Where there is no repository, as in the build of an image, the commit is told.
    let commit = env::var("NODEMESH_COMMIT").ok();
    let commit = commit.or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    println!(
        "cargo:rustc-env=NODEMESH_COMMIT={}",
        commit.unwrap_or_else(|| "unknown".into())
    );
}

/// `NODEMESH_EBPF_OBJECT`, or the place where `cargo xtask build` puts the object: `ebpf/` in the target directory.
fn object_path() -> PathBuf {
    if let Some(path) = env::var_os("NODEMESH_EBPF_OBJECT") {
        return path.into();
    }
    // OUT_DIR is <target>[/<triple>]/<profile>/build/<package>-<hash>/out.
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    out.ancestors()
        .skip(4)
        .take(2)
        .map(|target| target.join("ebpf/nodemesh-ebpf.o"))
        .find(|path| path.exists())
        .unwrap_or_else(|| {
            out.ancestors()
                .nth(4)
                .expect("OUT_DIR is deep")
                .join("ebpf/nodemesh-ebpf.o")
        })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !said.is_empty()).then_some(said)
}
