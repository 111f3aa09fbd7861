// SPDX-License-Identifier: Apache-2.0
//! Two connected sockets, on the route that a property is about.
//!
//! Invariant: [`Pair::short`] returns only a pair whose next small message, either way, takes the shortcut.

use std::{io::Write as _, net::TcpStream};

use nodemesh_abi::shortcut::PROVEN;

use super::{
    Lab,
    patience::{STALL, said, same, take},
};

/// Both ends of a connection.
pub(super) struct Pair {
    pub(super) client: TcpStream,
    pub(super) server: TcpStream,
}

/// Which way a pair's messages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// Enrolled, but by TCP still.
    Enrolled,
    /// By the shortcut.
    Short,
}

impl Path {
    pub(super) const BOTH: [Self; 2] = [Self::Enrolled, Self::Short];
}

impl Pair {
    fn of((client, server): (TcpStream, TcpStream)) -> Result<Self, String> {
        for stream in [&client, &server] {
            stream
                .set_read_timeout(Some(STALL))
                .and_then(|()| stream.set_write_timeout(Some(STALL)))
                .and_then(|()| stream.set_nodelay(true))
                .map_err(said("set up a socket"))?;
        }
        Ok(Self { client, server })
    }

    /// Enrolled, of which nothing was said yet.
    pub(super) fn fresh(lab: &Lab) -> Result<Self, String> {
        Self::of(lab.connect().map_err(said("connect"))?)
    }

    /// Plain TCP.
    pub(super) fn plain(lab: &Lab) -> Result<Self, String> {
        Self::of(lab.connect_plainly().map_err(said("connect"))?)
    }

    /// On `path`.
    pub(super) fn on(lab: &Lab, path: Path) -> Result<Self, String> {
        match path {
            Path::Enrolled => Self::fresh(lab),
            Path::Short => Self::short(lab),
        }
    }

    /// By the shortcut.
    pub(super) fn short(lab: &Lab) -> Result<Self, String> {
        let mut pair = Self::fresh(lab)?;
        for _ in 0..PROVEN {
            pair.exchange()?;
        }
        let before = lab.handed_over();
        pair.exchange()?;
        same("messages handed over of two", &(lab.handed_over() - before), &2)?;
        Ok(pair)
    }

    /// A message each way.
    pub(super) fn exchange(&mut self) -> Result<(), String> {
        self.up(b"ping ping ping")?;
        same(
            "the request",
            &take(&mut self.server, 14)?,
            &b"ping ping ping".to_vec(),
        )?;
        self.down(b"pong")?;
        same("the answer", &take(&mut self.client, 4)?, &b"pong".to_vec())
    }

    /// The client sends.
    pub(super) fn up(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.client.write_all(bytes).map_err(said("a write"))
    }

    /// The server sends.
    pub(super) fn down(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.server.write_all(bytes).map_err(said("a write"))
    }
}

/// `length` bytes of a stream from `position` on, of which no two places are alike for long.
pub(super) fn pattern(position: usize, length: usize) -> Vec<u8> {
    (position..position + length)
        .map(|at| (at ^ (at >> 8).wrapping_mul(31) ^ (at >> 16).wrapping_mul(17)) as u8)
        .collect()
}
