// SPDX-License-Identifier: Apache-2.0
//! Whether the kernel's numbers in flight are what the records hold. Pure.
//!
//! A program changes the record first and the row a moment later, so one pass can be wrong about a busy row. A row's word counts
//! only if nothing began or ended in it while the pass ran, and a drift only if two passes in a row say the same of it.
//! Invariant: a row that is correct and observed consistently is never corrected.

use std::collections::HashMap;

use nodemesh_abi::Traffic;

/// What tells that a request has begun or ended in a row, and what it has in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// [`Traffic::in_flight`].
    pub in_flight: u64,
    /// [`Traffic::request_bytes_in_flight`].
    pub request_bytes: u64,
    /// Finished requests and connections, ever.
    pub ended: u64,
}

impl Flow {
    /// Of a row.
    pub fn of(row: &Traffic) -> Self {
        Self {
            in_flight: row.in_flight,
            request_bytes: row.request_bytes_in_flight,
            ended: row.requests.iter().sum::<u64>()
                + row.ambiguous
                + row.connections_opened.wrapping_sub(row.connections),
        }
    }
}

/// One pass over one row.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// The row before the pass.
    pub before: Flow,
    /// The row a while after the pass.
    pub after: Flow,
    /// Open requests that the records hold.
    pub open: u64,
    /// Bytes of these requests that the records hold.
    pub held_bytes: u64,
}

/// What to add to a row so that it says what the records hold; wrapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Correction {
    /// To [`Traffic::in_flight`].
    pub in_flight: u64,
    /// To [`Traffic::request_bytes_in_flight`].
    pub request_bytes: u64,
}

impl Pass {
    /// The difference, if nothing happened meanwhile.
    fn drift(&self) -> Option<Correction> {
        let correction = Correction {
            in_flight: self.open.wrapping_sub(self.after.in_flight),
            request_bytes: self.held_bytes.wrapping_sub(self.after.request_bytes),
        };
        let differs = correction.in_flight != 0 || correction.request_bytes != 0;
        (self.before == self.after && differs).then_some(correction)
    }
}

/// Remembers what the last pass found.
#[derive(Debug, Default)]
pub struct DriftWatch {
    suspected: HashMap<u32, Correction>,
}

impl DriftWatch {
    /// The corrections that this pass and the one before it agree on, by row.
    pub fn judge(&mut self, passes: &HashMap<u32, Pass>) -> Vec<(u32, Correction)> {
        let drifts: HashMap<u32, Correction> = passes
            .iter()
            .filter_map(|(row, pass)| Some((*row, pass.drift()?)))
            .collect();
        let agreed: Vec<(u32, Correction)> = drifts
            .iter()
            .filter(|(row, drift)| self.suspected.get(row) == Some(drift))
            .map(|(row, drift)| (*row, *drift))
            .collect();
        self.suspected = drifts;
        for (row, _) in &agreed {
            self.suspected.remove(row);
        }
        agreed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(in_flight: u64, ended: u64) -> Flow {
        Flow {
            in_flight,
            request_bytes: 0,
            ended,
        }
    }

    fn still(in_flight: u64, open: u64) -> Pass {
        Pass {
            before: flow(in_flight, 7),
            after: flow(in_flight, 7),
            open,
            held_bytes: 0,
        }
    }

    fn judge(watch: &mut DriftWatch, pass: Pass) -> Vec<(u32, Correction)> {
        watch.judge(&HashMap::from([(4, pass)]))
    }

    fn by(in_flight: i64) -> Vec<(u32, Correction)> {
        let correction = Correction {
            in_flight: in_flight.cast_unsigned(),
            request_bytes: 0,
        };
        vec![(4, correction)]
    }

    #[test]
    fn a_drift_is_corrected_when_two_passes_agree() {
        let mut watch = DriftWatch::default();
        assert_eq!(judge(&mut watch, still(3, 2)), []);
        assert_eq!(judge(&mut watch, still(3, 2)), by(-1));
        // The correction takes effect after this pass's numbers were read; it must not be made twice.
        assert_eq!(judge(&mut watch, still(3, 2)), []);
        assert_eq!(judge(&mut watch, still(2, 2)), []);
        assert_eq!(judge(&mut watch, still(2, 5)), []);
        assert_eq!(judge(&mut watch, still(2, 5)), by(3));
    }

    #[test]
    fn what_changes_or_differs_between_passes_is_no_drift() {
        let mut watch = DriftWatch::default();
        assert_eq!(judge(&mut watch, still(3, 2)), []);
        assert_eq!(judge(&mut watch, still(3, 1)), [], "another difference");
        let moving = Pass {
            before: flow(3, 7),
            after: flow(3, 8),
            open: 1,
            held_bytes: 0,
        };
        assert_eq!(judge(&mut watch, moving), [], "one began and one ended meanwhile");
        assert_eq!(
            judge(&mut watch, still(3, 1)),
            [],
            "a pass that says nothing lies between"
        );
        assert_eq!(judge(&mut watch, still(3, 3)), []);
        assert_eq!(judge(&mut watch, still(3, 1)), []);
    }

    #[test]
    fn bytes_in_flight_are_corrected_too() {
        let mut watch = DriftWatch::default();
        let pass = Pass {
            before: Flow {
                in_flight: 1,
                request_bytes: 500,
                ended: 0,
            },
            after: Flow {
                in_flight: 1,
                request_bytes: 500,
                ended: 0,
            },
            open: 1,
            held_bytes: 300,
        };
        assert_eq!(judge(&mut watch, pass), []);
        let correction = Correction {
            in_flight: 0,
            request_bytes: (-200_i64).cast_unsigned(),
        };
        assert_eq!(judge(&mut watch, pass), [(4, correction)]);
    }

    #[test]
    fn the_end_of_a_connection_is_seen_in_its_row() {
        let mut row = Traffic {
            connections_opened: 5,
            connections: 2,
            ..Traffic::default()
        };
        let before = Flow::of(&row);
        row.connections = 1;
        assert_ne!(Flow::of(&row), before);
    }
}
