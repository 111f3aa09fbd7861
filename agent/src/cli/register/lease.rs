// SPDX-License-Identifier: Apache-2.0
//! Keeps a registration: registers, renews, and registers again when the control plane or the lease is gone.
//!
//! Invariant: it never gives up; what goes wrong is told once, on standard error.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nodemesh_proto::v1::{DeregisterRequest, RegisterRequest, RenewRequest};
use tokio::{
    sync::{mpsc, watch},
    time::{interval, sleep, timeout},
};
use tonic::Code;

use crate::{
    cli::registry::{Client, connect, explain},
    control::{Backoff, ControlClient},
};

/// Longest that a control plane may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is to be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// A workload that takes new connections.
    Active,
    /// One that takes none any more.
    Draining,
}

/// What is registered.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct State {
    /// The lease; `None` before the first registration.
    pub(super) lease: Option<i64>,
    /// What was registered last, and when.
    pub(super) wish: Option<(Wish, Instant)>,
}

/// Keeps the registration.
pub(super) struct Keeper {
    pub(super) control: ControlClient,
    /// The Workload, by [`Wish`].
    pub(super) workloads: [String; 2],
    pub(super) ttl: Duration,
    pub(super) wished: watch::Receiver<Wish>,
    pub(super) told: watch::Sender<State>,
}

impl Keeper {
    /// Keeps it until it is dropped.
    pub(super) async fn run(mut self) -> Infallible {
        let urls = self.control.urls().to_vec();
        // Several attempts within the life of the lease.
        let mut backoff = Backoff::new(urls.len()).at_most(self.ttl / 4);
        let mut said = String::new();
        loop {
            let started = Instant::now();
            let error = match connect(&self.control, &urls[backoff.url()]).await {
                Ok(mut client) => match self.keep(&mut client, &mut said).await {
                    Ok(never) => match never {},
                    Err(error) => format!("{error:#}"),
                },
                Err(error) => error.to_string(),
            };
            if error != said {
                eprintln!(
                    "nodemesh: not registered at {}: {error}; trying again",
                    urls[backoff.url()]
                );
                said = error;
            }
            sleep(backoff.failed(started.elapsed(), fastrand::f64())).await;
        }
    }

    /// Keeps it over one connection.
    async fn keep(&mut self, client: &mut Client, said: &mut String) -> Result<Infallible> {
        let wish = *self.wished.borrow();
        let known = *self.told.borrow();
        // A lease that outlived the connection only has to be renewed.
        let is_registered = known.lease.is_some() && known.wish.is_some_and(|(told, _)| told == wish);
        let mut ttl = if is_registered {
            self.ttl
        } else {
            self.register(client).await?
        };
        if !std::mem::take(said).is_empty() {
            eprintln!("nodemesh: registered");
        }
        let (renewals, outbox) = mpsc::channel(1);
        let outbox = futures_util::stream::unfold(outbox, |mut outbox| async {
            Some((outbox.recv().await?, outbox))
        });
        let call = timeout(PATIENCE, client.renew(outbox));
        let lease = self.told.borrow().lease.unwrap_or_default();
        // Some servers answer only once there is something to answer.
        let _ = renewals.try_send(RenewRequest { lease });
        let mut answers = call.await?.map_err(|status| explain(&status))?.into_inner();
        let mut clock = interval(ttl / 3);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                answer = answers.message() => {
                    let Some(answer) = answer.map_err(|status| explain(&status))? else {
                        bail!("the control plane closed the stream of renewals");
                    };
                    heard = Instant::now();
                    if answer.ttl_seconds == 0 {
                        self.forget();
                        ttl = self.register(client).await?;
                    }
                }
                _ = clock.tick() => {
                    if heard.elapsed() > ttl {
                        bail!("the control plane does not answer renewals");
                    }
                    let lease = self.told.borrow().lease.unwrap_or_default();
                    let _ = renewals.try_send(RenewRequest { lease });
                }
                changed = self.wished.changed() => {
                    if changed.is_err() {
                        // Nothing will be wished any more; what is registered stays.
                        std::future::pending::<()>().await;
                    }
                    ttl = self.register(client).await?;
                }
            }
        }
    }

    /// Registers what is wished, with the lease that there is, else a new one; the time that it lasts.
    async fn register(&mut self, client: &mut Client) -> Result<Duration> {
        loop {
            let wish = *self.wished.borrow_and_update();
            let lease = self.told.borrow().lease;
            let request = RegisterRequest {
                resource: self.workloads[wish as usize].clone(),
                ttl_seconds: u32::try_from(self.ttl.as_secs().max(1)).unwrap_or(u32::MAX),
                lease: lease.unwrap_or_default(),
            };
            match timeout(PATIENCE, client.register(request)).await? {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    self.told.send_replace(State {
                        lease: Some(answer.lease),
                        wish: Some((wish, Instant::now())),
                    });
                    return Ok(Duration::from_secs(answer.ttl_seconds.max(1).into()));
                }
                Err(status) if status.code() == Code::NotFound && lease.is_some() => self.forget(),
                Err(status) => return Err(explain(&status)),
            }
        }
    }

    /// The lease is gone.
    fn forget(&self) {
        self.told.send_modify(|state| state.lease = None);
    }
}

/// Ends a registration, at whichever control plane answers first; if none does, the lease ends by itself.
pub(super) async fn deregister(control: &ControlClient, lease: i64) {
    let mut errors = Vec::new();
    for url in control.urls() {
        let attempt = async {
            let mut client = connect(control, url).await?;
            let answer = client.deregister(DeregisterRequest { lease }).await;
            match answer {
                Err(status) if status.code() != Code::NotFound => Err(explain(&status)),
                _ => Ok(()),
            }
        };
        match timeout(PATIENCE, attempt).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => errors.push(format!("{error:#}")),
            Err(_) => errors.push(format!("{url} does not answer")),
        }
    }
    eprintln!(
        "nodemesh: could not deregister, the registration ends with its lease: {}",
        errors.join("; ")
    );
}
