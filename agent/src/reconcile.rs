// SPDX-License-Identifier: Apache-2.0
//! Makes the kernel's rows what the configuration says.
//!
//! ```text
//! Desired ─► Ledger::plan (pure: ids, differences, order) ─► apply ─► rows in the kernel
//!            └───────────────────── round ────────────────────┴─────► View (what is programmed) ─► metrics, admin
//! ```
//!
//! Owned by one thread ([`thread::Reconciler`]); readers get snapshots through a watch channel. Invariant: after every single
//! write of a plan, each service row leads to a whole slot table and each slot to a backend's row.

pub mod admission;
pub mod apply;
pub mod clients;
pub mod demand;
pub mod endpoints;
pub mod flows;
pub mod ids;
pub mod ledger;
pub mod numbers;
pub mod pairs;
pub mod plan;
mod pods;
pub mod retired;
pub mod round;
pub mod rows;
pub mod service_rows;
pub mod shared;
pub mod thread;
pub mod view;

#[cfg(test)]
mod tests;
