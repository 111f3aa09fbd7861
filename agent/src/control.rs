// SPDX-License-Identifier: Apache-2.0
//! How a control plane is reached: its URLs, how it is trusted and how this node proves who it is. Used by the agent's xDS client
//! and by the CLI's verbs, with the same flags.
//!
//! Invariant: nothing is sent in plaintext to another machine unless that was asked for, and a token never is.

pub mod args;
pub mod backoff;
pub mod channel;
pub mod url;

pub use args::ControlArgs;
pub use backoff::Backoff;
pub use channel::{Connection, ControlClient};
pub use url::ControlUrl;
