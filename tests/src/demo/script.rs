// SPDX-License-Identifier: Apache-2.0
//! When what happens, scaled to the length of the demo.

use std::{fmt, time::Duration};

/// What happens, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    ControlDies,
    ControlReturns,
    Kill,
    Join,
    Leave,
    End,
}

/// Seconds of a story of [`SCRIPT_SECONDS`].
const SCRIPT: [(Moment, f64, &str); 6] = [
    (Moment::ControlDies, 5.0, "the control plane is killed (SIGKILL)"),
    (Moment::ControlReturns, 7.5, "it is started again"),
    (
        Moment::Kill,
        12.0,
        "replica-2 is killed with its registration (SIGKILL); nobody acts, its lease runs out",
    ),
    (Moment::Join, 19.0, "replica-5 is started"),
    (
        Moment::Leave,
        24.0,
        "replica-3 is asked to leave (SIGTERM to nodemesh register)",
    ),
    (Moment::End, 32.0, "the clients start no more requests"),
];
const SCRIPT_SECONDS: f64 = 34.0;

/// When everything happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    seconds: u32,
}

impl Timing {
    /// A story of `seconds`.
    pub(super) fn new(seconds: u32) -> Self {
        Self { seconds }
    }

    /// Time of a moment since the beginning.
    pub(super) fn of(self, moment: Moment) -> Duration {
        let second = SCRIPT
            .iter()
            .find(|(other, ..)| *other == moment)
            .map_or(SCRIPT_SECONDS, |(_, second, _)| *second);
        Duration::from_secs_f64(second / SCRIPT_SECONDS * f64::from(self.seconds))
    }
}

impl fmt::Display for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = vec!["   0.0 s  steady traffic".to_owned()];
        for (moment, _, what) in SCRIPT {
            lines.push(format!("  {:>4.1} s  {what}", self.of(moment).as_secs_f64()));
        }
        f.write_str(&lines.join("\n"))
    }
}
