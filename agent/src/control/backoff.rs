// SPDX-License-Identifier: Apache-2.0
//! How long to wait before the next attempt to connect: exponential, with jitter, from the beginning again after a connection
//! that held. Pure: time and chance are passed in.
//!
//! Invariant: a wait is never longer than [`MAX`], and at least half of what its step says, so that a fleet that lost its control
//! plane at once does not come back at once.

use std::time::Duration;

/// The first wait.
pub const BASE: Duration = Duration::from_millis(100);
/// The longest wait.
pub const MAX: Duration = Duration::from_secs(5);
/// A connection that held for this long was a good one.
pub const HEALTHY: Duration = Duration::from_secs(3);

/// The waits between attempts, and which of several URLs comes next.
#[derive(Clone, Debug)]
pub struct Backoff {
    step: Duration,
    most: Duration,
    urls: usize,
    current: usize,
    /// Attempts since the step was raised last.
    tried: usize,
}

impl Backoff {
    /// For so many URLs, at least one.
    pub fn new(urls: usize) -> Self {
        Self {
            step: BASE,
            most: MAX,
            urls: urls.max(1),
            current: 0,
            tried: 0,
        }
    }

    /// With no wait longer than `most`, which counts only if it is shorter than [`MAX`].
    #[must_use]
    pub fn at_most(mut self, most: Duration) -> Self {
        self.most = most.clamp(BASE, MAX);
        self
    }

    /// Index of the URL to try.
    pub fn url(&self) -> usize {
        self.current
    }

    /// An attempt failed, or a connection ended that held for `held`. Moves to the next URL and returns how long to wait before it;
    /// `chance` is between 0 and 1.
    pub fn failed(&mut self, held: Duration, chance: f64) -> Duration {
        if held >= HEALTHY {
            (self.step, self.tried) = (BASE, 0);
        }
        let wait = self.step.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0));
        self.current = (self.current + 1) % self.urls;
        self.tried += 1;
        if self.tried >= self.urls {
            self.tried = 0;
            self.step = (self.step * 2).min(self.most);
        }
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = Backoff::new(1);
        let waits: Vec<Duration> = (0..9).map(|_| backoff.failed(Duration::ZERO, 1.0)).collect();
        assert_eq!(waits[..3], [BASE, BASE * 2, BASE * 4]);
        assert_eq!(waits[8], MAX);
        assert_eq!(backoff.failed(Duration::ZERO, 0.0), MAX / 2);
        let mut short = Backoff::new(1).at_most(BASE * 3);
        let waits: Vec<Duration> = (0..4).map(|_| short.failed(Duration::ZERO, 1.0)).collect();
        assert_eq!(waits, [BASE, BASE * 2, BASE * 3, BASE * 3]);
    }

    #[test]
    fn every_url_is_tried_before_the_wait_doubles() {
        let mut backoff = Backoff::new(3);
        let mut tries = Vec::new();
        for _ in 0..4 {
            let url = backoff.url();
            tries.push((url, backoff.failed(Duration::ZERO, 1.0)));
        }
        assert_eq!(tries, [(0, BASE), (1, BASE), (2, BASE), (0, BASE * 2)]);
    }

    #[test]
    fn a_connection_that_held_starts_anew_and_a_short_one_does_not() {
        let mut backoff = Backoff::new(1);
        for _ in 0..5 {
            backoff.failed(Duration::ZERO, 1.0);
        }
        assert_eq!(backoff.failed(HEALTHY / 2, 1.0), BASE * 32);
        assert_eq!(backoff.failed(HEALTHY, 1.0), BASE);
    }
}
