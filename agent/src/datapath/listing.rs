// SPDX-License-Identifier: Apache-2.0
//! Lists the mesh connections of the node, in every network namespace, by running an iterator program over the sockets' own
//! records. Called by the admin API (`list_conns`) and by the sweep (`sweep`).
//!
//! Invariant: costs nothing while nobody lists; what it lists is what the counters count.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::AsFd as _,
};

use aya::{maps::MapData, programs::ProgramFd};
use nodemesh_abi::{ListedConnection, ListedExcerpt, names::map};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::{pins::PinRoot, sys};

/// Records read by one call: more than the kernel's own buffer of 32 KiB holds.
const BATCH: usize = 256;

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
    Iterate(io::Error),
}

/// Reads from an iterator's output; 0 bytes at its end.
pub(super) fn read(output: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match output.read(buffer) {
            // After a million objects without output the kernel lets the reader go on later.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

impl ConnectionLister {
    /// Lists with the iterator `program`.
    pub fn new(program: ProgramFd, pins: &PinRoot) -> Result<Self, ListError> {
        Ok(Self {
            program,
            connections: MapData::from_pin(pins.map(map::CONNECTIONS)).map_err(ListError::Map)?,
        })
    }

    /// Shows `visit` every connection that the program lists, in no particular order.
    pub fn scan(&self, mut visit: impl FnMut(&ListedConnection)) -> Result<(), ListError> {
        let mut output = sys::iterate_map(self.program.as_fd(), self.connections.fd().as_fd())
            .map_err(ListError::Iterate)?;
        let mut records = vec![ListedExcerpt::new_zeroed(); BATCH];
        let mut filled = 0;
        loop {
            let read =
                read(&mut output, &mut records.as_mut_bytes()[filled..]).map_err(ListError::Iterate)?;
            if read == 0 {
                return Ok(());
            }
            filled += read;
            let whole = filled / size_of::<ListedExcerpt>();
            records[..whole].iter().for_each(|listed| visit(&listed.into()));
            // A read may end within a record.
            let rest = whole * size_of::<ListedExcerpt>();
            records.as_mut_bytes().copy_within(rest..filled, 0);
            filled -= rest;
        }
    }
}
