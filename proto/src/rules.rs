// SPDX-License-Identifier: Apache-2.0
//! Limits and health of a traffic policy in Envoy's types: one module per message, which writes and reads it.
//!
//! Called by `to_xds` and `from_xds`. Invariant: what is read is valid for the model: what is out of its range is brought into it
//! and noted.

use std::{ops::RangeInclusive, time::Duration};

use nodemesh_abi::{Algorithm, Protocol};
use nodemesh_model::{
    Keyword as _, Kind, Manifest, Resource, ResourceName, Service, ServiceRules, document::document,
};
use serde_json::{Map, Value, json};

use crate::{
    from_xds::notes::{Notes, Place},
    names::policy_name,
    v1::PolicyDocument,
    xds::google::protobuf::Duration as WireDuration,
};

pub(crate) mod breakers;
pub(crate) mod connection_limit;
pub(crate) mod health_check;
pub(crate) mod outlier;
pub(crate) mod rate_limit;
pub(crate) mod slow_start;

/// Effect of a number out of the range that nodemesh has.
const CLAMPED: &str = "taken as the nearest that nodemesh has";

/// Limits that Envoy's types express.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Connections per second, and the most at once.
    pub(crate) rate: Option<(u32, u32)>,
    pub(crate) connections: Option<u32>,
    pub(crate) requests: Option<u32>,
    pub(crate) backend_connections: Option<u32>,
    pub(crate) backend_requests: Option<u32>,
}

impl Limits {
    /// The stricter of both.
    pub(crate) fn and(self, other: Self) -> Self {
        let least = |one: Option<u32>, other: Option<u32>| one.into_iter().chain(other).min();
        Self {
            rate: self.rate.into_iter().chain(other.rate).min(),
            connections: least(self.connections, other.connections),
            requests: least(self.requests, other.requests),
            backend_connections: least(self.backend_connections, other.backend_connections),
            backend_requests: least(self.backend_requests, other.backend_requests),
        }
    }

    fn fields(self) -> Map<String, Value> {
        let mut fields = Map::new();
        if let Some((per_second, burst)) = self.rate {
            fields.insert("connectionsPerSecond".to_owned(), per_second.into());
            fields.insert("burst".to_owned(), burst.into());
        }
        caps(&mut fields, self.connections, self.requests);
        let mut backend = Map::new();
        caps(&mut backend, self.backend_connections, self.backend_requests);
        if !backend.is_empty() {
            fields.insert("perBackend".to_owned(), backend.into());
        }
        fields
    }
}

fn caps(fields: &mut Map<String, Value>, connections: Option<u32>, requests: Option<u32>) {
    for (name, cap) in [("connections", connections), ("requests", requests)] {
        if let Some(cap) = cap {
            fields.insert(name.to_owned(), cap.into());
        }
    }
}

/// What a cluster says of limits and health.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Told {
    pub(crate) limits: Limits,
    pub(crate) outliers: Option<outlier::Outliers>,
    /// The field `healthChecks`.
    pub(crate) health_check: Option<Value>,
    /// The window of a slow start.
    pub(crate) slow_start: Option<Duration>,
}

impl Told {
    /// The fields of a `TrafficPolicy`'s spec, with the limits of a listener.
    pub(crate) fn fields(&self, of_listener: Limits) -> Map<String, Value> {
        let mut fields = Map::new();
        let limits = self.limits.and(of_listener).fields();
        if !limits.is_empty() {
            fields.insert("limits".to_owned(), limits.into());
        }
        if let Some(outliers) = &self.outliers {
            fields.insert("outlierDetection".to_owned(), outliers.field());
        }
        if let Some(check) = &self.health_check {
            fields.insert("healthChecks".to_owned(), check.clone());
        }
        if let Some(window) = self.slow_start {
            fields.insert("slowStart".to_owned(), json!({"window": text(window)}));
        }
        fields
    }
}

/// The document of `rules` for `service`, if Envoy's types do not express all of them.
pub(crate) fn unexpressed(
    service: &Service,
    algorithm: Algorithm,
    rules: &ServiceRules,
) -> Option<(String, PolicyDocument)> {
    let name = &service.metadata.name;
    if *rules == *ServiceRules::shared_default() {
        return None;
    }
    let reads_back = |protocol| {
        let fields = expressed(algorithm, protocol, rules);
        read_back(name, fields).is_some_and(|read| read == *rules)
    };
    let (mut tcp, mut udp) = (false, false);
    for port in &service.ports {
        match port.protocol {
            Protocol::Tcp => tcp = true,
            Protocol::Udp => udp = true,
        }
    }
    if (!tcp || reads_back(Protocol::Tcp)) && (!udp || reads_back(Protocol::Udp)) {
        return None;
    }
    let document = PolicyDocument {
        document: policy(name, rules.to_fields()).to_string(),
    };
    Some((policy_name(Kind::TrafficPolicy, name), document))
}

/// What is read of what is written of `rules`.
fn expressed(algorithm: Algorithm, protocol: Protocol, rules: &ServiceRules) -> Map<String, Value> {
    let (place, notes) = (Place::ROOT, &mut Notes::default());
    let mut told = Told::default();
    if let Some(wire) = breakers::write(&rules.kernel) {
        told.limits = breakers::read(&wire, place, notes);
    }
    told.outliers = outlier::write(rules).map(|wire| outlier::read(&wire, place, notes));
    let check = rules.health_check.as_ref().map(health_check::write);
    told.health_check = health_check::read(check.as_slice(), place, notes).unwrap_or_default();
    told.slow_start = slow_start::write(algorithm, rules).and_then(|wire| {
        let parts = slow_start::Parts::from(&wire);
        slow_start::read(parts, place, notes)
    });
    let rate = rate_limit::write(rules.kernel.rate, "").filter(|_| protocol == Protocol::Tcp);
    let of_listener = rate.map(|wire| rate_limit::limits(&wire, place, notes));
    told.fields(of_listener.and_then(Result::ok).flatten().unwrap_or_default())
}

/// The document of a policy of `service` with these fields.
fn policy(service: &ResourceName, fields: Map<String, Value>) -> Value {
    let metadata = json!({"namespace": service.namespace(), "name": service.name()});
    let mut spec = json!({"targetRef": {"kind": Kind::Service.word(), "name": service.name()}});
    if let Some(spec) = spec.as_object_mut() {
        spec.extend(fields);
    }
    document(Kind::TrafficPolicy, metadata, spec)
}

fn read_back(service: &ResourceName, fields: Map<String, Value>) -> Option<ServiceRules> {
    let manifest = Manifest::from_values([policy(service, fields)]);
    manifest.resources().find_map(|resource| match resource {
        Resource::TrafficPolicy(policy) => Some(ServiceRules::clone(&policy.rules)),
        _ => None,
    })
}

/// `time` as a policy writes it.
fn text(time: Duration) -> String {
    format!("{}ns", time.as_nanos())
}

fn wire_time(time: Duration) -> WireDuration {
    WireDuration {
        seconds: time.as_secs().cast_signed(),
        nanos: time.subsec_nanos().cast_signed(),
    }
}

/// `time` as it is told, zero if it is below; `None` without one.
fn time(time: Option<WireDuration>) -> Option<Duration> {
    let time = time?;
    let seconds = u64::try_from(time.seconds).unwrap_or_default();
    let nanos = u32::try_from(time.nanos).unwrap_or_default();
    Some(Duration::new(seconds, nanos.min(999_999_999)))
}

/// `value` within `range`; another one is noted at `field`.
fn clamped<T: Ord + Copy>(
    value: T,
    range: &RangeInclusive<T>,
    place: Place<'_>,
    field: &str,
    notes: &mut Notes,
) -> T {
    let clamped = value.clamp(*range.start(), *range.end());
    if clamped != value {
        notes.add(place, field, CLAMPED);
    }
    clamped
}
