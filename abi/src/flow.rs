// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The packet path: what `flow_ingress`, `flow_egress` and `flow_xdp` share with the agent, and the pure functions under them.
//!
//! ```text
//! frame ──► headers ──► tuple ──► index ──► track ──► translate ──► checksum
//!  (bytes)   (parser)    (key)     (sets)    (row)     (addresses)   (RFC 1624)
//! ```
//!
//! The agent writes `flow_services`, `flow_tables` and `flow_settings`; the programs write everything else. Invariant: an all-zero row of
//! settings switches the path off, so that programs which are attached before the agent has written it pass every packet.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    Ip16, Refusal, Service,
    layout::{abi_struct, counter_index},
};

pub mod checksum;
pub mod headers;
pub mod index;
pub mod port;
pub mod state;
pub mod track;
pub mod translate;
pub mod tuple;

pub use headers::{Frame, Headers, Unread};
pub use index::IndexSet;
pub use state::FlowState;
pub use track::{Direction, Mapping, Track, TrackMode};
pub use tuple::Tuple;

/// How the packets of a service reach its backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FlowMode {
    /// The destination is translated, and the source too unless the backend's replies pass this node anyhow.
    Nat = 0,
    /// The destination is translated, the source never: this node is the backends' way to the clients.
    Keep = 1,
    /// The packet goes unchanged to the backend's link-layer address, and the backend answers the client itself; as [`FlowMode::Nat`]
    /// where the backend is not on a link of this node or listens on another port.
    Direct = 2,
}

/// Value of `flow_services`, keyed by [`crate::ServiceKey`]. A row with the address `0.0.0.0` or `::` is a node port: it stands for every
/// address of its family that this node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowService {
    /// The service, as in `services`.
    pub service: Service,
    /// A [`FlowMode`].
    pub mode: u8,
    /// Zero.
    pub pad: [u8; 3],
}
abi_struct!(FlowService: 24 { service: 0, mode: 20, pad: 21 });

/// The only value of `flow_settings`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowSettings {
    /// Secret of the index's hash, so that nobody can aim at one of its sets; written once per table. 0 switches the path off.
    pub seed: u64,
    /// Source of translated IPv4 packets: an address of this node; unspecified if there is none.
    pub nat4: Ip16,
    /// Source of translated IPv6 packets.
    pub nat6: Ip16,
    /// Rows of `tracks` in use: 1 up to and including this one.
    pub rows: u32,
    /// Sets of `track_index`.
    pub sets: u32,
    /// First port for translated sources, host byte order.
    pub nat_first: u16,
    /// Last port for translated sources, host byte order.
    pub nat_last: u16,
    /// Seconds without a packet after which a flow ends, by [`FlowState`].
    pub timeouts_s: [u32; FlowState::COUNT],
}
abi_struct!(FlowSettings: 96 {
    seed: 0, nat4: 8, nat6: 24, rows: 40, sets: 44, nat_first: 48, nat_last: 50, timeouts_s: 52,
});

impl FlowSettings {
    /// Default of [`FlowSettings::timeouts_s`].
    pub const TIMEOUTS_S: [u32; FlowState::COUNT] = [0, 30, 30, 60, 86_400, 120, 120, 60, 10, 30, 180];
    /// Default of [`FlowSettings::nat_first`].
    pub const NAT_FIRST: u16 = 10_240;
    /// Default of [`FlowSettings::nat_last`]: the range lies below the one that Linux gives to its own sockets.
    pub const NAT_LAST: u16 = 32_767;

    /// The path is off.
    pub const OFF: Self = Self {
        seed: 0,
        nat4: Ip16::UNSPECIFIED,
        nat6: Ip16::UNSPECIFIED,
        rows: 0,
        sets: 0,
        nat_first: Self::NAT_FIRST,
        nat_last: Self::NAT_LAST,
        timeouts_s: Self::TIMEOUTS_S,
    };

    /// Whether packets are looked at.
    #[inline(always)]
    pub const fn is_on(&self) -> bool {
        self.seed != 0 && self.rows != 0 && self.sets != 0
    }
}

/// The only value of `track_state`; written by the programs with atomic additions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TrackState {
    /// Rows that were ever taken, at most (the counter runs on when the table is full).
    pub fresh: u64,
    /// Flows in the table.
    pub entries: u64,
    /// Rows that `flow_sweep` has looked at.
    pub swept: u64,
}
abi_struct!(TrackState: 24 { fresh: 0, entries: 8, swept: 16 });

/// Value of `track_sources`, keyed by the client's address: who opens flows. An LRU: a source that opens few is forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Source {
    /// Flows opened.
    pub opened: u64,
    /// Flows for which there was no place.
    pub refused: u64,
}
abi_struct!(Source: 16 { opened: 0, refused: 8 });

/// Value of `flow_counts`, per CPU, indexed by [`FlowEvent`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowCount {
    /// Packets; of what happens to the table, flows.
    pub packets: u64,
    /// Bytes of these, from the IP header on; of what happens to the table, 0.
    pub bytes: u64,
}
abi_struct!(FlowCount: 16 { packets: 0, bytes: 8 });

counter_index! {
    /// What became of a packet, or happened in the table of flows; index of `flow_counts`.
    pub enum FlowEvent {
        /// Translated and sent toward the backend.
        Forwarded = "forwarded",
        /// Translated and sent toward the client.
        Returned = "returned",
        /// An ICMP error about a flow, translated with the packet inside it.
        Related = "related",
        /// Passed untouched: its headers contradict themselves or end too early.
        Malformed = "pass_malformed",
        /// Passed untouched: a fragment.
        Fragment = "pass_fragment",
        /// Passed untouched: extension headers that hide the transport header, or too many.
        Extension = "pass_extension",
        /// Passed untouched: a reset of a flow that is not known.
        Stray = "pass_stray",
        /// Passed untouched by `flow_xdp`, for `flow_ingress` to take.
        Deferred = "pass_deferred",
        /// Dropped: the access policy denies the client.
        Policy = "drop_policy",
        /// Dropped: the service has no available backend.
        NoBackend = "drop_no_backend",
        /// Dropped: more new flows per second than the service or the client is given.
        Rate = "drop_rate",
        /// Dropped: as many flows as the service, the client or every backend is given.
        Connections = "drop_connections",
        /// Dropped: as many requests in flight.
        Requests = "drop_requests",
        /// Dropped: no row is free, and no flow that may be evicted was found.
        TableFull = "drop_table_full",
        /// Dropped: no source port was free in as many tries as are made.
        NoPort = "drop_no_port",
        /// Dropped: the source would have to be translated, and there is no address for it.
        NoNatAddress = "drop_no_nat_address",
        /// Dropped: the backend is of the other address family.
        Family = "drop_family",
        /// Dropped: there is no way to the backend.
        NoRoute = "drop_no_route",
        /// Dropped: longer than the way to the backend takes, and the client could not be told.
        TooBig = "drop_too_big",
        /// Dropped: the packet could not be rewritten.
        Rewrite = "drop_rewrite",
        /// A flow was opened.
        Opened = "opened",
        /// A flow ended: closed by both sides, or reset, and its time was over.
        Closed = "closed",
        /// A flow ended: no packet for too long.
        Expired = "expired",
        /// A flow that was not established had to make room.
        Evicted = "evicted",
        /// A client used the port of a closed flow for a new one.
        Reopened = "reopened",
    }
}

impl From<Refusal> for FlowEvent {
    #[inline(always)]
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoBackend => Self::NoBackend,
            Refusal::Policy => Self::Policy,
            Refusal::Rate => Self::Rate,
            Refusal::Connections => Self::Connections,
            Refusal::Requests => Self::Requests,
        }
    }
}
