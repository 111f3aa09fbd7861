// SPDX-License-Identifier: Apache-2.0
//! What load reports were told so far, and what is new since. Pure; the counters are read by `load_report`.
//!
//! Invariant: every count is reported once, over any number of streams: a report that could not be sent is the loss of one interval,
//! never a double. What was counted before the agent started is not reported.

use std::collections::BTreeMap;

use nodemesh_abi::{Ip16, Port};

/// A backend of a port of a service: cluster name, address and port.
pub type Key = (String, Ip16, Port);

/// What this node's clients made of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that have begun, ever.
    pub issued: u64,
    /// Requests that were answered, ever; with whatever the client did wrong.
    pub succeeded: u64,
    /// Requests that the backend did not answer as it should, ever.
    pub failed: u64,
    /// Times to first token that were measured, ever.
    pub first_tokens: u64,
    /// Their sum, nanoseconds.
    pub first_token_ns: u64,
}

/// What goes on at a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Levels {
    /// Requests in flight.
    pub in_flight: u64,
    /// Open connections.
    pub connections: u64,
}

/// A backend at one time: totals in what is read, differences in what is reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Counters.
    pub counters: Counters,
    /// Levels.
    pub levels: Levels,
}

impl Counters {
    fn zip(self, other: Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            issued: combine(self.issued, other.issued),
            succeeded: combine(self.succeeded, other.succeeded),
            failed: combine(self.failed, other.failed),
            first_tokens: combine(self.first_tokens, other.first_tokens),
            first_token_ns: combine(self.first_token_ns, other.first_token_ns),
        }
    }

    /// What was counted since `before`; a row that was given to another backend in between began at 0.
    fn since(self, before: Self) -> Self {
        let is_new_row = self.succeeded < before.succeeded
            || self.failed < before.failed
            || self.first_tokens < before.first_tokens
            || self.first_token_ns < before.first_token_ns;
        let before = if is_new_row { Self::default() } else { before };
        self.zip(before, u64::saturating_sub)
    }
}

impl Load {
    /// Both together.
    pub fn add(&mut self, more: Self) {
        self.counters = self.counters.zip(more.counters, u64::wrapping_add);
        self.levels.in_flight += more.levels.in_flight;
        self.levels.connections += more.levels.connections;
    }
}

/// The book.
#[derive(Debug, Default)]
pub struct LoadBook {
    /// What was read last; `None` before the first time.
    last: Option<BTreeMap<Key, Load>>,
}

impl LoadBook {
    /// What is new in `now`, which is all there is: backends with news, or with requests or connections now or last time.
    pub fn report(&mut self, now: BTreeMap<Key, Load>) -> Vec<(Key, Load)> {
        let is_first = self.last.is_none();
        let mut last = self.last.take().unwrap_or_default();
        let mut news = Vec::new();
        for (key, load) in &now {
            let before = last.remove(key).unwrap_or_default();
            let counters = if is_first {
                Counters::default()
            } else {
                load.counters.since(before.counters)
            };
            let levels = load.levels;
            let is_idle = counters == Counters::default() && levels == Levels::default();
            if !is_idle || before.levels != Levels::default() {
                news.push((key.clone(), Load { counters, levels }));
            }
        }
        // What is left is gone: it has nothing any more.
        let ended = last
            .into_iter()
            .filter(|(_, load)| load.levels != Levels::default());
        news.extend(ended.map(|(key, _)| (key, Load::default())));
        self.last = Some(now);
        news
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn key(name: &str) -> Key {
        (
            name.to_owned(),
            "10.0.0.1".parse::<IpAddr>().unwrap().into(),
            Port::new(80),
        )
    }

    fn load(issued: u64, in_flight: u64) -> Load {
        Load {
            counters: Counters {
                issued,
                succeeded: issued - in_flight,
                ..Counters::default()
            },
            levels: Levels {
                in_flight,
                connections: in_flight,
            },
        }
    }

    fn told(book: &mut LoadBook, now: &[(&str, Load)]) -> Vec<(String, u64, u64)> {
        let now = now.iter().map(|(name, load)| (key(name), *load)).collect();
        let report = book.report(now);
        let row = |(key, load): (Key, Load)| (key.0, load.counters.issued, load.levels.in_flight);
        report.into_iter().map(row).collect()
    }

    #[test]
    fn a_count_is_told_once_and_a_level_until_it_is_zero() {
        let mut book = LoadBook::default();
        assert_eq!(told(&mut book, &[("a", load(100, 2))]), [("a".to_owned(), 0, 2)]);
        assert_eq!(
            told(&mut book, &[("a", load(107, 3)), ("b", load(4, 0))]),
            [("a".to_owned(), 7, 3), ("b".to_owned(), 4, 0)]
        );
        assert_eq!(
            told(&mut book, &[("a", load(107, 0)), ("b", load(4, 0))]),
            [("a".to_owned(), 0, 0)]
        );
        assert_eq!(told(&mut book, &[("a", load(107, 0)), ("b", load(4, 0))]), []);
    }

    #[test]
    fn a_backend_that_is_gone_has_nothing_any_more() {
        let mut book = LoadBook::default();
        told(&mut book, &[("a", load(5, 1)), ("b", load(5, 0))]);
        assert_eq!(told(&mut book, &[]), [("a".to_owned(), 0, 0)]);
        assert_eq!(told(&mut book, &[]), []);
    }

    #[test]
    fn a_row_that_begins_anew_counts_from_zero() {
        let mut book = LoadBook::default();
        told(&mut book, &[("a", load(100, 0))]);
        assert_eq!(told(&mut book, &[("a", load(3, 0))]), [("a".to_owned(), 3, 0)]);
    }

    #[test]
    fn two_rows_of_a_backend_add_up() {
        let mut sum = load(5, 1);
        sum.add(load(7, 2));
        assert_eq!(
            (sum.counters.issued, sum.counters.succeeded, sum.levels.in_flight),
            (12, 9, 3)
        );
    }
}
