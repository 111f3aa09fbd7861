// SPDX-License-Identifier: Apache-2.0
//! Takes events out of their ring buffer, and what is left of them out of the tallies. Runs as one task for as long as the agent serves.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use aya::Ebpf;
use nodemesh_abi::{Event, limits, names::map};
use tokio::{sync::oneshot, time::MissedTickBehavior};
use tracing::warn;

use super::Events;
use crate::datapath::{PinRoot, clock::monotonic_ns, records::Records, tallies::Tallies};

/// How long events gather before the next look. The ring buffer holds 2,700, so a flood costs a bounded share of a CPU, and what does
/// not fit is counted.
const GATHER: Duration = Duration::from_millis(20);
/// Time between two looks at the tallies.
const TALLY_PERIOD: Duration = Duration::from_millis(500);

/// The reading end of the ring buffer and of the tallies.
pub struct EventReader {
    records: Records<Event>,
    tallies: Tallies,
}

impl EventReader {
    /// Takes the ring buffer, and opens the tallies pinned below `pins`.
    pub fn open(ebpf: &mut Ebpf, pins: &PinRoot) -> Result<Self> {
        Ok(Self {
            records: Records::open(ebpf, map::EVENTS, limits::EVENT_BYTES)?,
            tallies: Tallies::open(pins).context("open the tallies")?,
        })
    }

    /// Hands events over until the other end of `until` is gone, or they cannot be read.
    pub async fn forward(self, events: Arc<Events>, until: oneshot::Receiver<()>) {
        let Self { records, tallies } = self;
        tokio::select! {
            read = records.forward(GATHER, |records| events.push(records), until) => drop(read),
            () = settle(tallies, &events) => {}
        }
    }
}

/// Tells what is left in tallies that have come to an end, for ever.
async fn settle(tallies: Tallies, events: &Events) {
    let mut ticks = tokio::time::interval(TALLY_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_failing = false;
    loop {
        ticks.tick().await;
        let rest = tallies.take_ended(monotonic_ns());
        if let Err(error) = &rest
            && !is_failing
        {
            warn!(%error, "cannot read how often clients were refused; trying again");
        }
        is_failing = rest.is_err();
        let rest = rest.unwrap_or_default();
        if !rest.is_empty() {
            events.push(rest);
        }
    }
}
