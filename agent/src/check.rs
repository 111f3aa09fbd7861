// SPDX-License-Identifier: Apache-2.0
//! `nodemesh check`: what is wrong on this node, why, and what to do about it.
//!
//! ```text
//! gather (kernel, files, sockets, the agent) ─► Facts ─► judge (pure) ─► Report
//! ```
//!
//! Called by the CLI, with or without a running agent. Invariant: [`judge::judge`] reads nothing but [`Facts`], so each verdict has a
//! test, and gathering changes nothing on the node.

pub mod facts;
pub mod gather;
pub mod judge;

use serde::{Deserialize, Serialize};

pub use facts::Facts;
pub use gather::Scene;

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be, or with a fallback that is named.
    Ok,
    /// It works, and something will be missing or is about to fail.
    Warning,
    /// Something does not work.
    Failure,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which check it is; stable, for scripts.
    pub check: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was looked at.
    pub looked_at: String,
    /// What was found.
    pub found: String,
    /// What to do; absent if nothing need be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn new(
        check: &str,
        verdict: Verdict,
        looked_at: impl Into<String>,
        found: impl Into<String>,
        remedy: Option<String>,
    ) -> Self {
        Self {
            check: check.to_owned(),
            verdict,
            looked_at: looked_at.into(),
            found: found.into(),
            remedy,
        }
    }

    fn ok(check: &str, looked_at: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, looked_at, found, None)
    }

    fn warning(
        check: &str,
        looked_at: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(check, Verdict::Warning, looked_at, found, Some(remedy.into()))
    }

    fn failure(
        check: &str,
        looked_at: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(check, Verdict::Failure, looked_at, found, Some(remedy.into()))
    }
}

/// All findings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Version, commit and ABI of the program that looked.
    pub version: String,
    /// Whether an agent answered, so that what it says is part of this.
    pub in_flight: bool,
    /// The findings, in the order in which one thing needs the other.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Looks at the node and judges it.
    pub fn make(scene: &Scene) -> Self {
        let facts = gather::gather(scene);
        Self {
            version: crate::config::VERSION.to_owned(),
            in_flight: facts.agent.status().is_some(),
            findings: judge::judge(&facts),
        }
    }

    /// The worst verdict.
    pub fn verdict(&self) -> Verdict {
        self.findings
            .iter()
            .map(|finding| finding.verdict)
            .max()
            .unwrap_or(Verdict::Ok)
    }
}
