// SPDX-License-Identifier: Apache-2.0
//! The steps of the agent's start, in order, each announced to the log. A test may ask for a crash after any of them; the next
//! start must then recover, so a step leaves nothing that the same step cannot find and finish.

use clap::ValueEnum;
use nix::sys::signal::{Signal, raise};
use tracing::debug;

/// A step that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Step {
    /// The lock is held.
    Locked,
    /// The configuration is valid.
    Configured,
    /// There is a bpf file system with our folders.
    PinsReady,
    /// The maps are pinned and the programs loaded.
    Loaded,
    /// What an agent of another ABI left is translated.
    Carried,
    /// The rows are written.
    Reconciled,
    /// The first program is attached.
    FirstAttached,
    /// All programs are attached.
    Attached,
    /// The admin socket and HTTP listen.
    Serving,
}

/// Announces steps, and crashes where a test asked for it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    crash_after: Option<Step>,
}

impl Progress {
    /// Crashes after `crash_after`.
    pub fn new(crash_after: Option<Step>) -> Self {
        Self { crash_after }
    }

    /// `step` is complete.
    pub fn reached(self, step: Step) {
        debug!(?step, "start");
        if self.crash_after == Some(step) {
            let _ = raise(Signal::SIGKILL);
        }
    }
}
