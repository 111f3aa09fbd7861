// SPDX-License-Identifier: Apache-2.0
//! Clusters: `envoy.config.cluster.v3.Cluster`. How a replica is chosen, and where the replicas are told.
//!
//! Invariant: every field of the message is read here, by `lb_policy`, or considered by `unsupported`.

use std::time::Duration;

use nodemesh_abi::ClientKeySource;
use nodemesh_model::{Keyword, resource::address, resource::policy::MAX_AFFINITY_S};

use super::{
    address::unknown_value,
    assignment::{self, Assignment, Hosts},
    decode::decode,
    lb_policy::{self, Balancer},
    notes::{Notes, Place, Read},
};
use crate::{
    metadata,
    rules::{Limits, Told, breakers, health_check, outlier},
    xds::envoy::config::{
        cluster::v3::{
            Cluster as Wire,
            cluster::{ClusterDiscoveryType, DiscoveryType},
        },
        core::v3::config_source::ConfigSourceSpecifier,
    },
};

mod unsupported;

/// Effect of a field without which a cluster means nothing.
const NOT_TAKEN: &str = "the cluster is not taken, nor what refers to it";

/// What is read of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cluster {
    pub(super) balancer: Balancer,
    /// What identifies a client, if the cluster says so.
    pub(super) client_key: Option<ClientKeySource>,
    /// Seconds that a client stays with its replica; 0 without affinity.
    pub(super) affinity_timeout_s: u32,
    /// Port of replicas that name none of their own.
    pub(super) target_port: Option<u16>,
    pub(super) endpoints: Endpoints,
    /// Limits and health.
    pub(super) told: Told,
    /// Name of the document that says more of these than `told`.
    pub(super) policy: Option<Box<str>>,
}

/// Where the replicas of a cluster are told.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Endpoints {
    /// In the assignment of this name.
    Discovered(Box<str>),
    /// In the cluster itself.
    Inline(Assignment),
    /// In a way that nodemesh lacks.
    Unknown,
}

/// Reads the cluster `name`.
pub(super) fn read(name: &str, value: &[u8], notes: &mut Notes) -> Read<Cluster> {
    let root = Place::ROOT;
    let wire: Wire = decode(value, root, notes)?;
    if wire.name != name || name.is_empty() {
        return root.field("name").refuse(format_args!(
            "is {:?}, but the resource is {name:?}; give both the same name",
            wire.name
        ));
    }
    unsupported::note(&wire, notes);
    let (balancer, slow_start) = lb_policy::balancer(&wire, root, notes)?;
    let endpoints = endpoints(&wire, root, notes)?;
    let known = [
        metadata::CLIENT_KEY,
        metadata::AFFINITY_TIMEOUT,
        metadata::TARGET_PORT,
        metadata::POLICY,
    ];
    let fields = metadata::read(wire.metadata.as_ref(), &known, &root, notes);
    let client_key = match fields.text(metadata::CLIENT_KEY)? {
        None => None,
        Some(word) => match ClientKeySource::from_word(word) {
            Some(key) => Some(key),
            None => return fields.refuse(metadata::CLIENT_KEY, "is not known; use workload or address"),
        },
    };
    let affinity_timeout_s = fields.number(metadata::AFFINITY_TIMEOUT)?.unwrap_or(0);
    if affinity_timeout_s > MAX_AFFINITY_S {
        let reason = format_args!("is {affinity_timeout_s}; use at most {MAX_AFFINITY_S}");
        return fields.refuse(metadata::AFFINITY_TIMEOUT, reason);
    }
    let target_port = match fields
        .number(metadata::TARGET_PORT)?
        .map(|port| address::port(port.into()))
    {
        None => None,
        Some(Ok(port)) => Some(port),
        Some(Err(problem)) => return fields.refuse(metadata::TARGET_PORT, problem),
    };
    let policy = fields.text(metadata::POLICY)?.map(Into::into);
    Ok(Cluster {
        told: told(&wire, slow_start, root, notes)?,
        policy,
        balancer,
        client_key,
        affinity_timeout_s,
        target_port,
        endpoints,
    })
}

fn told(wire: &Wire, slow_start: Option<Duration>, place: Place<'_>, notes: &mut Notes) -> Read<Told> {
    let mut limits = Limits::default();
    if let Some(breakers) = &wire.circuit_breakers {
        limits = breakers::read(breakers, place.field("circuit_breakers"), notes);
    }
    let outliers = wire.outlier_detection.as_ref();
    Ok(Told {
        limits,
        outliers: outliers.map(|wire| outlier::read(wire, place.field("outlier_detection"), notes)),
        health_check: health_check::read(&wire.health_checks, place, notes)?,
        slow_start,
    })
}

fn endpoints(wire: &Wire, place: Place<'_>, notes: &mut Notes) -> Read<Endpoints> {
    let discovery = match &wire.cluster_discovery_type {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(number)) => match DiscoveryType::try_from(*number) {
            Ok(discovery) => discovery,
            Err(_) => return place.field("type").refuse(unknown_value(*number)),
        },
        Some(ClusterDiscoveryType::ClusterType(_)) => {
            notes.add(place, "cluster_type", NOT_TAKEN);
            return Ok(Endpoints::Unknown);
        }
    };
    let hosts = match discovery {
        DiscoveryType::Eds => return discovered(wire, place.field("eds_cluster_config"), notes),
        DiscoveryType::OriginalDst => {
            notes.add(place, "type", NOT_TAKEN);
            return Ok(Endpoints::Unknown);
        }
        DiscoveryType::Static => Hosts::Addresses,
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => Hosts::Names,
    };
    let place = place.field("load_assignment");
    match &wire.load_assignment {
        None => place.refuse("is missing; a cluster of this type lists its endpoints"),
        Some(assignment) => assignment::assignment(assignment, hosts, place, notes).map(Endpoints::Inline),
    }
}

fn discovered(wire: &Wire, place: Place<'_>, notes: &mut Notes) -> Read<Endpoints> {
    let Some(config) = &wire.eds_cluster_config else {
        return place.refuse("is missing; a cluster of type EDS says where its endpoints are told");
    };
    let source = config
        .eds_config
        .as_ref()
        .and_then(|source| source.config_source_specifier.as_ref());
    match source {
        Some(ConfigSourceSpecifier::Ads(_) | ConfigSourceSpecifier::Self_(_)) => {}
        None => return place.field("eds_config").refuse("is missing; use ads"),
        Some(_) => notes.add(
            place,
            "eds_config",
            "the endpoints are asked for on the stream that the cluster came on",
        ),
    }
    let name = match &*config.service_name {
        "" => &*wire.name,
        name => name,
    };
    Ok(Endpoints::Discovered(name.into()))
}
