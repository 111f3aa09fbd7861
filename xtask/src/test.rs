// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`: unit and property tests, then the end-to-end tests against real processes.
//!
//! Everything runs even after a failure. The last line of the output is always `N passed, N failed`, and the exit code
//! agrees with it.

mod tally;

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
    thread,
};

use anyhow::{Context as _, Result};

use crate::{
    ebpf, kernels, next, process,
    setup::{self, Scope, archive::PROMETHEUS, python},
    workspace,
};
use tally::Tally;

/// Where the end-to-end tests look for the binaries that they start.
const BIN_DIR: &str = "NODEMESH_BIN_DIR";
/// The interpreter of the real servers and clients in `tests/real`.
const PYTHON: &str = "NODEMESH_PYTHON";
/// The folder with `prometheus` and `promtool`.
const PROMETHEUS_DIR: &str = "NODEMESH_PROMETHEUS_DIR";

/// What is said where the API server of the tests could not be built.
const DOUBLE: &str = "WARNING: there is no real API server: a double has served the tests that need a cluster, and those of schemas, roles, kubectl and \
                      Helm were SKIPPED";

/// The set-up of the API server, at work.
type Building = thread::JoinHandle<Result<()>>;

/// Run every test; ends with `N passed, N failed`.
#[derive(clap::Args, Default)]
pub(crate) struct Test {
    /// Only tests whose name contains one of these.
    filter: Vec<String>,
    /// Leave out the end-to-end tests, which need root.
    #[arg(long)]
    unit_only: bool,
    /// Tests that run at once in each test binary (default: cargo's).
    #[arg(long = "test-threads", value_name = "N")]
    threads: Option<usize>,
}

impl Test {
    pub(crate) fn run(self) -> ExitCode {
        let tally = self.tally();
        println!("{tally}");
        tally.exit_code()
    }

    /// Runs the tests and counts them; prints everything but the closing line.
    pub(crate) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        // It takes minutes the first time: beside what cargo has to build.
        let cluster = (!self.unit_only).then(|| thread::spawn(|| setup::ensure(Scope::ApiServer)));
        self.stage(&mut tally, "unit tests", Self::unit_tests);
        let mut is_double = false;
        if let Some(cluster) = cluster {
            self.stage(&mut tally, "end-to-end tests", |test, tally| {
                test.e2e_tests(tally, cluster, &mut is_double)
            });
        }
        for name in tally.failures() {
            println!("failed: {name}");
        }
        if is_double {
            println!("{DOUBLE}");
        }
        tally
    }

    /// A stage that cannot run, or whose command fails without naming a test, counts as one failure.
    fn stage(&self, tally: &mut Tally, name: &str, run: impl FnOnce(&Self, &mut Tally) -> Result<()>) {
        let failed_before = tally.failed();
        if let Err(error) = run(self, tally) {
            eprintln!("error: {name}: {error:#}");
            if tally.failed() == failed_before {
                tally.broken(name);
            }
        }
    }

    fn unit_tests(&self, tally: &mut Tally) -> Result<()> {
        setup::ensure(Scope::UnitTests)?;
        ebpf::build_object()?;
        let mut cargo = workspace::cargo_host("test")?;
        cargo.args(["--exclude", workspace::E2E_PACKAGE]);
        self.count(&mut cargo, tally)
    }

    fn e2e_tests(&self, tally: &mut Tally, cluster: Building, is_double: &mut bool) -> Result<()> {
        setup::ensure(Scope::Tests)?;
        setup::ensure(Scope::Cluster)?;
        next::build(false)?;
        build()?;
        *is_double = !is_built(cluster);
        // Beside the compilation of the tests, of which the last part is one linker at a time.
        let older = (self.filter.is_empty() && kernels::is_possible()).then(|| thread::spawn(kernels::pass));
        let mut cargo = workspace::cargo("test")?;
        cargo
            .args(["--package", workspace::E2E_PACKAGE])
            .env(BIN_DIR, bin_dir()?)
            .env(PYTHON, python::path()?);
        if let Some(folder) = PROMETHEUS.folder() {
            cargo.env(PROMETHEUS_DIR, folder);
        }
        let counted = self.count(&mut cargo, tally);
        if let Some(older) = older {
            let passed = older
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")));
            if !passed.context("run an older kernel")? {
                tally.broken("an older kernel");
            }
        }
        counted
    }

    fn count(&self, cargo: &mut Command, tally: &mut Tally) -> Result<()> {
        cargo.arg("--no-fail-fast").arg("--").args(&self.filter);
        if let Some(threads) = self.threads {
            cargo.arg(format!("--test-threads={threads}"));
        }
        let status = process::stream(cargo, |line| {
            println!("{line}");
            tally.read(line);
        })?;
        anyhow::ensure!(status.success(), "cargo test ended with {status}");
        Ok(())
    }
}

/// Waits for the API server of the tests, and says so where there is none.
fn is_built(cluster: Building) -> bool {
    let built = cluster
        .join()
        .unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked")));
    // It is built of sources that change: that is no fault of what is tested.
    if let Err(error) = &built {
        eprintln!("WARNING: {error:#}\n{DOUBLE}");
    }
    built.is_ok()
}

/// Builds the kernel programs and every binary that tests start.
pub(crate) fn build() -> Result<()> {
    ebpf::build_object()?;
    process::run(workspace::cargo_host("build")?.arg("--bins"))
}

/// Where they are.
pub(crate) fn bin_dir() -> Result<PathBuf> {
    Ok(workspace::target_dir()?.join("debug"))
}
