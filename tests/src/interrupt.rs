// SPDX-License-Identifier: Apache-2.0
//! Ctrl-C for programs that must remove what they made: it sets a flag, which they look at between two steps.
//!
//! Used by the demo and the benchmarks. Invariant: once watched, no signal of [`SIGNALS`] ends the process by itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};
use futures_util::future::select_all;
use tokio::signal::unix::{SignalKind, signal};

/// What asks a program to end.
const SIGNALS: [fn() -> SignalKind; 3] = [SignalKind::interrupt, SignalKind::terminate, SignalKind::hangup];

/// The program was asked to end.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Whether the program was asked to end.
#[derive(Clone, Debug)]
pub struct Interrupt {
    requested: Arc<AtomicBool>,
}

impl Interrupt {
    /// Watches for signals from now on.
    pub fn watch() -> Result<Self> {
        let interrupt = Self {
            requested: Arc::default(),
        };
        let requested = Arc::clone(&interrupt.requested);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start a runtime for signals")?;
        let entered = runtime.enter();
        let mut signals = SIGNALS
            .map(|kind| signal(kind()))
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
            .context("watch signals")?;
        drop(entered);
        thread::Builder::new().name("signals".into()).spawn(move || {
            loop {
                runtime.block_on(async {
                    select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv()))).await
                });
                requested.store(true, Ordering::Relaxed);
            }
        })?;
        Ok(interrupt)
    }

    /// An error once the program was asked to end.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.requested.load(Ordering::Relaxed) {
            Err(Interrupted)
        } else {
            Ok(())
        }
    }
}
