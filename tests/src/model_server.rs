// SPDX-License-Identifier: Apache-2.0
//! A stand-in for one replica of a model: the HTTP, streaming and metrics behaviour of vLLM's OpenAI server, without
//! a model behind it, and with failures on demand.
//!
//! ```text
//! listen -> connection -> api -> stream -> generation -> scheduler (FIFO queue of sequences)
//!    |                      \-> control -> settings (watched by every request in progress)
//!    \-> recorder (system calls of one socket) -> ledger (counts, the truth)
//! ```
//! Used by the binary `model-server` and by tests in process. Invariant: a request is counted by
//! `vllm:num_requests_running` exactly while it holds a `scheduler` slot, whatever way it ends.

mod api;
mod connection;
mod control;
mod error;
mod generation;
mod handshake;
mod heartbeat;
mod ledger;
mod listen;
mod marked;
mod metrics;
mod openai;
mod options;
mod recorder;
mod replica;
mod scheduler;
mod settings;
mod stream;

#[cfg(test)]
pub(crate) mod tests;

use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

pub use options::Options;
pub use settings::{EarlyHeaders, Failure, HalfClose, Share, Tail};

use replica::Replica;

use crate::tls;

/// A bound server that does not accept yet.
pub struct ModelServer {
    replica: Arc<Replica>,
    /// Those with TLS first; their number.
    listeners: Vec<TcpListener>,
    secured: usize,
    tls: Option<TlsAcceptor>,
    addresses: Vec<SocketAddr>,
    drain: Duration,
}

impl ModelServer {
    /// Binds every `--listen` and `--listen-plain` address. Must be called within a tokio runtime.
    pub fn bind(options: Options) -> anyhow::Result<Self> {
        let tls = match (&options.tls_cert, &options.tls_key) {
            (Some(cert), Some(key)) => Some(tls::server(cert, key, options.tls_versions)?.into()),
            _ => None,
        };
        let listeners = options
            .listen
            .iter()
            .chain(&options.listen_plain)
            .map(|&address| listen::bind(address).with_context(|| format!("listen on {address}")))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let addresses = listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<Result<Vec<_>, _>>()?;
        let first = addresses
            .first()
            .context("no address to listen on: give --listen IP:PORT")?;
        let (secured, drain) = (options.listen.len(), options.drain);
        let replica = Arc::new(Replica::new(options, first.port())?);
        Ok(Self {
            replica,
            listeners,
            secured,
            tls,
            addresses,
            drain,
        })
    }

    /// The bound addresses, in the order of `--listen` and `--listen-plain`, with port 0 resolved.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `shutdown` resolves, then finishes open requests for at most `--drain`.
    ///
    /// Returns the number of connections that were still open when the drain time ran out.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> usize {
        let (stop, stopping) = watch::channel(false);
        let router = api::router(Arc::clone(&self.replica));
        for (index, listener) in self.listeners.into_iter().enumerate() {
            let tls = self.tls.clone().filter(|_| index < self.secured);
            let door = listen::Door::new(Arc::clone(&self.replica), router.clone(), tls, stopping.clone());
            tokio::spawn(door.accept(listener));
        }
        drop(stopping);
        shutdown.await;
        stop.send_replace(true);
        // Every accept loop and connection holds a receiver, so the channel closes with the last of them.
        let _ = tokio::time::timeout(self.drain, stop.closed()).await;
        self.replica.connections().open()
    }
}

/// Runs the server until SIGTERM or SIGINT; announces each listener on standard output.
pub async fn run(options: Options) -> anyhow::Result<()> {
    crate::file_limit::raise()?;
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let server = ModelServer::bind(options)?;
    let mut stdout = std::io::stdout().lock();
    for address in server.addresses() {
        writeln!(stdout, "listening on {address}")?;
    }
    stdout.flush()?;
    drop(stdout);
    let left = server
        .serve(async {
            tokio::select! {
                _ = terminate.recv() => (),
                _ = interrupt.recv() => (),
            }
        })
        .await;
    if left > 0 {
        eprintln!("drain time is over: {left} connections cut");
    }
    Ok(())
}
