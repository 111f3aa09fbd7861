// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask ci`: what a change must pass, and all that `.ci/run` calls.
//!
//! Tests run also when lint failed, so that one run shows both; the closing line is that of the tests, and the exit
//! code covers both.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::{lint::Lint, test::Test};

/// Lint, then test; ends with `N passed, N failed` and fails if either failed.
#[derive(clap::Args)]
pub(crate) struct Ci {}

impl Ci {
    pub(crate) fn run(self) -> ExitCode {
        let Self {} = self;
        let (lint, lint_took) = timed(|| {
            Lint::default().passes().unwrap_or_else(|error| {
                eprintln!("error: lint: {error:#}");
                false
            })
        });
        let (tally, test_took) = timed(|| Test::default().tally());
        println!(
            "lint: {} in {:.0} s",
            if lint { "passed" } else { "FAILED" },
            lint_took.as_secs_f32()
        );
        println!("test: {:.0} s", test_took.as_secs_f32());
        println!("{tally}");
        if lint {
            tally.exit_code()
        } else {
            ExitCode::FAILURE
        }
    }
}

fn timed<T>(stage: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = stage();
    (result, start.elapsed())
}
