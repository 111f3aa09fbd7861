// SPDX-License-Identifier: Apache-2.0
//! Takes events out of their ring buffer. Runs as one task for as long as the agent serves.

use std::{sync::Arc, time::Duration};

use aya::{Ebpf, maps::MapError};
use nodemesh_abi::{Event, limits, names::map};
use tokio::sync::oneshot;

use super::Events;
use crate::datapath::records::Records;

/// How long events gather before the next look. The ring buffer holds 3,000, so a flood costs a bounded share of a CPU, and what does
/// not fit is counted.
const GATHER: Duration = Duration::from_millis(20);

/// The reading end of the ring buffer.
pub struct EventReader(Records<Event>);

impl EventReader {
    /// Takes the ring buffer.
    pub fn open(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        Records::open(ebpf, map::EVENTS, limits::EVENT_BYTES).map(Self)
    }

    /// Hands events over until the other end of `until` is gone, or they cannot be read.
    pub async fn forward(self, events: Arc<Events>, until: oneshot::Receiver<()>) {
        let records = self.0.forward(GATHER, |records| events.push(records), until);
        drop(records.await);
    }
}
