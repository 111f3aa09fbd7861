// SPDX-License-Identifier: Apache-2.0
//! Where requests go: a URL with an IP address, so that the address of every connect is the one that was given.

use std::net::SocketAddr;
use std::str::FromStr;

/// A server, written `http://IP:PORT` or `https://IP:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// What is dialled.
    pub address: SocketAddr,
    /// With TLS.
    pub secure: bool,
}

/// The text is no such URL.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no server: write http://IP:PORT or https://IP:PORT, an IPv6 address in brackets")]
pub struct InvalidTarget(String);

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (rest, secure) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (rest, false),
            (None, Some(rest)) => (rest, true),
            (None, None) => return Err(InvalidTarget(text.to_owned())),
        };
        let address = rest.strip_suffix('/').unwrap_or(rest).parse();
        address
            .map(|address| Self { address, secure })
            .map_err(|_| InvalidTarget(text.to_owned()))
    }
}
