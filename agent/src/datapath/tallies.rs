// SPDX-License-Identifier: Apache-2.0
//! How often clients were refused since that was last told: the map `event_tallies`. Called by the reader of `events`.
//!
//! The programs tell of a refusal at once, and again when a second is over and there is another one; what came in between and after is
//! told from here. Invariant: what is taken out of the map is told; nothing is taken out that a program still adds to, but for one that
//! was held up between two instructions for half a second.

use std::os::fd::AsFd as _;

use aya::maps::{HashMap, Map, MapData, MapError};
use nodemesh_abi::{Event, EventKey, EventTally, event::EVENT_INTERVAL_NS, names::map};
use zerocopy::FromZeros as _;

use super::{pins::PinRoot, sys};

/// How long after the time at which another refusal would have been told a tally has come to an end.
const ENDED_NS: u64 = EVENT_INTERVAL_NS / 2;

/// The tallies.
pub struct Tallies {
    map: HashMap<MapData, EventKey, EventTally>,
    /// The same, to take elements out of.
    data: MapData,
}

impl Tallies {
    /// Opens the map pinned below `pins`.
    pub fn open(pins: &PinRoot) -> Result<Self, MapError> {
        let data = || MapData::from_pin(pins.map(map::EVENT_TALLIES));
        Ok(Self {
            map: HashMap::try_from(Map::HashMap(data()?))?,
            data: data()?,
        })
    }

    /// Takes out what has come to an end at `now`, and gives the events that it stands for.
    pub fn take_ended(&self, now: u64) -> Result<Vec<Event>, MapError> {
        let mut ended = Vec::new();
        for element in &self.map {
            let (key, tally) = element?;
            if now > tally.due_ns.saturating_add(ENDED_NS) {
                ended.push(key);
            }
        }
        let mut events = Vec::new();
        for key in ended {
            let taken = sys::map_take::<_, EventTally>(self.data.fd().as_fd(), &key);
            if let Some(tally) = taken.map_err(MapError::IoError)?
                && tally.pending > 0
            {
                events.push(event(&key, tally));
            }
        }
        Ok(events)
    }
}

/// The event that stands for what is left in a tally.
fn event(key: &EventKey, tally: EventTally) -> Event {
    Event {
        addr: key.addr,
        at_ns: tally.due_ns,
        identity: key.identity,
        service: key.service,
        backend: key.backend,
        port: key.port,
        protocol: key.protocol,
        kind: key.kind,
        reason: key.reason,
        count: tally.pending,
        ..Event::new_zeroed()
    }
}
