// SPDX-License-Identifier: Apache-2.0
//! `envoy.config.cluster.v3.CircuitBreakers`: how much is open at once, to a cluster and to one of its endpoints.
//!
//! A proxy counts for itself, as a node does. Invariant: no limit is the absence of the field, or the largest number.

use nodemesh_abi::Rules;

use super::Limits;
use crate::{
    from_xds::notes::{Notes, Place},
    xds::{
        envoy::config::{
            cluster::v3::{CircuitBreakers, circuit_breakers::Thresholds},
            core::v3::RoutingPriority,
        },
        google::protobuf::UInt32Value,
    },
};

/// Numbers above are no limit to a node.
const MOST: u32 = 100_000_000;
const NOTHING: &str = "ignored: the least limit is 1";

/// The limits of a cluster and of an endpoint; `None` without one that Envoy has.
pub(crate) fn write(rules: &Rules) -> Option<CircuitBreakers> {
    let limit = |value: u32| (value != 0).then_some(UInt32Value { value });
    let of_cluster = Thresholds {
        max_connections: limit(rules.caps.connections),
        max_requests: limit(rules.caps.requests),
        ..Thresholds::default()
    };
    // Of an endpoint Envoy limits connections alone.
    let of_endpoint = Thresholds {
        max_connections: limit(rules.backend_caps.connections),
        ..Thresholds::default()
    };
    let list = |thresholds: Thresholds| {
        let is_set = thresholds != Thresholds::default();
        is_set.then_some(thresholds).into_iter().collect()
    };
    let breakers = CircuitBreakers {
        thresholds: list(of_cluster),
        per_host_thresholds: list(of_endpoint),
    };
    (breakers != CircuitBreakers::default()).then_some(breakers)
}

/// The limits of the message at `place`.
pub(crate) fn read(wire: &CircuitBreakers, place: Place<'_>, notes: &mut Notes) -> Limits {
    let (connections, requests) = list(&wire.thresholds, "thresholds", place, notes);
    let (backend_connections, backend_requests) =
        list(&wire.per_host_thresholds, "per_host_thresholds", place, notes);
    Limits {
        rate: None,
        connections,
        requests,
        backend_connections,
        backend_requests,
    }
}

/// The connections and requests of the list `name`.
fn list(wire: &[Thresholds], name: &str, place: Place<'_>, notes: &mut Notes) -> (Option<u32>, Option<u32>) {
    let (mut connections, mut requests) = (None, None);
    for (index, wire) in wire.iter().enumerate() {
        let Thresholds {
            priority,
            max_connections,
            max_pending_requests,
            max_requests,
            retry_budget,
            max_connection_pools,
            // Of retries, which a balancer of connections does not make; and of statistics.
            max_retries: _,
            track_remaining: _,
        } = wire;
        let place = place.index(name, index);
        let limits = |limit: &Option<UInt32Value>| limit.is_some_and(|limit| limit.value != u32::MAX);
        let is_of_all = *priority == i32::from(RoutingPriority::Default);
        if is_of_all {
            connections = connections.or(limit(*max_connections, place, "max_connections", notes));
            requests = requests.or(limit(*max_requests, place, "max_requests", notes));
        }
        notes.ignored(
            place,
            [
                ("max_connections", !is_of_all && limits(max_connections)),
                ("max_pending_requests", limits(max_pending_requests)),
                ("max_requests", !is_of_all && limits(max_requests)),
                ("retry_budget", retry_budget.is_some()),
                ("max_connection_pools", limits(max_connection_pools)),
            ],
        );
    }
    (connections, requests)
}

fn limit(wire: Option<UInt32Value>, place: Place<'_>, field: &str, notes: &mut Notes) -> Option<u32> {
    match wire?.value {
        0 => {
            notes.add(place, field, NOTHING);
            None
        }
        value => Some(value).filter(|value| *value <= MOST),
    }
}
