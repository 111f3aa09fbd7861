// SPDX-License-Identifier: Apache-2.0
//! The state of one replica that its connections share: who it is, its queue, its settings, its metrics
//! and its truth.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use anyhow::Context as _;
use axum::http::HeaderValue;
use tokio::sync::watch;

use super::ledger::Ledger;
use super::metrics::Metrics;
use super::options::Options;
use super::scheduler::Scheduler;
use super::settings::{Patch, Settings};

/// One replica. Created by [`super::ModelServer::bind`], shared by every connection.
pub(super) struct Replica {
    name: HeaderValue,
    model: String,
    seed: u64,
    requests: AtomicU64,
    settings: watch::Sender<Settings>,
    scheduler: Arc<Scheduler>,
    metrics: Metrics,
    connections: Arc<Connections>,
    ledger: Arc<Ledger>,
}

/// Connections accepted and open; the server's own truth for tests.
#[derive(Default)]
pub(super) struct Connections {
    accepted: AtomicU64,
    open: AtomicUsize,
}

/// Counts one connection as open until dropped.
pub(super) struct OpenConnection(Arc<Connections>);

impl Replica {
    /// `port` is that of the first listener; it completes the default name.
    pub(super) fn new(options: Options, port: u16) -> anyhow::Result<Self> {
        let name = match options.name {
            Some(name) => name,
            None => format!(
                "{}:{port}",
                nix::unistd::gethostname()
                    .context("read the host name")?
                    .to_string_lossy()
            ),
        };
        let name = HeaderValue::try_from(&name)
            .with_context(|| format!("name {name:?} is no header value: use visible ASCII characters"))?;
        let settings = Settings::from(options.behaviour);
        let ledger = Ledger::new(options.truth.as_deref())?;
        Ok(Self {
            metrics: Metrics::new(&options.model).context("register the metrics")?,
            name,
            model: options.model,
            seed: options.seed,
            requests: AtomicU64::new(0),
            scheduler: Arc::new(Scheduler::new(settings.max_num_seqs)),
            settings: watch::Sender::new(settings),
            connections: Arc::default(),
            ledger: Arc::new(ledger),
        })
    }

    /// As it goes into the header `x-replica`.
    pub(super) fn name(&self) -> &HeaderValue {
        &self.name
    }

    pub(super) fn model(&self) -> &str {
        &self.model
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn scheduler(&self) -> &Arc<Scheduler> {
        &self.scheduler
    }

    pub(super) fn connections(&self) -> &Connections {
        &self.connections
    }

    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    pub(super) fn settings(&self) -> Settings {
        self.settings.borrow().clone()
    }

    pub(super) fn watch_settings(&self) -> watch::Receiver<Settings> {
        self.settings.subscribe()
    }

    /// Changes the settings and wakes the requests that they concern.
    pub(super) fn change(&self, patch: &Patch) {
        self.settings.send_modify(|settings| settings.apply(patch));
        self.scheduler.set_limit(self.settings.borrow().max_num_seqs);
    }

    /// Random numbers for the next request; the same seed and order of requests give the same text and ids.
    pub(super) fn next_random(&self) -> fastrand::Rng {
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        fastrand::Rng::with_seed(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ request)
    }

    pub(super) fn connection_opened(&self) -> OpenConnection {
        self.connections.accepted.fetch_add(1, Ordering::Relaxed);
        self.connections.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection(Arc::clone(&self.connections))
    }
}

impl Connections {
    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
