// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask kernels`: loads every program on an older kernel, in an emulated machine, and uses what runs there.
//!
//! The kernel is one of Debian's, the machine qemu's without hardware support. In it run the binaries of the last build, their
//! libraries and a shell; `kernels/init.sh` says what they do. Invariant: the verdict is that of the steps inside, each of which must
//! be there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    process,
    setup::{self, Scope, apt},
    test, workspace,
};

/// Debian's smallest kernel of the oldest release that is still kept, by the name of its newest build.
const KERNEL: &str = "linux-image-cloud-amd64";
/// Half a minute on an idle machine, most of it the verifier's.
const PATIENCE_SECONDS: &str = "900";
/// What the machine runs.
const INIT: &str = include_str!("kernels/init.sh");
/// What [`INIT`] says for each step, with its name behind.
const STEP: &str = "== ";
/// Programs in it, beside the shell.
const PROGRAMS: [&str; 4] = ["nodemesh-agent", "nodemesh", "model-server", "load-client"];
/// The module of the kernel that gives it an interface.
const MODULE: &str = "dummy.ko";

/// A mesh of one service.
const MESH: &str = "apiVersion: nodemesh.io/v1alpha1
kind: Service
metadata: {name: a, namespace: models}
spec:
  addresses: [10.99.0.1]
  ports: [{port: 8000}]
  packetPath: snat
  backends: [{address: 127.0.0.1, port: 9000}]
";

/// Load every program on an older kernel of Debian, in an emulated machine; takes a minute.
#[derive(clap::Args)]
pub(crate) struct Kernels {
    /// Package of the kernel.
    #[arg(long, default_value = KERNEL)]
    package: String,
    /// Use the binaries of the last build as they are.
    #[arg(long)]
    no_build: bool,
}

impl Kernels {
    pub(crate) fn run(self) -> Result<ExitCode> {
        if !self.no_build {
            test::build()?;
        }
        Ok(if passes(&self.package)? {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// Whether an older kernel of this machine's kind can be emulated here; says why not.
pub(crate) fn is_possible() -> bool {
    let obstacle = if cfg!(target_arch = "x86_64") {
        setup::ensure(Scope::Kernels)
            .and_then(|()| unpacked(KERNEL))
            .err()
    } else {
        Some(anyhow::anyhow!("the machine is not of the kind that is emulated"))
    };
    if let Some(error) = &obstacle {
        println!("kernels: skipped: {error:#}");
    }
    obstacle.is_none()
}

/// Runs the last build on the default kernel, prints what became of each step, and says whether all went well.
pub(crate) fn pass() -> Result<bool> {
    passes(KERNEL)
}

fn passes(package: &str) -> Result<bool> {
    setup::ensure(Scope::Kernels)?;
    let root = unpacked(package)?;
    let initrd = initrd(&root)?;
    let started = Instant::now();
    let said = boot(&image(&root)?, &initrd)?;
    println!(
        "{said}\n{} s in the emulated machine",
        started.elapsed().as_secs()
    );
    let failed = failures(&said);
    for step in &failed {
        println!("kernels: {step}: FAILED");
    }
    Ok(failed.is_empty())
}

/// Steps of [`INIT`] of which the machine does not say that they went well.
fn failures(said: &str) -> Vec<&str> {
    let went_well = |step: &&str| {
        let line = format!("{STEP}{step}: ok");
        said.lines().any(|said| said.trim_end().starts_with(&line))
    };
    let steps = INIT.lines().filter_map(|line| {
        let name = line.strip_prefix("step '")?;
        name.split('\'').next()
    });
    steps.chain(["end"]).filter(|step| !went_well(step)).collect()
}

/// Where the kernel is that `package` names, or that the package it depends on has.
fn unpacked(package: &str) -> Result<PathBuf> {
    let show = process::capture(Command::new("apt-cache").args(["depends", package]))?;
    let concrete = show
        .lines()
        .find_map(|line| {
            line.trim()
                .strip_prefix("Depends: ")
                .filter(|name| name.starts_with("linux-image-"))
        })
        .unwrap_or(package);
    let root = workspace::cache_dir()?.join(format!("kernel-{concrete}"));
    if image(&root).is_err() {
        apt::unpack(concrete, &root)?;
    }
    Ok(root)
}

fn image(root: &Path) -> Result<PathBuf> {
    let boot = root.join("boot");
    let files = fs::read_dir(&boot).with_context(|| format!("read {}", boot.display()))?;
    let mut files = files.flatten().map(|entry| entry.path());
    files
        .find(|file| named(file).starts_with("vmlinuz"))
        .with_context(|| format!("no kernel in {}", boot.display()))
}

fn named(file: &Path) -> String {
    file.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The archive that the kernel unpacks into memory.
fn initrd(kernel: &Path) -> Result<PathBuf> {
    let scratch = workspace::target_dir()?.join("kernels");
    let root = scratch.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
    }
    fs::create_dir_all(root.join("bin")).with_context(|| format!("create {}", root.display()))?;
    let mut libraries = BTreeSet::new();
    for name in PROGRAMS {
        let built = test::bin_dir()?.join(name);
        libraries.extend(libraries_of(&built)?);
        process::run(Command::new("strip").arg("-o").arg(root.join(name)).arg(&built))?;
    }
    let busybox = process::find("busybox").context("no busybox")?;
    let module = find(&kernel.join("lib/modules"), MODULE)?;
    let copies = [(busybox, PathBuf::from("bin/busybox")), (module, MODULE.into())];
    let libraries = libraries.into_iter().map(|library| {
        let place = library.strip_prefix("/").unwrap_or(&library).to_owned();
        (library, place)
    });
    for (from, to) in copies.into_iter().chain(libraries) {
        let to = root.join(to);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
    }
    fs::write(root.join("init"), INIT).context("write init")?;
    fs::write(root.join("mesh.yaml"), MESH).context("write the mesh")?;
    let archive = scratch.join("initrd.cpio");
    let script = "chmod 755 init && find . | cpio --create --format=newc --quiet > \"$0\"";
    process::run(
        Command::new("sh")
            .args(["-ec", script])
            .arg(&archive)
            .current_dir(&root),
    )?;
    Ok(archive)
}

/// Libraries that a program is linked with, as `ldd` lists them: `NAME => FILE (ADDRESS)`, or the loader alone.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let said = process::capture(Command::new("ldd").arg(program))?;
    let words = said.split_whitespace();
    Ok(words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

/// The file of this name below `folder`.
fn find(folder: &Path, name: &str) -> Result<PathBuf> {
    let said = process::capture(Command::new("find").arg(folder).args(["-name", name]))?;
    let file = said
        .lines()
        .next()
        .with_context(|| format!("no {name} in {}", folder.display()))?;
    Ok(file.into())
}

fn boot(kernel: &Path, initrd: &Path) -> Result<String> {
    let mut machine = Command::new("timeout");
    machine
        .args([PATIENCE_SECONDS, "qemu-system-x86_64"])
        .args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-m",
            "1536",
            "-smp",
            "2",
        ])
        .args(["-nographic", "-no-reboot", "-net", "none"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        // What protects one process from another costs an emulated machine most.
        .args(["-append", "console=ttyS0 panic=-1 quiet mitigations=off"]);
    let said = process::capture(&mut machine)?;
    ensure!(said.contains("== kernel:"), "the machine did not start: {said}");
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_is_missing_has_failed() {
        assert!(failures("").contains(&"every program loads") && failures("").contains(&"end"));
        let steps = failures("");
        let lines: Vec<String> = steps
            .iter()
            .map(|step| format!("== {step}: ok (3 s)\r"))
            .collect();
        let all = lines.join("\n");
        assert_eq!(failures(&all), [""; 0]);
        let one = all.replace("== cleanup: ok", "== cleanup: FAILED");
        assert_eq!(failures(&one), ["cleanup"]);
    }
}
