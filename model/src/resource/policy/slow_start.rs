// SPDX-License-Identifier: Apache-2.0
//! How a new backend is eased in: `slowStart` of a traffic policy.
//!
//! Invariant: it does something; a `slowStart` without effect is refused.

use std::{ops::RangeInclusive, time::Duration};

use nodemesh_abi::Rules;

use super::range::{duration, nanoseconds};
use crate::{
    invalid::{AdmissionProblem, Findings},
    wire,
};

const WINDOWS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(86_400);

/// Reads `spec.slowStart`: whether a backend gets one connection at a time until its first token.
pub(super) fn read(wire: Option<wire::SlowStart>, rules: &mut Rules, findings: &mut Findings) -> bool {
    let Some(wire) = wire else { return false };
    let until_first_token = wire.until_first_token.unwrap_or_default();
    if wire.window.is_none() && !until_first_token {
        findings.add("spec.slowStart", AdmissionProblem::NoSlowStart.into());
    }
    let window = duration(wire.window.as_deref(), Duration::ZERO, WINDOWS);
    if let Some(window) = findings.check("spec.slowStart.window", window) {
        rules.slow_start_ns = nanoseconds(window);
    }
    until_first_token
}
