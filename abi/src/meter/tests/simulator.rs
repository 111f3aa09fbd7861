// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Random schedules at both vantages, on every path, in plaintext and under TLS, against their truth.

use super::{
    schedule::{Act, Moment, Random, Schedule, Truth},
    *,
};
use crate::traffic::{GAP_BOUNDS_NS, bucket};

const SEEDS: u64 = 400;
/// Largest difference between a time to first token and the truth.
const TOLERANCE_NS: u64 = MS;

/// How a schedule is shown to the meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Plain(Path),
    Tls,
    /// TLS read by a library that takes each record's header by itself.
    TlsInTwo,
}

const VIEWS: [View; 5] = [
    View::Plain(Path::Eager),
    View::Plain(Path::Late),
    View::Plain(Path::Packets(1_448)),
    View::Tls,
    View::TlsInTwo,
];

/// A schedule in play.
struct Simulation {
    bench: Bench,
    view: View,
    vantage: Vantage,
    /// Requests that have begun and not ended.
    open: usize,
    begun: usize,
}

impl Simulation {
    fn run(schedule: &Schedule, view: View, vantage: Vantage, delay_ns: u64) -> Bench {
        let bench = match view {
            View::Plain(path) => Bench::new(vantage, path),
            View::Tls | View::TlsInTwo => Bench::tls(vantage),
        };
        let mut simulation = Self {
            bench,
            view,
            vantage,
            open: 0,
            begun: 0,
        };
        for moment in &schedule.moments {
            simulation.play(moment, delay_ns);
        }
        simulation.bench
    }

    fn play(&mut self, moment: &Moment, delay_ns: u64) {
        // What the server does reaches a client later by a round trip, counted from the client's own writes; so does all that
        // follows from it.
        let round_trips = match moment.act {
            Act::Body(_) => self.begun - 1,
            _ => self.begun,
        };
        let late = if self.vantage == Vantage::Client {
            delay_ns * round_trips as u64
        } else {
            0
        };
        self.bench.at_ns(moment.at_ns + late);
        match moment.act {
            Act::Ask(bytes) => {
                self.begun += 1;
                self.open = 1;
                self.bench.ask(bytes);
            }
            Act::Body(bytes) => {
                self.bench.up(bytes, UpFacts::default());
            }
            Act::Write(bytes, facts) => self.write(bytes, facts),
            Act::Done(bytes) => self.write(bytes, DownFacts::END),
            Act::Quiet => {
                self.bench.settle();
            }
            Act::ClientGone(reset) => self.client_gone(reset),
            Act::ServerGone => self.server_gone(),
        }
        assert_eq!(self.bench.meter.open as usize, self.open, "after {moment:?}");
        // Conservation: what began has ended or is open; what a TLS connection keeps until it is sure is neither.
        let unsure = usize::from(self.bench.phase() == Phase::Tail);
        assert_eq!(
            self.begun,
            self.bench.finished.len() + self.open + unsure,
            "after {moment:?}"
        );
    }

    fn write(&mut self, bytes: u32, facts: DownFacts) {
        match self.view {
            View::TlsInTwo => {
                self.bench.down_bytes(5).down_bytes(bytes + TLS_BYTES - 5);
            }
            _ => {
                self.bench.down(bytes, facts);
            }
        }
        let ends = match self.view {
            View::Plain(_) => facts.has(DownFacts::END),
            // `data: [DONE]` and the last chunk; a heartbeat is larger, or breaks a silence.
            _ => bytes <= 19,
        };
        if ends {
            self.open = 0;
        }
    }

    fn client_gone(&mut self, reset: bool) {
        self.open = 0;
        match (self.vantage, reset) {
            (Vantage::Client, false) => self.bench.end(End::Closed),
            (Vantage::Client, true) => self.bench.end(End::Aborted),
            (Vantage::Server, false) => self.bench.fin().end(End::Closed),
            (Vantage::Server, true) => self.bench.end(End::Reset),
        };
    }

    fn server_gone(&mut self) {
        self.open = 0;
        match self.vantage {
            Vantage::Client => self.bench.fin().end(End::Closed),
            Vantage::Server => self.bench.end(End::Closed),
        };
    }
}

/// `truth` as it is seen from `vantage`: a server cannot know that a request was lost on its way.
fn outcome(truth: &Truth, vantage: Vantage) -> Outcome {
    match truth.outcome {
        Outcome::KeepaliveRace if vantage == Vantage::Server => Outcome::NoResponse,
        outcome => outcome,
    }
}

fn histogram(gaps: &[u64]) -> Vec<usize> {
    let mut buckets: Vec<_> = gaps.iter().map(|gap| bucket(&GAP_BOUNDS_NS, *gap)).collect();
    buckets.sort_unstable();
    buckets
}

fn check(schedule: &Schedule, bench: &Bench, vantage: Vantage, delay_ns: u64) {
    let late = if vantage == Vantage::Client { delay_ns } else { 0 };
    let truths = &schedule.truths;
    let outcomes: Vec<_> = truths.iter().map(|truth| outcome(truth, vantage)).collect();
    assert_eq!(bench.outcomes(), outcomes);
    assert_eq!(
        bench.cancels(),
        truths.iter().filter_map(|truth| truth.cancel).collect::<Vec<_>>()
    );
    let first_bytes: Vec<_> = truths
        .iter()
        .filter_map(|truth| truth.first_byte_ns)
        .map(|ns| ns + late)
        .collect();
    assert_eq!(bench.first_bytes, first_bytes);
    let first_tokens: Vec<_> = truths
        .iter()
        .filter_map(|truth| truth.first_token_ns)
        .map(|ns| ns + late)
        .collect();
    assert_eq!(bench.first_tokens.len(), first_tokens.len());
    for (seen, truth) in bench.first_tokens.iter().zip(&first_tokens) {
        assert!(seen.abs_diff(*truth) <= TOLERANCE_NS, "{seen} instead of {truth}");
    }
    let gaps: Vec<u64> = truths
        .iter()
        .flat_map(|truth| truth.gaps_ns.iter().copied())
        .collect();
    assert_eq!(histogram(&bench.gaps), histogram(&gaps));
    assert_eq!(bench.chunks as usize, gaps.len() + first_tokens.len());
    assert_eq!(bench.ambiguous, 0);
}

#[test]
fn schedules_are_metered_as_they_are() {
    for view in VIEWS {
        for seed in 0..SEEDS {
            let schedule = Schedule::new(seed, 6, !matches!(view, View::Plain(_)));
            for vantage in Vantage::ALL {
                let delay_ns = Random(seed).within(0, 40) * MS;
                let failed = std::panic::catch_unwind(|| {
                    let bench = Simulation::run(&schedule, view, vantage, delay_ns);
                    check(&schedule, &bench, vantage, delay_ns);
                    if let View::Plain(_) = view {
                        let bytes = bench.finished.iter().map(|finished| finished.request_bytes);
                        assert!(bytes.eq(schedule.truths.iter().map(|truth| truth.request_bytes)));
                    }
                });
                assert!(
                    failed.is_ok(),
                    "{view:?}, seed {seed}, {vantage:?}: {:?}",
                    schedule.moments
                );
            }
        }
    }
}

#[test]
fn tls_tells_what_plaintext_tells() {
    for seed in 0..SEEDS {
        let schedule = Schedule::new(seed, 6, true);
        let plain = Simulation::run(&schedule, View::Plain(Path::Eager), Vantage::Server, 0);
        let tls = Simulation::run(&schedule, View::Tls, Vantage::Server, 0);
        assert_eq!(
            (plain.outcomes(), plain.cancels(), plain.chunks),
            (tls.outcomes(), tls.cancels(), tls.chunks)
        );
        assert_eq!(plain.first_bytes, tls.first_bytes, "seed {seed}");
        assert_eq!(histogram(&plain.gaps), histogram(&tls.gaps), "seed {seed}");
        for (plain, tls) in plain.first_tokens.iter().zip(&tls.first_tokens) {
            assert!(plain.abs_diff(*tls) <= TOLERANCE_NS, "seed {seed}");
        }
    }
}

#[test]
fn a_pipelined_request_anywhere_silences_its_socket() {
    for seed in 0..SEEDS {
        let schedule = Schedule::new(seed, 3, false);
        let asks = schedule
            .moments
            .iter()
            .position(|moment| matches!(moment.act, Act::Ask(_)));
        let first = asks.expect("a schedule has a request");
        let mut bench = Bench::plain(Vantage::Server);
        for (index, moment) in schedule.moments.iter().enumerate() {
            bench.at_ns(moment.at_ns.max(bench.now - EPOCH));
            match moment.act {
                Act::Ask(bytes) | Act::Body(bytes) => bench.ask(bytes),
                Act::Write(bytes, facts) => bench.down(bytes, facts),
                Act::Done(bytes) => bench.down(bytes, DownFacts::END),
                Act::Quiet => bench.settle(),
                Act::ClientGone(_) | Act::ServerGone => bench.end(End::Closed),
            };
            if index == first {
                bench.ask(700);
            }
        }
        assert_eq!(
            (bench.ambiguous, bench.in_flight, bench.finished.len()),
            (1, 0, 0),
            "seed {seed}"
        );
        assert_eq!(
            (bench.latencies(), bench.chunks),
            ([vec![], vec![], vec![]], 0),
            "seed {seed}"
        );
    }
}
