// SPDX-License-Identifier: Apache-2.0
//! One request of the run from its turn to its end, whatever way it ends: its part of the tally, and its line of the log.
//!
//! Owned by [`super::worker`], filled in by [`super::exchange`]. Invariant: dropping it counts it once; without a verdict, as cut.

use std::time::{Duration, Instant};

use super::cancel::{Fate, How};
use super::observation::{Observation, Outcome};
use super::plan::{InFlight, Plan, Turn};
use super::session::Session;
use super::tally::{Failure, Tally};
use crate::monotonic::now_ns;

/// A request in progress.
pub(super) struct Request<'a> {
    pub(super) plan: &'a Plan,
    worker: usize,
    pub(super) turn: Turn,
    /// Before its connect.
    pub(super) started: Instant,
    pub(super) fate: Option<Fate>,
    /// Once something of it was sent.
    pub(super) observation: Option<Observation>,
    /// Counts of the connection when it was sent.
    read_before: u64,
    verdict: Verdict,
    _in_flight: InFlight<'a>,
}

enum Verdict {
    Cut,
    Ok(Duration),
    Failed(Failure, Option<String>),
    Cancelled,
}

impl<'a> Request<'a> {
    pub(super) fn begin(plan: &'a Plan, worker: usize, turn: Turn) -> Self {
        Self {
            fate: Fate::of(turn.number, &plan.options),
            started: Instant::now(),
            observation: None,
            read_before: 0,
            verdict: Verdict::Cut,
            _in_flight: plan.begin(),
            plan,
            worker,
            turn,
        }
    }

    pub(super) fn id(&self) -> String {
        format!("{:x}-{}", self.plan.options.seed, self.turn.number)
    }

    /// It is about to be written to `session`.
    pub(super) fn sending(&mut self, session: &mut Session, pipelined: bool) {
        session.requests += 1;
        session.traffic().begin_write();
        self.read_before = session.traffic().read_bytes();
        self.observation = Some(Observation {
            id: self.id(),
            source: session.source,
            peer: session.peer,
            dialled: session.dialled,
            sequence: session.requests,
            replica: None,
            pipelined,
            request_first_ns: now_ns(),
            request_last_ns: None,
            interim_ns: None,
            first_byte_ns: None,
            first_token_ns: None,
            emissions_ns: Vec::new(),
            tokens: 0,
            status: None,
            request_bytes: 0,
            response_bytes: 0,
            cancel: None,
            ended_ns: 0,
            outcome: Outcome::Aborted,
        });
    }

    /// Whatever was written was written since [`Self::sending`]. `whole` if nothing is left to be written.
    pub(super) fn sent(&mut self, session: &Session, written_before: u64, whole: bool) {
        let Some((first, last)) = session.traffic().writes_ns() else {
            return;
        };
        if let Some(seen) = &mut self.observation {
            seen.request_first_ns = first;
            seen.request_last_ns = whole.then_some(last);
            seen.request_bytes = session.traffic().written_bytes() - written_before;
        }
    }

    /// The request never left: it has no line.
    pub(super) fn unsent(&mut self) {
        self.observation = None;
    }

    /// The responses ahead of it have come.
    pub(super) fn awaited(&mut self, session: &Session) {
        if self.observation.as_ref().is_some_and(|seen| seen.pipelined) {
            self.read_before = session.traffic().read_bytes();
        }
    }

    pub(super) fn record<T>(&self, write: impl FnOnce(&mut Tally) -> T) -> T {
        self.plan.record(self.worker, write)
    }

    /// How it is given up, now.
    pub(super) fn giving_up(&mut self, how: How) {
        self.fate = None;
        if let Some(seen) = &mut self.observation {
            seen.cancel = Some((how, now_ns()));
        }
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.observation
            .as_ref()
            .is_some_and(|seen| seen.cancel.is_some())
    }

    pub(super) fn ok(&mut self, session: &Session) {
        self.verdict = Verdict::Ok(self.started.elapsed());
        self.ended(session, Outcome::Ok);
    }

    pub(super) fn cancelled(&mut self, session: &Session) {
        self.verdict = Verdict::Cancelled;
        self.ended(session, Outcome::Cancelled);
    }

    pub(super) fn failed_on(&mut self, session: &Session, failure: Failure) {
        self.verdict = Verdict::Failed(failure, session.replica.clone());
        self.ended(session, Outcome::Failed(failure));
    }

    /// It found no connection.
    pub(super) fn failed(&mut self, failure: Failure) {
        self.verdict = Verdict::Failed(failure, None);
    }

    fn ended(&mut self, session: &Session, outcome: Outcome) {
        let traffic = session.traffic();
        if let Some(seen) = &mut self.observation {
            seen.outcome = outcome;
            seen.response_bytes = traffic.read_bytes() - self.read_before;
            seen.ended_ns = if outcome == Outcome::Ok {
                traffic.read_ns()
            } else {
                now_ns()
            };
        }
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.record(|tally| {
            self.turn
                .lag
                .into_iter()
                .for_each(|lag| tally.start_lag.record(lag));
            match &self.verdict {
                Verdict::Cut => tally.aborted += 1,
                Verdict::Cancelled => tally.cancelled += 1,
                Verdict::Failed(failure, replica) => tally.failed(*failure, replica.as_deref()),
                Verdict::Ok(elapsed) => {
                    tally.ok += 1;
                    tally.e2e.record(*elapsed);
                }
            }
        });
        if let Some(mut observation) = self.observation.take() {
            if let Verdict::Cut = self.verdict {
                observation.ended_ns = now_ns();
            }
            self.plan.log(observation);
        }
    }
}
