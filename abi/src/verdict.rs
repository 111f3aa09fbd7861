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
    }
}

impl Refusal {
    /// The errno that `connect()` or `sendmsg()` returns to the application.
    #[inline(always)]
    pub const fn errno(self) -> i32 {
        match self {
            Self::NoBackend => 111, // ECONNREFUSED
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
    }
}
