// SPDX-License-Identifier: Apache-2.0
//! When what came is applied: as soon as the stream is quiet for a moment, so that a burst is one change. Pure.
//!
//! Invariant: a change is applied at the latest `MOST` after it came, however much follows it.

use std::time::{Duration, Instant};

/// Silence after which a burst is over.
const QUIET: Duration = Duration::from_millis(3);
/// Longest that a change waits for more.
const MOST: Duration = Duration::from_millis(100);
/// The same for the first state, which comes in many parts, each after the last was answered.
const FIRST_QUIET: Duration = Duration::from_millis(200);
const FIRST_MOST: Duration = Duration::from_secs(5);

/// The changes that wait.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// When the first and the last of them came.
    waiting: Option<(Instant, Instant)>,
}

impl Pace {
    /// Something changed.
    pub fn changed(&mut self, now: Instant) {
        let first = self.waiting.map_or(now, |(first, _)| first);
        self.waiting = Some((first, now));
    }

    /// When to apply what waits; `None` if nothing does. The `first` state may take longer to come.
    pub fn due(&self, first: bool) -> Option<Instant> {
        let (quiet, most) = if first {
            (FIRST_QUIET, FIRST_MOST)
        } else {
            (QUIET, MOST)
        };
        self.waiting.map(|(since, last)| (last + quiet).min(since + most))
    }

    /// What waited was applied.
    pub fn applied(&mut self) {
        self.waiting = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_one_change_and_waits_no_longer_than_it_may() {
        let start = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.due(false), None);
        pace.changed(start);
        assert_eq!(pace.due(false), Some(start + QUIET));
        let mut now = start;
        for _ in 0..100 {
            now += QUIET / 2;
            pace.changed(now);
        }
        assert_eq!(pace.due(false), Some(start + MOST));
        assert_eq!(pace.due(true), Some(now + FIRST_QUIET));
        pace.applied();
        assert_eq!((pace.due(false), pace.due(true)), (None, None));
    }
}
