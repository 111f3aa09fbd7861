// SPDX-License-Identifier: Apache-2.0
//! A worker: one request at a time, on a connection of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::dial::dial;
use super::exchange::{Broken, Exchange};
use super::options::Mode;
use super::plan::{Phase, Plan, Turn};
use super::session::Session;
use super::tally::Failure;

/// Works until the run finishes; a request in progress is cut only in [`Phase::Cut`].
pub(super) async fn run(plan: Arc<Plan>, index: usize, mut phase: watch::Receiver<Phase>) {
    let mut worker = Worker {
        plan: &plan,
        index,
        session: None,
    };
    loop {
        let turn = tokio::select! {
            biased;
            () = reached(&mut phase, Phase::Finishing) => return,
            turn = plan.turn() => turn,
        };
        let Some(turn) = turn else { return };
        let in_flight = plan.begin();
        tokio::select! {
            biased;
            () = reached(&mut phase, Phase::Cut) => {
                plan.record(index, |tally| tally.aborted += 1);
                return;
            }
            () = worker.request(&turn) => (),
        }
        drop(in_flight);
        if !plan.options.think.is_zero() {
            tokio::select! {
                biased;
                () = reached(&mut phase, Phase::Finishing) => return,
                () = tokio::time::sleep(plan.options.think) => (),
            }
        }
    }
}

/// Also resolves when the run is gone.
async fn reached(phase: &mut watch::Receiver<Phase>, at_least: Phase) {
    let _ = phase.wait_for(|&phase| phase >= at_least).await;
}

struct Worker<'a> {
    plan: &'a Plan,
    index: usize,
    /// Kept between requests in [`Mode::KeepAlive`].
    session: Option<Session>,
}

impl Worker<'_> {
    async fn request(&mut self, turn: &Turn) {
        let started = Instant::now();
        let address = self.plan.address(self.index, turn);
        let outcome = self.attempt(address, started).await;
        self.plan.record(self.index, |tally| {
            turn.lag.into_iter().for_each(|lag| tally.start_lag.record(lag));
            match &outcome {
                Ok(elapsed) => {
                    tally.ok += 1;
                    tally.e2e.record(*elapsed);
                }
                Err((failure, replica)) => tally.failed(*failure, replica.as_deref()),
            }
        });
    }

    /// Sends one request and returns the time to the end of its answer; a failure comes with the replica that the
    /// connection was known to lead to.
    async fn attempt(
        &mut self,
        address: SocketAddr,
        started: Instant,
    ) -> Result<Duration, (Failure, Option<String>)> {
        let exchange = Exchange {
            plan: self.plan,
            worker: self.index,
            started,
        };
        let authority = address.to_string();
        if let Some(mut kept) = self.session.take()
            && kept.usable().await
        {
            match exchange.run(&mut kept, &authority).await {
                Ok(()) => {
                    self.session = Some(kept);
                    return Ok(started.elapsed());
                }
                // The server closed it while it was idle and saw nothing of the request: any pool dials again.
                Err(Broken { unsent: true, .. }) => (),
                Err(broken) => return Err((broken.failure, kept.replica.take())),
            }
        }
        let mut session = self.dial(address).await.map_err(|failure| (failure, None))?;
        match exchange.run(&mut session, &authority).await {
            Ok(()) => {
                let elapsed = started.elapsed();
                match self.plan.options.mode {
                    Mode::KeepAlive => self.session = Some(session),
                    Mode::OneShot => session.closed_by_server().await,
                }
                Ok(elapsed)
            }
            Err(broken) => Err((broken.failure, session.replica.take())),
        }
    }

    async fn dial(&self, address: SocketAddr) -> Result<Session, Failure> {
        let options = &self.plan.options;
        match dial(address, options.source, options.connect_timeout).await {
            Ok(dialled) => {
                self.plan
                    .record(self.index, |tally| tally.connected(dialled.peer, dialled.elapsed));
                Session::open(dialled).await.map_err(|_| Failure::Protocol)
            }
            Err(error) => {
                self.plan.record(self.index, |tally| {
                    *tally.connect_errors.entry(error.name).or_default() += 1;
                });
                Err(error.failure)
            }
        }
    }
}
