// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask lint`: every static check, host and kernel side.
//!
//! All checks run even when one fails, so that one run shows everything; a missing tool is an error, never a skip.

mod sources;

use std::{
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    deploy, ebpf, process,
    setup::{self, Scope, deny},
    workspace,
};

/// Check format, lints, documentation, sources and dependencies.
#[derive(clap::Args, Default)]
pub(crate) struct Lint {
    /// Also look up known vulnerabilities, which needs the advisory database from the network.
    #[arg(long)]
    advisories: bool,
}

struct Check {
    name: &'static str,
    run: fn() -> Result<()>,
}

const CHECKS: &[Check] = &[
    Check {
        name: "format",
        run: format,
    },
    Check {
        name: "sources",
        run: sources::check,
    },
    Check {
        name: "dependencies",
        run: dependencies,
    },
    Check {
        name: "deployment",
        run: deployment,
    },
    Check {
        name: "clippy ebpf",
        run: ebpf::clippy,
    },
    // The agent embeds the kernel object: without one nothing below compiles.
    Check {
        name: "kernel object",
        run: kernel_object,
    },
    Check {
        name: "clippy host",
        run: clippy_host,
    },
    Check {
        name: "documentation",
        run: documentation,
    },
];

const ADVISORIES: Check = Check {
    name: "advisories",
    run: advisories,
};

impl Lint {
    pub(crate) fn run(self) -> Result<ExitCode> {
        Ok(if self.passes()? {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    /// Runs every check, prints a table of the results and says whether all passed.
    pub(crate) fn passes(&self) -> Result<bool> {
        setup::ensure(Scope::Lint)?;
        let checks = CHECKS.iter().chain(self.advisories.then_some(&ADVISORIES));
        let results: Vec<_> = checks.map(perform).collect();
        for (name, passed, took) in &results {
            let verdict = if *passed { "ok" } else { "FAILED" };
            println!("lint: {name:<16}{verdict:<8}{:>6.1} s", took.as_secs_f32());
        }
        Ok(results.iter().all(|(_, passed, _)| *passed))
    }
}

fn perform(check: &Check) -> (&'static str, bool, Duration) {
    let start = Instant::now();
    let result = (check.run)();
    if let Err(error) = &result {
        eprintln!("error: {}: {error:#}", check.name);
    }
    (check.name, result.is_ok(), start.elapsed())
}

fn format() -> Result<()> {
    process::run(workspace::cargo("fmt")?.args(["--all", "--check"]))
}

fn deployment() -> Result<()> {
    deploy::check(false)
}

fn kernel_object() -> Result<()> {
    ebpf::build_object().map(drop)
}

fn clippy_host() -> Result<()> {
    process::run(workspace::cargo_host("clippy")?.args(["--all-targets", "--", "-D", "warnings"]))
}

fn documentation() -> Result<()> {
    process::run(
        workspace::cargo_host("doc")?
            .arg("--no-deps")
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

fn dependencies() -> Result<()> {
    deny(&["bans", "licenses", "sources"])
}

fn advisories() -> Result<()> {
    deny(&["advisories"])
}

fn deny(what: &[&str]) -> Result<()> {
    process::run(
        Command::new(deny::path()?)
            .current_dir(workspace::root())
            .args(["check", "--hide-inclusion-graph"])
            .args(what),
    )
}
