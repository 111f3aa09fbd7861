// SPDX-License-Identifier: Apache-2.0
//! `pod-exec`: enters a network namespace and a cgroup and becomes another program, as a container runtime does.
#![forbid(unsafe_code)]

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result};
use clap::Parser;
use nix::sched::{CloneFlags, setns};

/// Run a program in a network namespace and a cgroup.
#[derive(Debug, Parser)]
struct Args {
    /// File of the network namespace.
    #[arg(long)]
    netns: PathBuf,
    /// Folder of the cgroup.
    #[arg(long)]
    cgroup: PathBuf,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let netns = File::open(&args.netns).with_context(|| format!("open {}", args.netns.display()))?;
    let members = args.cgroup.join("cgroup.procs");
    fs::write(&members, std::process::id().to_string())
        .with_context(|| format!("write {}", members.display()))?;
    setns(netns, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", args.netns.display()))?;
    let (program, arguments) = args.command.split_first().context("no program given")?;
    Err(Command::new(program).args(arguments).exec()).with_context(|| format!("start {}", program.display()))
}
