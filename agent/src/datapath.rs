// SPDX-License-Identifier: Apache-2.0
//! The kernel side as the agent sees it: loading and attaching the programs, typed maps, and the listing of connections.
//!
//! ```text
//! host (cgroup, bpffs) ─► pins ─► carry ─► loader ─► attach ─► adoption    at start, in this order
//! guard ─► [ links, pins ]                                                 all the time
//! reconcile ─► MapWriter ─► [ maps ] ─► MapReader ─► metrics, admin
//! ```
//!
//! Invariant: nothing here decides policy; rows come from `reconcile` and are written as they are.

pub mod adoption;
pub mod attach;
mod btf;
pub mod carry;
pub mod clock;
mod doors;
pub mod ends;
pub mod features;
pub mod flow_maps;
pub mod guard;
mod headroom;
pub mod hooks;
pub mod host;
pub mod interface_links;
mod kept;
pub mod link;
pub mod listing;
pub mod loader;
pub mod maps;
pub mod netns;
pub mod offsets;
pub mod pins;
pub mod program_log;
pub mod programs;
pub mod records;
pub mod shapes;
mod sys;
pub mod tallies;
pub mod verify;

pub use maps::{MapReader, MapWriter};
pub use pins::PinRoot;
