// SPDX-License-Identifier: Apache-2.0
//! Why a connection is to be ended, by what is new in a view. Pure.
//!
//! Invariant: a denial is told as such whatever else holds.

use std::collections::{HashMap, HashSet};

use nodemesh_abi::{Connection, Ip16, Phase, Port, Protocol, Vantage};

use super::examine::Examiner;
use crate::events::Closing;

/// How long a connection must have been idle, nanoseconds: a client that has just read an answer may be about to ask again.
const IDLE_NS: u64 = 200_000_000;

/// A backend that was removed outright.
#[derive(Clone, Copy, Debug)]
pub(super) struct Removed {
    /// Where it was.
    pub(super) endpoint: (Ip16, Port),
    /// Whether TCP connections are ended too.
    pub(super) ends_tcp: bool,
}

/// What is looked for in a listing.
pub(super) struct Wanted<'a> {
    /// Examines policies, if that is due.
    pub(super) examiner: Option<Examiner<'a>>,
    /// Backends that were removed, by id.
    pub(super) removed: HashMap<u32, Removed>,
    /// Backends that drain.
    pub(super) draining: HashSet<(Ip16, Port)>,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) now: u64,
}

impl Wanted<'_> {
    /// Why `connection` is to be ended; `None` if it may go on.
    pub(super) fn reason(&mut self, connection: &Connection) -> Option<Closing> {
        if let Some(examiner) = &mut self.examiner
            && examiner.is_denied(connection)
        {
            return Some(Closing::Policy);
        }
        let endpoint = (connection.backend_addr, connection.backend_port);
        if let Some(removed) = self.removed.get(&connection.backend)
            && removed.endpoint == endpoint
            && (removed.ends_tcp || connection.protocol == Protocol::Udp as u16)
        {
            return Some(Closing::Removal);
        }
        let is_idle = self.draining.contains(&endpoint) && is_idle(connection, self.now);
        is_idle.then_some(Closing::Drain)
    }
}

/// Whether nothing is under way on a connection that has had a request.
fn is_idle(connection: &Connection, now: u64) -> bool {
    let meter = &connection.meter;
    let is_between = match Phase::from_raw(meter.phase) {
        Phase::Idle => true,
        Phase::Streams => meter.requests > 0,
        _ => false,
    };
    connection.protocol == Protocol::Tcp as u16
        && is_between
        && meter.open == 0
        && now.saturating_sub(meter.last_ns) >= IDLE_NS
}

/// The client's end of a connection is ended where it is seen, so that the client learns of it at once.
pub(super) fn is_client(connection: &Connection) -> bool {
    Vantage::from_raw(connection.meter.vantage) == Vantage::Client
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    const NOW: u64 = 10_000_000_000;

    fn connection(protocol: Protocol, phase: Phase) -> Connection {
        let mut connection = Connection::new_zeroed();
        connection.protocol = protocol as u16;
        connection.backend = 7;
        connection.backend_port = Port::new(8000);
        connection.meter.phase = phase as u8;
        connection.meter.requests = 1;
        connection.meter.last_ns = NOW - IDLE_NS;
        connection
    }

    fn wanted(removed: Option<Removed>, drains: bool) -> Wanted<'static> {
        let endpoint = (Ip16::UNSPECIFIED, Port::new(8000));
        Wanted {
            examiner: None,
            removed: removed.map(|removed| (7, removed)).into_iter().collect(),
            draining: drains.then_some(endpoint).into_iter().collect(),
            now: NOW,
        }
    }

    #[test]
    fn a_drain_closes_what_is_idle_and_nothing_else() {
        let mut wanted = wanted(None, true);
        let mut reason = |phase, open, quiet| {
            let mut one = connection(Protocol::Tcp, phase);
            (one.meter.open, one.meter.last_ns) = (open, NOW - quiet);
            wanted.reason(&one)
        };
        assert_eq!(reason(Phase::Idle, 0, IDLE_NS), Some(Closing::Drain));
        assert_eq!(reason(Phase::Streams, 0, IDLE_NS), Some(Closing::Drain));
        assert_eq!(
            reason(Phase::Idle, 0, IDLE_NS - 1),
            None,
            "it may be about to ask again"
        );
        assert_eq!(reason(Phase::Streams, 2, IDLE_NS), None);
        for phase in [
            Phase::Fresh,
            Phase::Request,
            Phase::Response,
            Phase::Tail,
            Phase::Opaque,
        ] {
            assert_eq!(reason(phase, 0, IDLE_NS), None, "{phase:?}");
        }
    }

    #[test]
    fn a_removal_ends_udp_always_and_tcp_by_policy() {
        let endpoint = (Ip16::UNSPECIFIED, Port::new(8000));
        for (ends_tcp, protocol, expected) in [
            (false, Protocol::Udp, Some(Closing::Removal)),
            (false, Protocol::Tcp, None),
            (true, Protocol::Tcp, Some(Closing::Removal)),
        ] {
            let mut wanted = wanted(Some(Removed { endpoint, ends_tcp }), false);
            assert_eq!(wanted.reason(&connection(protocol, Phase::Response)), expected);
        }
        let elsewhere = Removed {
            endpoint: (Ip16::UNSPECIFIED, Port::new(1)),
            ends_tcp: true,
        };
        let mut wanted = wanted(Some(elsewhere), false);
        assert_eq!(
            wanted.reason(&connection(Protocol::Tcp, Phase::Idle)),
            None,
            "the id has another owner"
        );
    }
}
