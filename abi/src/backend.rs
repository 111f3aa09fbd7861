// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The `backends` map (written by the agent) and the `backend_states` map (written by the programs).
//!
//! Two maps rather than one: an update by the agent replaces a whole row, and must not undo an addition that a program
//! makes at the same moment. Both are arrays indexed by backend id. An id is given to another backend only when no
//! socket is counted on it any more; `generation` tells incarnations apart where no count protects a reference.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    Ejection, Ip16, Port,
    layout::{abi_struct, counter_index},
};

/// Bits of [`Backend::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendFlags;

impl BackendFlags {
    /// May be chosen for a new connection. Cleared while draining or unhealthy: affinity and flows then pick anew.
    pub const AVAILABLE: u16 = 1;
    /// Gets one connection at a time until its first token was seen ([`BackendState::warm`]); a backend that comes back starts anew.
    pub const COLD: u16 = 2;
    /// Its replies pass this node whatever address they go to, since it runs here: the packet path keeps the client's address.
    pub const RETURNS: u16 = 4;
}

/// Value of `backends`: where a connection is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Backend {
    /// Address of the replica.
    pub addr: Ip16,
    /// Port of the replica.
    pub port: Port,
    /// See [`BackendFlags`].
    pub flags: u16,
    /// Share of the load, relative to the other backends of the service; 0 only in an unused row.
    pub weight: u32,
    /// Incarnation of this id; 0 only in an unused row.
    pub generation: u32,
    /// [`crate::Service::id`] that this backend belongs to.
    pub service: u32,
    /// Pair of rows in `traffic`; [`crate::traffic::SHARED_PAIR`] if it has none of its own.
    pub traffic: u32,
    /// Index into `rules`.
    pub rules: u32,
    /// Since when it takes connections, nanoseconds of `CLOCK_MONOTONIC`; 0 if it always did.
    pub since_ns: u64,
}
abi_struct!(Backend: 48 {
    addr: 0, port: 16, flags: 18, weight: 20, generation: 24, service: 28, traffic: 32, rules: 36, since_ns: 40,
});

impl Backend {
    /// An unused row.
    pub const UNUSED: Self = Self {
        addr: Ip16::UNSPECIFIED,
        port: Port::new(0),
        flags: 0,
        weight: 0,
        generation: 0,
        service: 0,
        traffic: 0,
        rules: 0,
        since_ns: 0,
    };

    /// Whether a reference made to `generation` may still be used for a new connection.
    #[inline(always)]
    pub const fn accepts(&self, generation: u32) -> bool {
        self.generation == generation && self.flags & BackendFlags::AVAILABLE != 0
    }
}

counter_index! {
    /// Why a connection to a backend was never established.
    pub enum ConnectFailure {
        /// The backend answered the SYN with RST (ECONNREFUSED).
        Refused = "refused",
        /// No answer (ETIMEDOUT).
        Timeout = "timeout",
        /// No way there (EHOSTUNREACH, ENETUNREACH).
        Unreachable = "unreachable",
        /// The client gave up before the handshake was complete.
        Aborted = "aborted",
        /// Any other error of the socket.
        Other = "other",
    }
}

impl ConnectFailure {
    /// From `sk_err` of a socket that left `SYN_SENT` for `CLOSE`; 0 means that the client closed it.
    #[inline(always)]
    pub const fn from_sk_err(errno: i32) -> Self {
        match errno {
            0 => Self::Aborted,
            111 => Self::Refused,
            110 => Self::Timeout,
            101 | 113 => Self::Unreachable,
            _ => Self::Other,
        }
    }
}

/// Upper bounds, inclusive, in nanoseconds, of [`BackendState::connect_buckets`]; the last bucket has no bound.
pub const CONNECT_BOUNDS_NS: [u64; 6] = [
    100_000,
    500_000,
    2_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
];

/// Index of the bucket that counts a connect duration of `ns`.
#[inline(always)]
pub fn connect_bucket(ns: u64) -> usize {
    let mut index = 0;
    while index < CONNECT_BOUNDS_NS.len() && ns > CONNECT_BOUNDS_NS[index] {
        index += 1;
    }
    index
}

/// Bit of [`BackendState::ejected_until_ns`]: a probe is under way.
pub const PROBE: u64 = 1;

/// Value of `backend_states`.
///
/// Written by the programs with atomic additions only. `opened = closed + active + sum(failed)` at rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BackendState {
    /// Sockets placed on this backend that are neither closed nor failed.
    pub active: u64,
    /// What these sockets ask of it: a request in flight, a connection that has not sent its first request yet, and one
    /// whose requests cannot be told apart, count 1 each; an idle connection counts nothing.
    pub load: u64,
    /// Until when it is ejected, nanoseconds of `CLOCK_MONOTONIC`, without the lowest bit; from then on one connection at a time is a
    /// probe. With the lowest bit ([`PROBE`]): until when the one that is under way has time. 0 if it is well.
    pub ejected_until_ns: u64,
    /// Failed connects since the last that did not fail.
    pub connect_failures: u64,
    /// Failed requests since the last that did not fail.
    pub request_failures: u64,
    /// Ejections in a row: how long the next one is.
    pub ejections: u64,
    /// [`crate::Ejection`] that it is in.
    pub ejected_for: u64,
    /// [`Backend::since_ns`] since which a first token was seen.
    pub warm: u64,
    /// Ejections, ever, by [`crate::Ejection`].
    pub ejected: [u64; Ejection::COUNT],
    /// Connections and flows placed here, ever.
    pub opened: u64,
    /// Connections that ended after they were established, ever.
    pub closed: u64,
    /// Connections that failed before they were established, by [`ConnectFailure`].
    pub failed: [u64; ConnectFailure::COUNT],
    /// Sum of the connect durations, nanoseconds.
    pub connect_ns: u64,
    /// Connect durations per bucket of [`CONNECT_BOUNDS_NS`], not cumulative.
    pub connect_buckets: [u64; CONNECT_BOUNDS_NS.len() + 1],
    /// When its next token is due, nanoseconds of `CLOCK_MONOTONIC`.
    pub due_ns: u64,
}
abi_struct!(BackendState: 224 {
    active: 0, load: 8, ejected_until_ns: 16, connect_failures: 24, request_failures: 32, ejections: 40, ejected_for: 48, warm: 56,
    ejected: 64, opened: 96, closed: 104, failed: 112, connect_ns: 152, connect_buckets: 160,
    due_ns: 216,
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_have_inclusive_bounds() {
        assert_eq!(connect_bucket(0), 0);
        assert_eq!(connect_bucket(100_000), 0);
        assert_eq!(connect_bucket(100_001), 1);
        assert_eq!(connect_bucket(1_000_000_000), 5);
        assert_eq!(connect_bucket(u64::MAX), 6);
    }

    #[test]
    fn an_unavailable_or_reused_backend_is_not_accepted() {
        let backend = Backend {
            generation: 3,
            flags: BackendFlags::AVAILABLE,
            ..Backend::UNUSED
        };
        assert!(backend.accepts(3));
        assert!(!backend.accepts(2));
        assert!(!Backend { flags: 0, ..backend }.accepts(3));
    }
}
