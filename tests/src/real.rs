// SPDX-License-Identifier: Apache-2.0
//! Servers and clients that other people wrote, in pods: uvicorn, the openai SDK, httpx, grpcio, curl and nghttp2.
//!
//! ```text
//!  tests/real/*.py ── JSON lines, CLOCK_MONOTONIC ──► truth ──► what a test compares the meter with
//! ```
//!
//! Used by the tests of the meter. `cargo xtask setup` installs the programs; `tool` finds them. Invariant: a program that cannot
//! run fails the test at once, with the reason.

mod client;
mod curl;
mod nghttp2;
mod scene;
mod server;
pub mod short;
pub mod stream;
pub mod tool;
pub mod truth;
pub mod xds;

pub use self::{
    client::Client,
    curl::{Transfer, curl},
    nghttp2::{H2Load, Nghttpd, h2load},
    scene::Scene,
    server::Server,
    truth::{Exchange, Kind, Truth},
};
