// SPDX-License-Identifier: Apache-2.0
//! The agent of a node, and the CLI that talks to it.
//!
//! ```text
//! source (YAML files) ─┬► Resources ─► Desired ─► reconcile ─► datapath ─► [ eBPF maps ] ◄─ kernel programs
//! xds (control plane) ─┘   (nodemesh-model)        plan, apply   typed maps       │
//!                                                                               ▼
//!                              CLI ◄── admin (unix socket) ◄── View ◄── counters ──► metrics (HTTP)
//! ```
//!
//! `app` wires these parts together and owns the order of start and stop.

pub mod access_log;
pub mod admin;
pub mod admission;
pub mod api;
pub mod app;
pub mod check;
pub mod cli;
pub mod config;
pub mod control;
pub mod datapath;
pub mod drain;
pub mod events;
pub mod health;
pub mod lock;
pub mod logging;
pub mod metrics;
pub mod names;
pub mod packet;
pub mod quantile;
pub mod reconcile;
pub mod shortcut;
pub mod sockets;
pub mod source;
pub mod startup;
pub mod sweep;
pub mod sysdump;
pub mod xds;
