// SPDX-License-Identifier: Apache-2.0
//! The packet path of this node: on which interfaces its programs run, what they are told, and what becomes of the flows.
//!
//! ```text
//! PacketArgs + interfaces of the node ─► thread ─► links at interfaces, flow_settings
//!                                          ├─► runs `flow_sweep`, which ends what is expired
//!                                          └─► PacketState ─► status, metrics
//! tracks (mapped) ─► connections
//! ```
//!
//! Off while no interface is named. Owned by one thread ([`thread`]); readers get snapshots by watch. Invariant: what was attached
//! stays when the agent goes; only an agent that no longer names an interface detaches from it.

pub mod args;
pub mod interface;
pub mod state;
pub mod thread;

pub use args::PacketArgs;
pub use state::PacketState;
