// SPDX-License-Identifier: Apache-2.0
//! Every developer command of nodemesh: `cargo xtask VERB`.
//!
//! This file only lists the verbs; each has one file that owns what it does. To add one: a module with a
//! `clap::Args` struct and a `run` that gives the exit code, a variant of [`Verb`] and an arm below.
#![forbid(unsafe_code)]

mod bench;
mod build;
mod ci;
mod demo;
mod deploy;
mod dist;
mod ebpf;
mod kernels;
mod lint;
mod next;
mod process;
mod release;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Developer commands of nodemesh.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Verb {
    Setup(setup::Setup),
    Build(build::Build),
    Test(test::Test),
    Lint(lint::Lint),
    Ci(ci::Ci),
    Demo(demo::Demo),
    Bench(bench::Bench),
    Deploy(deploy::Deploy),
    Dist(dist::Dist),
    Kernels(kernels::Kernels),
}

impl Verb {
    fn run(self) -> Result<ExitCode> {
        match self {
            Self::Setup(verb) => Ok(verb.run()),
            Self::Build(verb) => verb.run(),
            Self::Test(verb) => Ok(verb.run()),
            Self::Lint(verb) => verb.run(),
            Self::Ci(verb) => Ok(verb.run()),
            Self::Demo(verb) => verb.run(),
            Self::Bench(verb) => verb.run(),
            Self::Deploy(verb) => verb.run(),
            Self::Dist(verb) => verb.run(),
            Self::Kernels(verb) => verb.run(),
        }
    }
}

fn main() -> ExitCode {
    match Verb::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
