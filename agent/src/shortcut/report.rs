// SPDX-License-Identifier: Apache-2.0
//! What the self-test found, and what follows from it.
//!
//! Invariant: a report is of one kernel and one build of the programs; for others it says nothing.

use serde::{Deserialize, Serialize};

use crate::config::ShortcutChoice;

/// What follows from a property that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// The shortcut stays off: data would be lost, held back or misreported.
    Disables,
    /// Sockets whose application does this are kept from it, once they are seen doing it.
    Narrows,
    /// It is told, and nothing else.
    Tells,
}

impl Effect {
    /// The word for people and labels.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Disables => "disables",
            Self::Narrows => "narrows",
            Self::Tells => "tells",
        }
    }
}

/// One property.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its name.
    pub property: String,
    /// What follows if it does not hold.
    pub effect: Effect,
    /// What was seen instead; absent if it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Release and version of the kernel.
    pub kernel: String,
    /// Number of the build of the programs.
    pub build: u64,
    /// Why the self-test could not be done; absent if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it found.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The findings against the shortcut.
    pub fn objections(&self) -> Vec<String> {
        let failed = self.findings.iter().filter_map(|finding| {
            let failure = finding.failure.as_ref()?;
            (finding.effect == Effect::Disables).then(|| format!("{}: {failure}", finding.property))
        });
        let error = self.error.iter().map(|error| format!("self-test: {error}"));
        error.chain(failed).collect()
    }

    /// Whether nothing speaks against the shortcut.
    pub fn permits(&self) -> bool {
        !self.findings.is_empty() && self.objections().is_empty()
    }
}

/// Whether the shortcut may be taken, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// What the operator says.
    pub choice: ShortcutChoice,
    /// Whether it may be taken.
    pub enabled: bool,
    /// Why, in a word: `unused`, `off`, `forced`, `tested`, `testing`, `self-test`, `others`, `meter-path`.
    pub reason: String,
    /// What speaks against it.
    pub objections: Vec<String>,
    /// What the self-test found, if it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

impl State {
    /// The reason for people, with what overrides it.
    pub fn why(&self) -> &str {
        match &*self.reason {
            "unused" => "no policy asks for it",
            "off" => "--shortcut off",
            "forced" => "--shortcut force",
            "testing" => "being tested on this kernel",
            "tested" => "the self-test found nothing against it on this kernel",
            "self-test" => "the self-test objects; --shortcut force overrides it",
            "others" => "others use maps of sockets; --shortcut force overrides them",
            "meter-path" => "it needs --meter-path tracepoint",
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(property: &str, effect: Effect, failure: Option<&str>) -> Finding {
        Finding {
            property: property.into(),
            effect,
            failure: failure.map(Into::into),
        }
    }

    #[test]
    fn only_what_disables_is_an_objection_and_no_test_is_one() {
        let mut report = Report::default();
        assert!(!report.permits(), "nothing was tested");
        report.findings = vec![
            finding("peek", Effect::Disables, None),
            finding("splice_after_read", Effect::Narrows, Some("EAGAIN")),
            finding("close_unread", Effect::Tells, Some("no reset")),
        ];
        assert!(report.permits());
        report
            .findings
            .push(finding("fionread_tcp", Effect::Disables, Some("0 of 1000")));
        assert_eq!(report.objections(), ["fionread_tcp: 0 of 1000"]);
        report.error = Some("no cgroup".into());
        assert_eq!(report.objections()[0], "self-test: no cgroup");
    }
}
