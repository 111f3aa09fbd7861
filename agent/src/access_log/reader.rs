// SPDX-License-Identifier: Apache-2.0
//! Takes the records of the access log out of their ring buffer. Runs as one task; `app` takes the last ones when the programs have
//! been told to write no more.

use std::{sync::Arc, time::Duration};

use aya::{Ebpf, maps::MapError};
use nodemesh_abi::{AccessRecord, limits, names::map};
use tokio::sync::oneshot;

use super::AccessLog;
use crate::datapath::records::Records;

/// How long records gather before the next look. The ring buffer holds 7,000 records.
const GATHER: Duration = Duration::from_millis(10);

/// The reading end of the ring buffer.
pub struct AccessReader(Records<AccessRecord>);

impl AccessReader {
    /// Takes the ring buffer.
    pub fn open(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        Records::open(ebpf, map::ACCESS, limits::ACCESS_BYTES).map(Self)
    }

    /// Hands records to `log` until the other end of `until` is gone; `None` if they cannot be read.
    pub async fn forward(self, log: Arc<AccessLog>, until: oneshot::Receiver<()>) -> Option<Self> {
        let records = self.0.forward(GATHER, |records| log.push(records), until);
        records.await.map(Self)
    }

    /// Hands over what is there.
    pub fn drain(&mut self, log: &AccessLog) {
        self.0.drain(|records| log.push(records));
    }
}
