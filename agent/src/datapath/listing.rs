// SPDX-License-Identifier: Apache-2.0
//! Lists the live mesh connections of the node, in every network namespace, by running the iterator program over the
//! sockets' own records. Called by the admin API.
//!
//! Invariant: costs nothing while nobody lists; what it lists is what the counters count.

use std::{io::Read as _, os::fd::AsFd as _};

use aya::{maps::MapData, programs::ProgramFd};
use nodemesh_abi::{Connection, names::map};
use zerocopy::FromBytes as _;

use super::{pins::PinRoot, sys};

/// A handle that lists connections.
#[derive(Debug)]
pub struct ConnectionLister {
    program: ProgramFd,
    connections: MapData,
}

/// Why connections could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The records' map could not be opened.
    #[error("open the map of connections: {0}")]
    Map(aya::maps::MapError),
    /// The iterator could not be run.
    #[error("iterate over the map of connections: {0}")]
    Iterate(std::io::Error),
}

impl ConnectionLister {
    /// Lists with the iterator `program`.
    pub fn new(program: ProgramFd, pins: &PinRoot) -> Result<Self, ListError> {
        Ok(Self {
            program,
            connections: MapData::from_pin(pins.map(map::CONNECTIONS)).map_err(ListError::Map)?,
        })
    }

    /// Every connection that is connecting or established, in no particular order.
    pub fn list(&self) -> Result<Vec<Connection>, ListError> {
        let mut output = sys::iterate_map(self.program.as_fd(), self.connections.fd().as_fd())
            .map_err(ListError::Iterate)?;
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes).map_err(ListError::Iterate)?;
        let (records, _) = bytes.as_chunks::<{ size_of::<Connection>() }>();
        Ok(records
            .iter()
            .filter_map(|record| Connection::read_from_bytes(record).ok())
            .collect())
    }
}
