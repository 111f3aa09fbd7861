// SPDX-License-Identifier: Apache-2.0
//! Counts what the test binaries say about themselves, line by line.
//!
//! Used by `test` and `ci`. Its text is the closing line of both: `N passed, N failed`, and `, N skipped` where tests
//! were ignored.

use std::{fmt, process::ExitCode};

/// The sum over every test binary seen so far.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    failures: Vec<String>,
}

impl Tally {
    /// Takes one line of a test binary's output.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        }
        // Under --nocapture a test's own output may stand before it on the line.
        let Some((_, result)) = line.split_once("test result: ") else {
            return;
        };
        let count = |what: &str| {
            let words: Vec<_> = result.split([' ', ';']).filter(|word| !word.is_empty()).collect();
            words
                .windows(2)
                .find(|pair| pair[1] == what)
                .and_then(|pair| pair[0].parse::<u64>().ok())
                .unwrap_or(0)
        };
        self.passed += count("passed");
        self.failed += count("failed");
        self.skipped += count("ignored");
    }

    /// Counts a stage that failed without naming a test: it did not compile, or a binary crashed.
    pub(crate) fn broken(&mut self, stage: &str) {
        self.failed += 1;
        self.failures.push(stage.to_owned());
    }

    /// How many failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failed
    }

    /// The names of what failed.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// Success only if nothing failed.
    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} passed, {} failed", self.passed, self.failed)?;
        if self.skipped > 0 {
            write!(out, ", {} skipped", self.skipped)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        for line in lines {
            tally.read(line);
        }
        tally
    }

    #[test]
    fn results_of_all_binaries_are_summed() {
        let tally = tally(&[
            "running 3 tests",
            "test pick::prefers_cold ... ok",
            "test result: ok. 120 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s",
            "test pick::prefers_near ... FAILED",
            "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 4 filtered out; finished in 1.00s",
        ]);
        assert_eq!(tally.to_string(), "123 passed, 1 failed, 2 skipped");
        assert_eq!(tally.failures(), ["pick::prefers_near"]);
    }

    #[test]
    fn the_closing_line_has_no_skipped_part_without_skipped_tests() {
        assert_eq!(Tally::default().to_string(), "0 passed, 0 failed");
        let tally = tally(&["outputtest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured"]);
        assert_eq!(tally.to_string(), "1 passed, 0 failed");
        assert_eq!(tally.failed(), 0);
    }

    #[test]
    fn a_broken_stage_is_a_failure() {
        let mut tally = tally(&["test result: ok. 1 passed; 0 failed; 0 ignored"]);
        tally.broken("end-to-end tests");
        assert_eq!(tally.to_string(), "1 passed, 1 failed");
        assert_eq!(tally.failures(), ["end-to-end tests"]);
    }
}
