// SPDX-License-Identifier: Apache-2.0
//! What a setup step found or did, and how it is printed: one line, status in a fixed column.
//!
//! A step cannot fail otherwise: what went wrong is a finding with its remedy.

use std::fmt;

/// Whether a step may change the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Install what is missing.
    Install,
    /// Report only.
    Check,
}

/// The result of one step.
pub(crate) enum Outcome {
    /// It was there; the text says what was found.
    Ready(String),
    /// It was missing and is there now.
    Installed(String),
    /// It is missing; `remedy` is something the reader can do.
    Missing {
        /// What was looked for, or why it could not be installed.
        what: String,
        /// The way out.
        remedy: String,
    },
}

impl Outcome {
    pub(crate) fn missing(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Missing {
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(found) => write!(out, "{:<11}{found}", "ok"),
            Self::Installed(what) => write!(out, "{:<11}{what}", "installed"),
            Self::Missing { what, remedy } => write!(out, "{:<11}{what}; remedy: {remedy}", "missing:"),
        }
    }
}
