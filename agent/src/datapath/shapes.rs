// SPDX-License-Identifier: Apache-2.0
//! Every pinned map: the size of its keys and values, and since when it has the layout that it has. One table, used by the loader
//! and by `carry`, which takes the maps of another version of the ABI over.
//!
//! Invariant: a map whose layout or meaning changes gets `.grown(version)` if the fields that were there keep their places and a zero
//! in the new ones means what was before, else `.changed(version, door)`.

use aya::maps::MapData;
use nodemesh_abi::{
    ABI_VERSION, AffinityKey, AffinityValue, Backend, BackendState, CgroupEntry, ClientRules, Connection,
    Endpoint, EndpointKey, EventKey, EventTally, FlowCount, FlowKey, FlowService, FlowSettings, FlowValue,
    Held, IdentityAddr, Ip16, NumberKey, Rules, Service, ServiceKey, ServiceState, Settings, Source, Streams,
    TableState, Track, TrackState, Traffic,
    flow::IndexSet,
    names::map,
    shortcut::{End, Offer, OfferKey, RouteCount},
    turn::Turn,
};

use super::{doors, loader::LoadError, pins::PinRoot};

/// The version of the ABI from which on layouts are told apart.
const FIRST: u32 = 3;

/// Which layout a map has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Version of the ABI since which its first fields are where they are.
    pub base: u32,
    /// Version of the ABI since which it is as it is.
    pub since: u32,
}

/// Turns a value of the former layout into one of this layout; `None` if that is impossible for this row.
pub type Door = fn(former: Layout, value: &[u8]) -> Option<Vec<u8>>;

/// A pinned map.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Its name.
    pub name: &'static str,
    /// Bytes of a key.
    pub key: usize,
    /// Bytes of a value.
    pub value: usize,
    /// Which layout that is.
    pub layout: Layout,
    /// From layouts that do not begin as this one does.
    pub door: Option<Door>,
}

impl Shape {
    /// Fields were added at the end of the value in this version of the ABI.
    const fn grown(self, since: u32) -> Self {
        let base = self.layout.base;
        Self {
            layout: Layout { base, since },
            ..self
        }
    }

    /// The layout or the meaning is another one since this version of the ABI.
    const fn changed(self, since: u32, door: Option<Door>) -> Self {
        Self {
            layout: Layout { base: since, since },
            door,
            ..self
        }
    }
}

/// A key of `identities`.
type IdentityPrefix = aya::maps::lpm_trie::Key<IdentityAddr>;

const fn shape<K, V>(name: &'static str) -> Shape {
    Shape {
        name,
        key: size_of::<K>(),
        value: size_of::<V>(),
        layout: Layout {
            base: FIRST,
            since: FIRST,
        },
        door: None,
    }
}

/// A ring buffer, which has neither keys nor values.
const fn ring(name: &'static str) -> Shape {
    shape::<(), ()>(name)
}

/// In the build that stands for a version to come, one that has grown.
const fn next_grown(shape: Shape) -> Shape {
    if cfg!(feature = "next") {
        shape.grown(ABI_VERSION)
    } else {
        shape
    }
}

/// In the build that stands for a version to come, one that is another.
const fn next_changed(shape: Shape, door: Door) -> Shape {
    if cfg!(feature = "next") {
        shape.changed(ABI_VERSION, Some(door))
    } else {
        shape
    }
}

/// The pinned maps.
pub const SHAPES: &[Shape] = &[
    shape::<ServiceKey, Service>(map::SERVICES),
    shape::<u32, u32>(map::SLOT_TABLES),
    shape::<u32, u32>(map::TIER_TABLES),
    next_grown(shape::<u32, ServiceState>(map::SERVICE_STATES)),
    shape::<u32, Backend>(map::BACKENDS),
    shape::<u32, BackendState>(map::BACKEND_STATES).grown(4),
    next_grown(shape::<u32, Connection>(map::CONNECTIONS)),
    shape::<FlowKey, FlowValue>(map::FLOWS),
    next_changed(
        shape::<AffinityKey, AffinityValue>(map::AFFINITY),
        doors::affinity,
    ),
    shape::<u64, CgroupEntry>(map::CGROUPS),
    shape::<u32, Settings>(map::SETTINGS).grown(4),
    shape::<u32, u64>(map::ERRORS),
    shape::<EndpointKey, Endpoint>(map::ENDPOINTS),
    shape::<u32, Traffic>(map::TRAFFIC),
    shape::<u32, Streams>(map::STREAMS),
    shape::<u32, TableState>(map::CONN_TABLE),
    shape::<IdentityPrefix, u32>(map::IDENTITIES),
    shape::<u32, u32>(map::POLICIES),
    shape::<u32, Rules>(map::RULES).grown(4),
    shape::<u32, Held>(map::RULE_STATES),
    shape::<ClientRules, Held>(map::CLIENTS),
    shape::<NumberKey, u32>(map::NUMBERS),
    shape::<EventKey, EventTally>(map::EVENT_TALLIES),
    shape::<u64, u32>(map::SHORT_SOCKS),
    shape::<u64, End>(map::SHORT_ENDS),
    shape::<OfferKey, Offer>(map::SHORT_OFFERS),
    shape::<u32, RouteCount>(map::SHORT_COUNTS),
    shape::<u32, Turn>(map::TURNS),
    shape::<ServiceKey, FlowService>(map::FLOW_SERVICES),
    shape::<u32, u32>(map::FLOW_TABLES),
    shape::<u32, FlowSettings>(map::FLOW_SETTINGS),
    shape::<u32, FlowCount>(map::FLOW_COUNTS),
    next_grown(shape::<u32, Track>(map::TRACKS)),
    shape::<u32, IndexSet>(map::TRACK_INDEX),
    shape::<(), u32>(map::TRACK_FREE),
    shape::<u32, TrackState>(map::TRACK_STATE),
    shape::<Ip16, Source>(map::TRACK_SOURCES),
    ring(map::LOGS),
    ring(map::ACCESS),
    ring(map::EVENTS),
];

/// Maps that count what is in `connections`: taken over with it or not at all, since nobody would take away from a count what
/// is not there.
pub const COUNTS_OF_CONNECTIONS: [&str; 5] = [
    map::CONN_TABLE,
    map::BACKEND_STATES,
    map::TRAFFIC,
    map::RULE_STATES,
    map::CLIENTS,
];

/// The table of flows: its parts hold numbers of each other's rows.
pub const TABLE_OF_FLOWS: [&str; 5] = [
    map::TRACKS,
    map::TRACK_INDEX,
    map::TRACK_FREE,
    map::TRACK_STATE,
    map::FLOW_SETTINGS,
];

/// Refuses pins whose keys and values have other sizes than this build's.
pub fn check(pins: &PinRoot) -> Result<(), LoadError> {
    for &Shape { name, key, value, .. } in SHAPES {
        let info = MapData::from_pin(pins.map(name))
            .and_then(|data| data.info())
            .map_err(|cause| LoadError::Map { name, cause })?;
        if (info.key_size() as usize, info.value_size() as usize) != (key, value) {
            return Err(LoadError::Shape {
                name,
                key: info.key_size(),
                value: info.value_size(),
                need_key: key as u32,
                need_value: value as u32,
            });
        }
    }
    Ok(())
}
