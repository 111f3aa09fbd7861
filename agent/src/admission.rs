// SPDX-License-Identifier: Apache-2.0
//! What becomes of connections that are established when something changes: examined again when policies or addresses do, ended with a
//! backend that is removed, closed between requests while their backend drains.
//!
//! ```text
//! View ─► Watch (thread): what is new? ─► list_conns ─► Examiner, removals, idle ones ─► Sockets ─► events
//!              └─► draining began, ended ───────────────────────────────────────────────────────────┘
//! ```
//!
//! Invariants: nothing is listed while nothing changes and nothing drains; a connection is only ended for a reason that still holds in
//! the view that it was listed with.

pub mod examine;
pub mod explain;
mod reason;
pub mod thread;

pub use thread::Watch;
