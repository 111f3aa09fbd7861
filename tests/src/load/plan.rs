// SPDX-License-Identifier: Apache-2.0
//! What the workers of a run share: the request to send, whose turn it is, and where to write what happened.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsConnector;

use super::observation::Observation;
use super::options::{Mode, Options};
use super::tally::Tally;
use super::target::Target;
use crate::journal::Journal;
use crate::tls;

/// Few workers share a shard, so that they hardly ever wait for each other.
const SHARDS: usize = 8;

/// How far the run is; it only advances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Requests are started.
    Running,
    /// Requests in progress may end.
    Finishing,
    /// Requests in progress are cut.
    Cut,
}

/// The plan of a run.
pub(super) struct Plan {
    pub(super) options: Options,
    pub(super) body: Bytes,
    started: Instant,
    turns: AtomicU64,
    in_flight: AtomicUsize,
    tls: Option<TlsConnector>,
    name: Option<ServerName<'static>>,
    journal: Option<Journal<Observation>>,
    /// Each mutex is held for a few map or histogram updates and never across an await.
    shards: [Mutex<Tally>; SHARDS],
}

/// The right to start one request.
pub(super) struct Turn {
    /// From 0.
    pub(super) number: u64,
    /// How late it is; `None` without `--rate`.
    pub(super) lag: Option<Duration>,
}

/// Counts a request as in flight until dropped.
pub(super) struct InFlight<'a>(&'a AtomicUsize);

impl Plan {
    pub(super) fn new(options: Options) -> anyhow::Result<Self> {
        anyhow::ensure!(!options.url.is_empty(), "no server: give --url http://IP:PORT");
        let pipelines = options.pipeline.get() > 1;
        anyhow::ensure!(
            !pipelines
                || options.mode == Mode::KeepAlive && options.cancel.is_none() && !options.expect_continue,
            "--pipeline needs --mode keep-alive, and goes neither with --cancel nor with --expect-continue"
        );
        let tls = match &options.ca {
            Some(ca) => Some(tls::client(ca, options.tls_versions)?.into()),
            None => None,
        };
        anyhow::ensure!(
            tls.is_some() || options.url.iter().all(|server| !server.secure),
            "whom to trust is not known: give --ca FILE for https"
        );
        let name = match &options.server_name {
            Some(name) => Some(
                ServerName::try_from(name.clone())
                    .with_context(|| format!("`{name}` is no name of a server"))?,
            ),
            None => None,
        };
        Ok(Self {
            body: body(&options),
            started: Instant::now(),
            turns: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            tls,
            name,
            journal: options.log.as_deref().map(Journal::create).transpose()?,
            shards: Default::default(),
            options,
        })
    }

    /// The requests that are sent at once, when they are due; none if all were given out.
    pub(super) async fn turns(&self) -> Vec<Turn> {
        let mut turns = Vec::new();
        for _ in 0..self.options.pipeline.get() {
            turns.extend(self.turn().await);
        }
        turns
    }

    /// How long the worker waits before its first request.
    pub(super) fn ramp(&self, worker: usize) -> Duration {
        let part = worker as f64 / self.options.concurrency.max(1) as f64;
        self.options.ramp.mul_f64(part)
    }

    /// What secures a connection to `server`; none without TLS.
    pub(super) fn connector(&self, server: Target) -> Option<(&TlsConnector, ServerName<'static>)> {
        let connector = self.tls.as_ref().filter(|_| server.secure)?;
        let name = self.name.clone();
        Some((
            connector,
            name.unwrap_or_else(|| ServerName::IpAddress(server.address.ip().into())),
        ))
    }

    /// Writes a line of `--log`.
    pub(super) fn log(&self, observation: Observation) {
        if let Some(journal) = &self.journal {
            journal.write(observation);
        }
    }

    /// Waits until the next request is due; `None` if all were given out.
    async fn turn(&self) -> Option<Turn> {
        let number = self.turns.fetch_add(1, Ordering::Relaxed);
        if self
            .options
            .requests
            .is_some_and(|requests| number >= requests.get())
        {
            return None;
        }
        let Some(rate) = self.options.rate else {
            return Some(Turn { number, lag: None });
        };
        #[expect(clippy::cast_precision_loss, reason = "no run has 2^52 requests")]
        let due = self.started + Duration::try_from_secs_f64(number as f64 / rate).ok()?;
        sleep_until(due).await;
        Some(Turn {
            number,
            lag: Some(due.elapsed()),
        })
    }

    /// The server for a request of a worker; a kept connection stays with one server.
    pub(super) fn server(&self, worker: usize, turn: &Turn) -> Target {
        let servers = &self.options.url;
        let index = match self.options.mode {
            Mode::KeepAlive => worker,
            Mode::OneShot => usize::try_from(turn.number).unwrap_or(worker),
        };
        servers[index % servers.len()]
    }

    pub(super) fn begin(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(&self.in_flight)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Writes into the shard of `worker`.
    pub(super) fn record<T>(&self, worker: usize, write: impl FnOnce(&mut Tally) -> T) -> T {
        write(
            &mut self.shards[worker % SHARDS]
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Takes what was recorded since the last call.
    pub(super) fn take(&self) -> Tally {
        let mut sum = Tally::default();
        for shard in &self.shards {
            let tally = std::mem::take(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner));
            sum.merge(&tally);
        }
        sum
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn body(options: &Options) -> Bytes {
    let prompt: String = "tell me more, "
        .chars()
        .cycle()
        .take(options.prompt_bytes)
        .collect();
    let mut body = json!({
        "model": options.model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": options.stream,
    });
    if let Some(tokens) = options.max_tokens {
        body["max_tokens"] = tokens.get().into();
    }
    body.to_string().into()
}
