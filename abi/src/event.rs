// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The ring buffer `events`: decisions that an operator wants to see; and `event_tallies`, for those that clients can cause as often as
//! they like, of which a record tells how many there were.
//!
//! Written by the programs, which drop and count a record rather than wait; read by the agent. Invariant: the counts of all records and
//! tallies of a kind add up to how often it happened.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    Ip16, Port,
    layout::{abi_struct, counter_index},
};

counter_index! {
    /// What happened.
    pub enum EventKind {
        /// A connection to a service was refused; `reason` is a [`crate::Refusal`].
        Refused = "refused",
        /// A connection was let through that a rule which is tried out would deny.
        Audited = "audited",
        /// A SYN to a backend of this node was dropped: the policy denies it.
        Dropped = "dropped",
        /// A backend was ejected; `reason` is a [`crate::rules::Ejection`].
        Ejected = "ejected",
        /// An ejected backend was given one connection to show what it can.
        Probed = "probed",
        /// An ejected backend is well again.
        Readmitted = "readmitted",
    }
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// Client's address, as far as it is known.
    pub client_addr: Ip16,
    /// Address that it dialled, or that of the backend.
    pub addr: Ip16,
    /// When, nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Cgroup of the client; 0 where it is elsewhere.
    pub cgroup: u64,
    /// Until when a backend is ejected, nanoseconds of `CLOCK_MONOTONIC`.
    pub until_ns: u64,
    /// Client's identity.
    pub identity: u32,
    /// [`crate::Service::id`].
    pub service: u32,
    /// Index into `backends`; `u32::MAX` if it is about none.
    pub backend: u32,
    /// Process of the client, in the initial pid namespace; 0 where it is elsewhere.
    pub tgid: u32,
    /// Port that belongs to `addr`.
    pub port: Port,
    /// IANA protocol number.
    pub protocol: u16,
    /// An [`EventKind`].
    pub kind: u16,
    /// See the kind.
    pub reason: u16,
    /// How often it happened since the last record of its [`EventKey`]; 1 for a kind that has none.
    pub count: u64,
}
abi_struct!(Event: 88 {
    client_addr: 0, addr: 16, at_ns: 32, cgroup: 40, until_ns: 48, identity: 56, service: 60, backend: 64, tgid: 68, port: 72,
    protocol: 74, kind: 76, reason: 78, count: 80,
});

/// How long one record of an [`EventKey`] stands for what happens again, nanoseconds.
pub const EVENT_INTERVAL_NS: u64 = 1_000_000_000;

/// Key of `event_tallies`: what clients can cause as often as they like, and is told of once per [`EVENT_INTERVAL_NS`]. The fields are
/// those of [`Event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EventKey {
    /// See [`Event::addr`].
    pub addr: Ip16,
    /// See [`Event::service`].
    pub service: u32,
    /// See [`Event::backend`].
    pub backend: u32,
    /// See [`Event::identity`].
    pub identity: u32,
    /// See [`Event::port`].
    pub port: Port,
    /// See [`Event::protocol`].
    pub protocol: u16,
    /// See [`Event::kind`].
    pub kind: u16,
    /// See [`Event::reason`].
    pub reason: u16,
}
abi_struct!(EventKey: 36 {
    addr: 0, service: 16, backend: 20, identity: 24, port: 28, protocol: 30, kind: 32, reason: 34,
});

/// Value of `event_tallies`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EventTally {
    /// Until when nothing is told, nanoseconds of `CLOCK_MONOTONIC`.
    pub due_ns: u64,
    /// How often it happened and was not told.
    pub pending: u64,
}
abi_struct!(EventTally: 16 { due_ns: 0, pending: 8 });
