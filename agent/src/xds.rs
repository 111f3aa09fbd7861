// SPDX-License-Identifier: Apache-2.0
//! The xDS client: keeps one incremental ADS stream to a control plane, nodemesh's own or any other, and reports back over the same
//! connection.
//!
//! ```text
//! link (URLs, backoff) ─► stream (tonic) ─► session (pure) ─► source::control ─► reconciler
//!                    └──► node_report, load_report ─► control plane
//! ```
//!
//! Owned by one task. Invariant: nothing here holds up the start or the end of the agent, and a control plane that is away, slow or
//! wrong leaves the state in force as it is.

pub mod identity;
pub mod link;
pub mod load_book;
mod load_reader;
pub mod load_report;
pub mod node_report;
pub mod pace;
pub mod saver;
pub mod session;
pub mod stream;
mod subscription;
