// SPDX-License-Identifier: Apache-2.0
//! A worker: one request at a time, or a few that are sent at once, on a connection of its own.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::sleep;

use super::dial::dial;
use super::exchange::{Broken, Exchange};
use super::options::Mode;
use super::plan::{Phase, Plan};
use super::request::Request;
use super::session::Session;
use super::tally::Failure;
use super::target::Target;

/// Works until the run finishes; a request in progress is cut only in [`Phase::Cut`].
pub(super) async fn run(plan: Arc<Plan>, index: usize, mut phase: watch::Receiver<Phase>) {
    let mut worker = Worker {
        plan: &plan,
        index,
        session: None,
    };
    let mut pause = plan.ramp(index);
    loop {
        let turns = tokio::select! {
            biased;
            () = reached(&mut phase, Phase::Finishing) => return,
            turns = async { sleep(pause).await; plan.turns().await } => turns,
        };
        let Some(first) = turns.first() else { return };
        let mut random = plan.options.random(!first.number);
        let mut requests: Vec<_> = turns
            .into_iter()
            .map(|turn| Request::begin(&plan, index, turn))
            .collect();
        tokio::select! {
            biased;
            () = reached(&mut phase, Phase::Cut) => return,
            () = worker.converse(&mut requests) => (),
        }
        drop(requests);
        pause = plan.options.think + plan.options.keep_alive_gap.draw(&mut random);
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

impl<'a> Worker<'a> {
    /// Sends the requests, all on one connection, and reads their answers.
    async fn converse(&mut self, requests: &mut [Request<'a>]) {
        if let Some(mut kept) = self.session.take()
            && (self.plan.options.blind || kept.is_usable())
        {
            match exchange(&mut kept, requests).await {
                After::Complete => return self.done(kept).await,
                After::Broken => return,
                // The server closed it while it was idle and saw nothing of the request: any pool dials again.
                After::Unsent => (),
            }
        }
        let server = self.plan.server(self.index, &requests[0].turn);
        match self.dial(server).await {
            Err(failure) => requests.iter_mut().for_each(|request| request.failed(failure)),
            Ok(mut session) => match exchange(&mut session, requests).await {
                After::Complete => self.done(session).await,
                After::Broken => (),
                After::Unsent => requests
                    .iter_mut()
                    .for_each(|request| request.failed(Failure::Reset)),
            },
        }
    }

    /// Keeps the connection if it may carry more requests.
    async fn done(&mut self, session: Session) {
        let options = &self.plan.options;
        let spent = options
            .requests_per_connection
            .is_some_and(|limit| session.requests >= limit.get());
        if session.ends {
            session.closed_by_server().await;
        } else if options.mode == Mode::KeepAlive && !spent {
            self.session = Some(session);
        }
    }

    async fn dial(&self, server: Target) -> Result<Session, Failure> {
        let options = &self.plan.options;
        let source = (!options.source.is_empty()).then(|| options.source[self.index % options.source.len()]);
        match dial(server.address, source, options.connect_timeout).await {
            Ok(dialled) => {
                self.plan
                    .record(self.index, |tally| tally.connected(dialled.peer, dialled.elapsed));
                let connector = self.plan.connector(server);
                let open = Session::open(dialled, connector);
                match tokio::time::timeout(options.connect_timeout, open).await {
                    Ok(Ok(session)) => Ok(session),
                    Ok(Err(_)) | Err(_) => Err(Failure::TlsHandshake),
                }
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

/// What is left of a connection after requests on it.
enum After {
    /// All answers came whole.
    Complete,
    /// Not all of them; every request has its verdict.
    Broken,
    /// Nothing was sent: the connection was closed already.
    Unsent,
}

async fn exchange(session: &mut Session, requests: &mut [Request<'_>]) -> After {
    let mut sent = 0;
    for request in &mut *requests {
        match Exchange::new(request, session).send(sent > 0).await {
            Ok(()) => sent += 1,
            Err(Broken::Unsent) if sent == 0 => return After::Unsent,
            Err(broken) => {
                settle(session, &mut requests[sent..], &broken);
                break;
            }
        }
    }
    for number in 0..sent {
        if let Err(broken) = Exchange::new(&mut requests[number], session).receive().await {
            settle(session, &mut requests[number..sent], &broken);
            return After::Broken;
        }
        requests[number].ok(session);
    }
    if sent == requests.len() {
        After::Complete
    } else {
        After::Broken
    }
}

/// What breaks one request breaks those behind it, too.
fn settle(session: &Session, requests: &mut [Request<'_>], broken: &Broken) {
    for request in requests {
        match broken {
            // The server took the FIN of a half-close for what it takes every FIN.
            Broken::Failed(_) if request.is_given_up() => request.cancelled(session),
            Broken::Failed(failure) => request.failed_on(session, *failure),
            Broken::Unsent => request.failed_on(session, Failure::Reset),
            Broken::GivenUp => request.cancelled(session),
        }
    }
}
