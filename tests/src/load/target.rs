// SPDX-License-Identifier: Apache-2.0
//! Where requests go: a URL with an IP address, so that the address of every connect is the one that was given.

use std::net::SocketAddr;
use std::str::FromStr;

/// A server, written `http://IP:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target(pub SocketAddr);

/// The text is no such URL.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no server: write http://IP:PORT, an IPv6 address in brackets")]
pub struct InvalidTarget(String);

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("http://")
            .and_then(|rest| rest.strip_suffix('/').unwrap_or(rest).parse().ok())
            .map(Self)
            .ok_or_else(|| InvalidTarget(text.to_owned()))
    }
}
