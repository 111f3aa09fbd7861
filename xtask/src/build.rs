// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask build`: the kernel object first, then every host binary, because the agent embeds the object.

use std::process::ExitCode;

use anyhow::Result;

use crate::{ebpf, next, process, workspace};

/// Build the kernel programs and every host binary.
#[derive(clap::Args)]
pub(crate) struct Build {
    /// Build the host binaries optimised; the kernel programs always are.
    #[arg(long)]
    release: bool,
    /// Build first the agent of an ABI that is yet to come, for the tests of upgrades.
    #[arg(long)]
    next: bool,
}

impl Build {
    pub(crate) fn run(self) -> Result<ExitCode> {
        if self.next {
            println!("agent to come    {}", next::build(self.release)?.display());
        }
        let object = ebpf::build_object()?;
        let mut cargo = workspace::cargo_host("build")?;
        if self.release {
            cargo.arg("--release");
        }
        process::run(&mut cargo)?;
        let profile = if self.release { "release" } else { "debug" };
        println!("kernel programs  {}", object.display());
        println!(
            "host binaries    {}",
            workspace::target_dir()?.join(profile).display()
        );
        Ok(ExitCode::SUCCESS)
    }
}
