// SPDX-License-Identifier: Apache-2.0
//! A range of time spans on the command line, from which one is drawn each time.

use std::str::FromStr;
use std::time::Duration;

use humantime::parse_duration;

/// `MIN..MAX`, or one span that is both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spans {
    least: Duration,
    most: Duration,
}

impl Spans {
    /// Any span of the range, all equally likely.
    pub(super) fn draw(self, random: &mut fastrand::Rng) -> Duration {
        self.least + self.most.saturating_sub(self.least).mul_f64(random.f64())
    }
}

impl FromStr for Spans {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        let span = |text| parse_duration(text).map_err(|error| format!("`{text}`: {error}"));
        let (least, most) = (span(least)?, span(most)?);
        if least > most {
            return Err(format!("`{text}` is empty: write the shorter span first"));
        }
        Ok(Self { least, most })
    }
}
