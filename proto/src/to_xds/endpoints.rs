// SPDX-License-Identifier: Apache-2.0
//! Endpoints: the replicas behind a port, of all its virtual addresses.
//!
//! Invariant: replicas of one place are one locality; one alone has the weight 1 (gRPC drops one without a weight), and of several
//! each weighs what its available replicas weigh together, so that each replica gets what it would get among all. An address and
//! port occurs once, because an address has one family and a family one frontend.

use std::{collections::BTreeMap, sync::Arc};

use nodemesh_abi::Protocol;
use nodemesh_model::{
    BackendState, Frontend, FrontendBackend, Locality as Place, ResourceName, Service, ServicePort,
};

use super::listener::socket_address;
use crate::{
    metadata::{self, Field},
    names::cluster_name,
    xds::{
        envoy::config::{
            core::v3::{HealthStatus, Locality},
            endpoint::v3::{
                ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
            },
        },
        google::protobuf::UInt32Value,
    },
};

pub(super) fn assignment(
    service: &Service,
    port: &ServicePort,
    frontends: &[&Frontend],
) -> ClusterLoadAssignment {
    let mut places: BTreeMap<Option<&Place>, Vec<&FrontendBackend>> = BTreeMap::new();
    for backend in frontends.iter().flat_map(|frontend| &frontend.backends) {
        places
            .entry(backend.locality.as_deref())
            .or_default()
            .push(backend);
    }
    if places.is_empty() {
        places.insert(None, Vec::new());
    }
    let is_alone = places.len() == 1;
    let localities = places.into_iter().map(|(place, backends)| {
        let active = backends
            .iter()
            .filter(|backend| backend.state == BackendState::Active);
        let sum: u64 = active.map(|backend| u64::from(backend.weight)).sum();
        let weight = if is_alone { 1 } else { sum.max(1) };
        LocalityLbEndpoints {
            locality: Some(place.map(locality).unwrap_or_default()),
            lb_endpoints: backends
                .iter()
                .map(|backend| endpoint(backend, port.protocol))
                .collect(),
            metadata: metadata::write([(
                metadata::WEIGHT,
                (!is_alone).then_some(Field::Text(metadata::OF_ENDPOINTS)),
            )]),
            load_balancing_weight: Some(UInt32Value {
                value: u32::try_from(weight).unwrap_or(u32::MAX),
            }),
            ..LocalityLbEndpoints::default()
        }
    });
    ClusterLoadAssignment {
        cluster_name: cluster_name(&service.metadata.name, port),
        endpoints: localities.collect(),
        ..ClusterLoadAssignment::default()
    }
}

/// A place: a node is what Envoy calls a sub-zone.
fn locality(place: &Place) -> Locality {
    let text = |part: &Option<Arc<str>>| part.as_deref().unwrap_or_default().to_owned();
    Locality {
        region: text(&place.region),
        zone: text(&place.zone),
        sub_zone: text(&place.node),
    }
}

fn endpoint(backend: &FrontendBackend, protocol: Protocol) -> LbEndpoint {
    let status = match backend.state {
        BackendState::Active => HealthStatus::Healthy,
        BackendState::Draining => HealthStatus::Draining,
        BackendState::Unhealthy => HealthStatus::Unhealthy,
    };
    let endpoint = Endpoint {
        address: Some(socket_address(backend.addr.into(), backend.port.get(), protocol)),
        ..Endpoint::default()
    };
    let workload = backend.workload.as_ref().map(ResourceName::name);
    LbEndpoint {
        health_status: status.into(),
        metadata: metadata::write([(metadata::WORKLOAD, workload.map(Field::Text))]),
        load_balancing_weight: Some(UInt32Value {
            value: backend.weight,
        }),
        host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
    }
}
