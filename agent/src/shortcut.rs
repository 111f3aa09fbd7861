// SPDX-License-Identifier: Apache-2.0
//! Whether the shortcut may be taken on this node: what the operator says, what a self-test found on this kernel, and who else uses
//! maps of sockets.
//!
//! ```text
//! view (a policy asks for it) ─► keeper ─► others, gate ─► lab (a process of its own) ─► report
//!                                  └─► reconciler: settings;  sockets that leave
//! ```
//!
//! Invariant: unless it is forced, no socket is enrolled before every property of the self-test that could lose, stall or misreport data
//! was found to hold on the running kernel, with the programs that run.

pub mod gate;
pub mod keeper;
mod lab;
pub mod leave;
pub mod others;
mod pause;
pub mod report;

pub use self::{
    keeper::{Keeper, assess},
    lab::{LabArgs, run as run_lab},
    report::{Effect, Finding, Report, State},
};
