// SPDX-License-Identifier: Apache-2.0
//! The client against model servers in process and against peers that break the rules.

mod against_peers;
mod parts;
mod responses;

use clap::Parser as _;

use super::{Options, Report, drive};

/// Runs `load-client` with `flags` to its end.
async fn run(flags: &[&str]) -> Report {
    drive(options(flags), std::future::pending(), |_| Ok(()))
        .await
        .expect("a run")
}

fn options(flags: &[&str]) -> Options {
    Options::parse_from(["load-client"].iter().chain(flags))
}
