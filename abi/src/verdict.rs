// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Why the programs refuse a connection, and what can go wrong inside them: counter indices, log words, metric labels.
//!
//! Invariant: a [`Refusal`] is a decision about a mesh service; an [`InternalError`] never by itself cuts traffic.

use crate::layout::counter_index;

counter_index! {
    /// Why a connection to a service was refused; index of [`crate::ServiceState::refused`].
    pub enum Refusal {
        /// The service has no available backend.
        NoBackend = "no_backend",
        /// The access policy denies it.
        Policy = "policy",
        /// More connections per second than the service or the client is given.
        Rate = "rate",
        /// As many connections as the service, the client or every backend is given.
        Connections = "connections",
        /// As many requests in flight.
        Requests = "requests",
    }
}

impl Refusal {
    /// The errno that `connect()` or `sendmsg()` returns to the application; `excess` is that of a limit, 0 for EAGAIN.
    #[inline(always)]
    pub const fn errno(self, excess: u32) -> i32 {
        match self {
            Self::NoBackend => 111, // ECONNREFUSED
            Self::Policy => 13,     // EACCES
            Self::Rate | Self::Connections | Self::Requests if excess != 0 => excess.cast_signed(),
            Self::Rate | Self::Connections | Self::Requests => 11, // EAGAIN
        }
    }
}

counter_index! {
    /// What can go wrong inside a program; index of `errors`.
    pub enum InternalError {
        /// A service row names a slot table that is not there. The connection is refused: there is nowhere to send it.
        SlotTable = "slot_table",
        /// A slot names a backend that is not there. The connection is refused likewise.
        Backend = "backend",
        /// No memory for the socket's record: the connection is placed but not counted.
        ConnectionRecord = "connection_record",
        /// No memory for a flow: the datagram is placed but its answer shows the backend's address.
        FlowRecord = "flow_record",
        /// No memory for the affinity: the connection is placed, the client's next one is picked anew.
        AffinityRecord = "affinity_record",
        /// As many connections are tracked as may be: this one is placed but neither counted nor metered.
        ConnectionTable = "connection_table",
        /// No place for the exchange of an HTTP/2 stream: it is not metered.
        StreamRecord = "stream_record",
        /// The ring buffer of the access log was full: a record is lost.
        AccessRecord = "access_record",
        /// The ring buffer of events was full: an event is lost.
        EventRecord = "event_record",
        /// No room for what a client holds: its limits do not hold.
        ClientRecord = "client_record",
        /// A service names a policy that is not there. The connection is refused: a policy never fails open.
        Policy = "policy",
    }
}
