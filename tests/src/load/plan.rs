// SPDX-License-Identifier: Apache-2.0
//! What the workers of a run share: the request to send, whose turn it is, and where to write what happened.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::options::{Mode, Options};
use super::tally::Tally;

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
    /// Each mutex is held for a few map or histogram updates and never across an await.
    shards: [Mutex<Tally>; SHARDS],
}

/// The right to start one request.
pub(super) struct Turn {
    number: u64,
    /// How late it is; `None` without `--rate`.
    pub(super) lag: Option<Duration>,
}

/// Counts a request as in flight until dropped.
pub(super) struct InFlight<'a>(&'a AtomicUsize);

impl Plan {
    pub(super) fn new(options: Options) -> anyhow::Result<Self> {
        anyhow::ensure!(!options.url.is_empty(), "no server: give --url http://IP:PORT");
        Ok(Self {
            body: body(&options),
            options,
            started: Instant::now(),
            turns: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            shards: Default::default(),
        })
    }

    /// Waits until the next request is due; `None` if all were given out.
    pub(super) async fn turn(&self) -> Option<Turn> {
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
    pub(super) fn address(&self, worker: usize, turn: &Turn) -> SocketAddr {
        let servers = &self.options.url;
        let index = match self.options.mode {
            Mode::KeepAlive => worker,
            Mode::OneShot => usize::try_from(turn.number).unwrap_or(worker),
        };
        servers[index % servers.len()].0
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
