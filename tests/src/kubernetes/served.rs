// SPDX-License-Identifier: Apache-2.0
//! Which API server serves a test: the real one where it was built, else the double.
//!
//! Invariant: a test that does not run on the real one, or not at all, says so where a captured output does not hide it.

use std::{env, io::Write as _};

use crate::real::tool;

/// `double` lets the double serve all tests, as if the real one could not be built.
const CHOICE: &str = "NODEMESH_API_SERVER";

/// What serves the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// The libraries of the real API server, over etcd.
    Real,
    /// The double in this process.
    Double,
}

impl Served {
    /// The best that there is.
    #[must_use]
    pub fn best() -> Self {
        if Self::is_real_there() {
            return Self::Real;
        }
        shout("the double serves: there is no real API server (`cargo xtask setup` builds it)");
        Self::Double
    }

    /// The real one; without it the test is skipped, which is said, because of `what` it needs.
    pub fn real_for(what: &str) -> Option<Self> {
        if Self::is_real_there() {
            return Some(Self::Real);
        }
        shout(&format!(
            "SKIPPED: {what} needs the real API server (`cargo xtask setup` builds it)"
        ));
        None
    }

    fn is_real_there() -> bool {
        let is_unwanted = env::var_os(CHOICE).is_some_and(|choice| choice == "double");
        !is_unwanted && tool::kapi().is_some()
    }
}

/// Not by a macro: the test harness would hide it.
fn shout(text: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {text}\n", thread.name().unwrap_or("a test"));
    // There is nobody else to tell.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
