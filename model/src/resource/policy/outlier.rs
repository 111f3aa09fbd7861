// SPDX-License-Identifier: Apache-2.0
//! When a backend is ejected because of what its connections show, and for how long: `outlierDetection` of a traffic policy.
//!
//! Invariant: it is on unless a policy turns it off, part by part.

use std::{ops::RangeInclusive, time::Duration};

use nodemesh_abi::Rules;

use super::range::{duration, nanoseconds, number};
use crate::{
    invalid::{AdmissionProblem, Findings},
    wire,
};

pub(super) const CONNECT_FAILURES: u32 = 1;
pub(super) const REQUEST_FAILURES: u32 = 5;
pub(super) const BASE: Duration = Duration::from_secs(1);
pub(super) const LONGEST: Duration = Duration::from_secs(60);
pub(super) const PERCENT: u32 = 50;
pub(super) const STREAMS: u32 = 2;
pub(super) const MINIMUM: Duration = Duration::from_secs(2);

const FAILURES: RangeInclusive<u32> = 0..=1_000_000;
const EJECTIONS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(86_400);
const SILENCES: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3_600);

/// When a backend counts as wedged: it has requests that it received whole, and sends nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Silence {
    /// So many streams of it are silent at once, at least 1.
    pub streams: u32,
    /// For so long at least, whatever the replica's own latencies allow.
    pub minimum: Duration,
}

/// Reads `spec.outlierDetection`; `None` if silence ejects nothing.
pub(super) fn read(
    wire: Option<wire::OutlierDetection>,
    rules: &mut Rules,
    findings: &mut Findings,
) -> Option<Silence> {
    let wire = wire.unwrap_or_default();
    let mut failures = |name: &str, found: Option<i64>, default: u32| {
        let number = number(found, FAILURES, " (0: never)");
        findings
            .check(format_args!("spec.outlierDetection.{name}"), number)
            .flatten()
            .unwrap_or(default)
    };
    rules.connect_failures = failures("connectFailures", wire.connect_failures, CONNECT_FAILURES);
    rules.request_failures = failures("requestFailures", wire.request_failures, REQUEST_FAILURES);
    rules.server_errors = wire.server_errors.unwrap_or_default().into();
    let remedy = "; to eject nothing, set connectFailures, requestFailures and silence.streams to 0";
    let percent = number(wire.max_ejection_percent, 1..=100, remedy);
    let percent = findings.check("spec.outlierDetection.maxEjectionPercent", percent);
    rules.eject_percent = percent.flatten().unwrap_or(PERCENT);
    lengths(
        wire.base_ejection_time.as_deref(),
        wire.max_ejection_time.as_deref(),
        rules,
        findings,
    );
    silence(&wire.silence.unwrap_or_default(), findings)
}

fn lengths(base: Option<&str>, longest: Option<&str>, rules: &mut Rules, findings: &mut Findings) {
    let field = "spec.outlierDetection.maxEjectionTime";
    let base = findings.check(
        "spec.outlierDetection.baseEjectionTime",
        duration(base, BASE, EJECTIONS),
    );
    let is_given = longest.is_some();
    let longest = findings.check(field, duration(longest, LONGEST, EJECTIONS));
    let (Some(base), Some(mut longest)) = (base, longest) else {
        return;
    };
    if !is_given {
        longest = longest.max(base);
    }
    if longest < base {
        let problem = AdmissionProblem::ShorterThan {
            found: longest,
            other: "baseEjectionTime",
            least: base,
        };
        findings.add(field, problem.into());
    }
    (rules.eject_ns, rules.eject_max_ns) = (nanoseconds(base), nanoseconds(longest));
}

fn silence(wire: &wire::Silence, findings: &mut Findings) -> Option<Silence> {
    let streams = number(wire.streams, 0..=10_000, " (0: never)");
    let streams = findings.check("spec.outlierDetection.silence.streams", streams);
    let minimum = duration(wire.minimum.as_deref(), MINIMUM, SILENCES);
    let minimum = findings.check("spec.outlierDetection.silence.minimum", minimum)?;
    let streams = streams?.unwrap_or(STREAMS);
    (streams > 0).then_some(Silence { streams, minimum })
}
