// SPDX-License-Identifier: Apache-2.0
//! Endpoints: `envoy.config.endpoint.v3.ClusterLoadAssignment`, of EDS or within a cluster.
//!
//! Kept small, since a node holds as many as a fleet has replicas. Invariant: weights and localities' weights are never 0.

use std::{net::IpAddr, sync::Arc};

use nodemesh_model::name::dns_label;

use super::{
    address::{Spot, spot, unknown_value},
    decode::decode,
    notes::{Notes, Place, Read, lasts},
};
use crate::{
    metadata,
    xds::{
        envoy::config::{
            core::v3::{HealthStatus, Locality as WirePlace},
            endpoint::v3::{
                ClusterLoadAssignment, Endpoint as WireEndpoint, LbEndpoint, LocalityLbEndpoints,
                cluster_load_assignment::Policy, lb_endpoint::HostIdentifier,
            },
        },
        google::protobuf::UInt32Value,
    },
};

/// Effect on an endpoint that nodemesh cannot reach.
const NOT_TAKEN: &str = "the endpoint is not taken";
/// Highest number of a priority, as in Envoy.
const MAX_PRIORITY: u32 = 128;
/// Percent of a locality's share that its available endpoints take more than their part, if nothing is said, as in Envoy.
const OVERPROVISIONING: u32 = 140;

/// The endpoints of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Assignment {
    pub(super) localities: Vec<Locality>,
    /// Percent: how much more than its part an endpoint of a locality can take, when others of it are unavailable.
    pub(super) overprovisioning: u32,
}

/// Endpoints at one place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Locality {
    /// 0 is the one to use first.
    pub(super) priority: u32,
    pub(super) weight: Option<u32>,
    /// Whether its endpoints share the load with those of the others by their weights alone.
    pub(super) sums_up: bool,
    /// Where it is, if that is said.
    pub(super) place: Option<Arc<nodemesh_model::Locality>>,
    pub(super) endpoints: Box<[Endpoint]>,
}

/// One replica.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Endpoint {
    pub(super) ip: IpAddr,
    pub(super) port: u16,
    pub(super) health: Health,
    pub(super) weight: u32,
    /// Name of its Workload in the namespace of the service.
    pub(super) workload: Option<Box<str>>,
}

/// Whether a replica takes connections; the first in order is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Health {
    Healthy,
    /// Takes connections if no healthy one is there.
    Degraded,
    Draining,
    Unhealthy,
}

/// What the addresses of endpoints may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Hosts {
    /// IP addresses; anything else is invalid.
    Addresses,
    /// Host names too, of which nodemesh resolves none.
    Names,
}

/// Reads the assignment `name`.
pub(super) fn read(name: &str, value: &[u8], notes: &mut Notes) -> Read<Assignment> {
    let root = Place::ROOT;
    let wire: ClusterLoadAssignment = decode(value, root, notes)?;
    if wire.cluster_name != name || name.is_empty() {
        return root.field("cluster_name").refuse(format_args!(
            "is {:?}, but the resource is {name:?}; give both the same name",
            wire.cluster_name
        ));
    }
    assignment(&wire, Hosts::Addresses, root, notes)
}

/// Reads the assignment at `place`.
pub(super) fn assignment(
    wire: &ClusterLoadAssignment,
    hosts: Hosts,
    place: Place<'_>,
    notes: &mut Notes,
) -> Read<Assignment> {
    let overprovisioning = match &wire.policy {
        None => OVERPROVISIONING,
        Some(policy) => overprovisioning(policy, place.field("policy"), notes)?,
    };
    let mut localities = Vec::with_capacity(wire.endpoints.len());
    for (index, wire) in wire.endpoints.iter().enumerate() {
        localities.push(locality(wire, hosts, place.index("endpoints", index), notes)?);
    }
    Ok(Assignment {
        localities,
        overprovisioning,
    })
}

fn overprovisioning(wire: &Policy, place: Place<'_>, notes: &mut Notes) -> Read<u32> {
    let Policy {
        drop_overloads,
        overprovisioning_factor,
        endpoint_stale_after,
        weighted_priority_health,
    } = wire;
    let drops = drop_overloads.iter().any(|overload| {
        overload
            .drop_percentage
            .is_some_and(|percentage| percentage.numerator != 0)
    });
    notes.ignored(
        place,
        [
            ("drop_overloads", drops),
            ("endpoint_stale_after", lasts(*endpoint_stale_after)),
            ("weighted_priority_health", *weighted_priority_health),
        ],
    );
    let factor = weight(*overprovisioning_factor, place.field("overprovisioning_factor"))?;
    Ok(factor.unwrap_or(OVERPROVISIONING))
}

fn locality(wire: &LocalityLbEndpoints, hosts: Hosts, place: Place<'_>, notes: &mut Notes) -> Read<Locality> {
    let LocalityLbEndpoints {
        lb_endpoints,
        load_balancing_weight,
        priority,
        lb_config,
        locality,
        metadata,
        proximity: _,
    } = wire;
    if lb_config.is_some() {
        notes.add(
            place,
            "leds_cluster_locality_config",
            "its endpoints are not taken",
        );
    }
    if *priority > MAX_PRIORITY {
        return place
            .field("priority")
            .refuse(format_args!("is {priority}; use 0 to {MAX_PRIORITY}"));
    }
    let weight = weight(*load_balancing_weight, place.field("load_balancing_weight"))?;
    let fields = metadata::read(metadata.as_ref(), &[metadata::WEIGHT], &place, notes);
    let sums_up = match fields.text(metadata::WEIGHT)? {
        None => false,
        Some(metadata::OF_ENDPOINTS) => true,
        Some(_) => return fields.refuse(metadata::WEIGHT, "is not known; use endpoints, or leave it out"),
    };
    let mut endpoints = Vec::with_capacity(lb_endpoints.len());
    for (index, wire) in lb_endpoints.iter().enumerate() {
        endpoints.extend(endpoint(wire, hosts, place.index("lb_endpoints", index), notes)?);
    }
    Ok(Locality {
        priority: *priority,
        weight,
        sums_up,
        place: locality
            .as_ref()
            .and_then(|wire| self::place(wire, place.field("locality"), notes)),
        endpoints: endpoints.into(),
    })
}

/// A place: a sub-zone is what nodemesh calls a node.
fn place(wire: &WirePlace, place: Place<'_>, notes: &mut Notes) -> Option<Arc<nodemesh_model::Locality>> {
    let WirePlace {
        region,
        zone,
        sub_zone,
    } = wire;
    let given = |text: &str| !text.is_empty();
    if ![region, zone, sub_zone].into_iter().any(|text| given(text)) {
        return None;
    }
    let region = Some(region.as_str()).filter(|text| given(text));
    let zone = Some(zone.as_str()).filter(|text| given(text));
    let node = Some(sub_zone.as_str()).filter(|text| given(text));
    let found = nodemesh_model::Locality::new(region, zone, node).ok();
    if found.is_none() {
        notes.add(place, "", "ignored: its names are too long, or not printable");
    }
    found.map(Arc::new)
}

fn endpoint(wire: &LbEndpoint, hosts: Hosts, place: Place<'_>, notes: &mut Notes) -> Read<Option<Endpoint>> {
    let health = match HealthStatus::try_from(wire.health_status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Health::Healthy,
        Ok(HealthStatus::Degraded) => Health::Degraded,
        Ok(HealthStatus::Draining) => Health::Draining,
        Ok(HealthStatus::Unhealthy | HealthStatus::Timeout) => Health::Unhealthy,
        Err(_) => {
            return place
                .field("health_status")
                .refuse(unknown_value(wire.health_status));
        }
    };
    let weight = weight(wire.load_balancing_weight, place.field("load_balancing_weight"))?;
    let fields = metadata::read(wire.metadata.as_ref(), &[metadata::WORKLOAD], &place, notes);
    let workload = fields.text(metadata::WORKLOAD)?;
    if let Some(Err(problem)) = workload.map(dns_label) {
        return fields.refuse(metadata::WORKLOAD, problem);
    }
    let host = match &wire.host_identifier {
        Some(HostIdentifier::Endpoint(host)) => host,
        Some(HostIdentifier::EndpointName(_)) => {
            notes.add(place, "endpoint_name", NOT_TAKEN);
            return Ok(None);
        }
        None => return place.field("endpoint").refuse("is missing; add an address"),
    };
    let WireEndpoint {
        address,
        additional_addresses,
        // Of health checks, which are noted where they are asked for, and of people.
        health_check_config: _,
        hostname: _,
        observability_name: _,
    } = host;
    let place = place.field("endpoint");
    notes.ignored(
        place,
        [("additional_addresses", !additional_addresses.is_empty())],
    );
    let place = place.field("address");
    match spot(address.as_ref(), place, notes)? {
        Spot::Socket { ip, port, .. } => Ok(Some(Endpoint {
            ip,
            port,
            health,
            weight: weight.unwrap_or(1),
            workload: workload.map(Into::into),
        })),
        Spot::Unusable(problem) => place.field("socket_address").refuse(problem),
        Spot::Name(problem) if hosts == Hosts::Addresses => place.field("socket_address").refuse(problem),
        Spot::Name(_) | Spot::Unfit => {
            notes.add(place, "", NOT_TAKEN);
            Ok(None)
        }
    }
}

fn weight(weight: Option<UInt32Value>, place: Place<'_>) -> Read<Option<u32>> {
    match weight {
        Some(UInt32Value { value: 0 }) => place.refuse("is 0; use at least 1"),
        weight => Ok(weight.map(|weight| weight.value)),
    }
}
