// SPDX-License-Identifier: Apache-2.0
//! Numbers and durations of a policy, checked against the range that each has.
//!
//! Invariant: what passes fits the kernel's rows, so that nothing is cut off on its way there.

use std::{ops::RangeInclusive, time::Duration};

use crate::invalid::{AdmissionProblem, Problem};

/// Reads a number that may be left out.
pub(super) fn number(
    found: Option<i64>,
    range: RangeInclusive<u32>,
    remedy: &'static str,
) -> Result<Option<u32>, Problem> {
    let check = |found: i64| match u32::try_from(found) {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(Problem::Admission(AdmissionProblem::Number {
            found,
            least: *range.start(),
            most: *range.end(),
            remedy,
        })),
    };
    found.map(check).transpose()
}

/// Reads a duration, or takes `default` where there is none.
pub(super) fn duration(
    text: Option<&str>,
    default: Duration,
    range: RangeInclusive<Duration>,
) -> Result<Duration, Problem> {
    let Some(text) = text else { return Ok(default) };
    let duration = humantime::parse_duration(text).map_err(|error| Problem::Duration {
        found: text.to_owned(),
        reason: error.to_string(),
    })?;
    if range.contains(&duration) {
        Ok(duration)
    } else {
        Err(AdmissionProblem::Duration {
            found: text.to_owned(),
            least: *range.start(),
            most: *range.end(),
        }
        .into())
    }
}

/// Nanoseconds of a duration of at most a day.
pub(super) const fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}
