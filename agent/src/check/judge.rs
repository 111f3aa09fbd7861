// SPDX-License-Identifier: Apache-2.0
//! From [`Facts`] to findings, one function per check. Pure: no I/O, no clock.
//!
//! Invariant: whatever is not ok has a remedy that names a command, a flag or a file.

mod agent;
mod hooks;
mod host;
mod kernel;
mod source;
#[cfg(test)]
mod tests;
mod traffic;

use super::{Finding, facts::Facts};

/// Judges everything, in the order in which one thing needs the other.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = kernel::judge(&facts.kernel, &facts.lacking);
    findings.extend(host::judge(facts));
    findings.extend(hooks::judge(facts));
    findings.extend(source::judge(facts));
    findings.extend(agent::judge(facts));
    if let super::facts::AgentFacts::Here(answers) = &facts.agent {
        findings.extend(traffic::judge(answers));
    }
    findings
}
