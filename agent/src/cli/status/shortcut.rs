// SPDX-License-Identifier: Apache-2.0
//! The shortcut's part of `nodemesh status`.
//!
//! Invariant: a node that nobody wants it on gets one line.

use std::fmt::{self, Write as _};

use crate::shortcut::{Effect, State};

/// Writes it.
pub(super) fn describe(text: &mut String, state: &State) -> fmt::Result {
    writeln!(
        text,
        "shortcut {}: {}",
        if state.enabled { "on" } else { "off" },
        state.why()
    )?;
    for objection in &state.objections {
        writeln!(text, "  ! {objection}")?;
    }
    for finding in state.report.iter().flat_map(|report| &report.findings) {
        if let (Some(failure), Effect::Narrows | Effect::Tells) = (&finding.failure, finding.effect) {
            writeln!(
                text,
                "  - {} ({}): {failure}",
                finding.property,
                finding.effect.word()
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shortcut::{Finding, Report};

    #[test]
    fn what_speaks_against_it_is_told() {
        let finding = |property: &str, effect, failure: Option<&str>| Finding {
            property: property.into(),
            effect,
            failure: failure.map(Into::into),
        };
        let report = Report {
            findings: vec![
                finding("peek", Effect::Disables, None),
                finding("fionread_tcp", Effect::Disables, Some("0 of 1000 bytes")),
                finding("close_unread", Effect::Tells, Some("no reset")),
            ],
            ..Report::default()
        };
        let state = State {
            reason: "self-test".into(),
            objections: report.objections(),
            report: Some(report),
            ..State::default()
        };
        let mut text = String::new();
        describe(&mut text, &state).unwrap();
        assert_eq!(
            text,
            "shortcut off: the self-test objects; --shortcut force overrides it\n  \
             ! fionread_tcp: 0 of 1000 bytes\n  - close_unread (tells): no reset\n"
        );
    }
}
