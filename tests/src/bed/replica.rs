// SPDX-License-Identifier: Apache-2.0
//! A replica: a `socket-probe serve` in a pod, at one port of both families and both protocols.

use std::net::SocketAddr;

use super::Family;
use crate::{process::Process, topology::Pod};

/// A running replica; ends when dropped.
#[derive(Debug)]
pub struct Replica {
    name: String,
    addresses: [SocketAddr; 2],
    process: Process,
}

impl Replica {
    /// Starts it and waits until it listens.
    pub fn start(pod: &Pod, name: &str, port: u16) -> Self {
        let addresses = Family::BOTH.map(|family| SocketAddr::new(family.of(pod), port));
        let [v4, v6] = addresses.map(|address| address.to_string());
        let process = pod
            .serve(
                "socket-probe",
                &["serve", "--name", name, "--listen", &v4, "--listen", &v6],
            )
            .expect("a replica");
        Self {
            name: name.into(),
            addresses,
            process,
        }
    }

    /// What it answers with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address of `family`.
    pub fn at(&self, family: Family) -> SocketAddr {
        self.addresses[family as usize]
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
