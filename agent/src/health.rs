// SPDX-License-Identifier: Apache-2.0
//! Which backends are fit, as far as the kernel cannot see it alone: those that went silent, and those that fail their health checks.
//!
//! ```text
//! sweep (every second) ─► watch ─► silence (pure) ─┐
//! tasks: check ─► probe (TCP, HTTP, gRPC) ─────────┴─► Judge ─► program `judge` ─► backend_states, events
//! ```
//!
//! Invariant: an ejection by the agent ends by itself when the agent is gone: it is for a limited time, and extended while its reason
//! lasts.

pub mod check;
pub mod judge;
mod probe;
pub mod silence;
pub mod watch;

pub use check::Checks;
pub use judge::Judge;
pub use watch::SilenceWatch;
