// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask kernels`: loads every program on an older kernel, in an emulated machine.
//!
//! The kernel is one of Debian's, the machine qemu's without hardware support, and all that runs in it are the released binaries and a shell:
//! `nodemesh check`, then an agent that starts, then `nodemesh status`. Invariant: the verdict is that of the programs' exit codes inside.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    process,
    setup::{self, Scope, apt, cross},
    workspace,
};

/// Debian's smallest kernel of the oldest release that is still kept, by the name of its newest build.
const KERNEL: &str = "linux-image-cloud-amd64";
/// Emulation without hardware support takes its time for the million steps of the verifier.
const PATIENCE_SECONDS: &str = "3600";
/// Last lines of the machine, by which the verdict is known.
const CHECKED: &str = "== check ended with 0";
const RUNS: &str = "== status ended with 0";

/// What the machine runs first, and all it runs.
const INIT: &str = r#"#!/bin/busybox sh
PATH=/bin
busybox mkdir -p /proc /sys /tmp /run
busybox mount -t proc none /proc
busybox mount -t sysfs none /sys
busybox mount -t cgroup2 none /sys/fs/cgroup
busybox mount -t bpf none /sys/fs/bpf
busybox ip link set lo up
echo "== Linux $(busybox uname -r)"
/nodemesh check
echo "== check ended with $?"
/nodemesh-agent run --config /mesh.yaml --log nodemesh_agent=debug > /tmp/log 2>&1 &
until busybox grep -qE ' ready |ERROR' /tmp/log; do busybox sleep 1; done
busybox grep -E ' loaded |meter sees| ready |ERROR|WARN' /tmp/log
/nodemesh status
echo "== status ended with $?"
busybox poweroff -f
"#;

/// A mesh of one service.
const MESH: &str = "apiVersion: nodemesh.io/v1alpha1
kind: Service
metadata: {name: a, namespace: models}
spec: {addresses: [10.99.0.1], ports: [{port: 8000}], backends: [{address: 127.0.0.1, port: 9000}]}
";

/// Load every program on an older kernel of Debian, in an emulated machine; takes minutes.
#[derive(clap::Args)]
pub(crate) struct Kernels {
    /// The package of the kernel.
    #[arg(long, default_value = KERNEL)]
    package: String,
    /// Use the binaries of the last `cargo xtask dist` as they are.
    #[arg(long)]
    no_build: bool,
}

impl Kernels {
    pub(crate) fn run(self) -> Result<ExitCode> {
        setup::ensure(Scope::Kernels)?;
        if !self.no_build {
            crate::dist::build()?;
        }
        let scratch = workspace::target_dir()?.join("kernels");
        let kernel = kernel(&self.package)?;
        let initrd = initrd(&scratch)?;
        let started = Instant::now();
        let said = boot(&kernel, &initrd)?;
        println!(
            "{said}\n{} s in the emulated machine",
            started.elapsed().as_secs()
        );
        let verdict = said.contains(CHECKED) && said.contains(RUNS);
        Ok(if verdict {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// The image of the kernel that `package` names, or that the package it depends on has.
fn kernel(package: &str) -> Result<PathBuf> {
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
    let image = || {
        let files = fs::read_dir(root.join("boot"))
            .ok()?
            .flatten()
            .map(|entry| entry.path());
        files.into_iter().find(|file| {
            file.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
        })
    };
    if image().is_none() {
        apt::unpack(concrete, &root)?;
    }
    image().with_context(|| format!("{concrete} has no kernel"))
}

/// The archive that the kernel unpacks into memory.
fn initrd(scratch: &Path) -> Result<PathBuf> {
    let root = scratch.join("root");
    fs::create_dir_all(root.join("bin")).with_context(|| format!("create {}", root.display()))?;
    let built = workspace::target_dir()?.join(cross::target()).join("dist");
    for name in ["nodemesh-agent", "nodemesh"] {
        fs::copy(built.join(name), root.join(name))
            .with_context(|| format!("copy {name}: run `cargo xtask dist`"))?;
    }
    let busybox = process::find("busybox").context("no busybox")?;
    fs::copy(busybox, root.join("bin/busybox")).context("copy busybox")?;
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

fn boot(kernel: &Path, initrd: &Path) -> Result<String> {
    let mut machine = Command::new("timeout");
    machine
        .args([
            PATIENCE_SECONDS,
            "qemu-system-x86_64",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
        ])
        .args([
            "-m",
            "1536",
            "-smp",
            "2",
            "-nographic",
            "-no-reboot",
            "-net",
            "none",
        ])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", "console=ttyS0 panic=-1 quiet"]);
    let said = process::capture(&mut machine)?;
    ensure!(said.contains("== Linux"), "the machine did not start: {said}");
    Ok(said)
}
