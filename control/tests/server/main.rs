// SPDX-License-Identifier: Apache-2.0
//! The whole control plane in this process, with an embedded store in a folder of its own, and real clients over the loopback.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "what tests share panics as they do")]

mod abuse;
mod access;
mod certificates;
mod ending;
mod harness;
mod loads;
mod names;
mod nodes;
mod pki;
mod registration;
mod resources;
