// SPDX-License-Identifier: Apache-2.0
//! Endpoints: the replicas behind a port, of all its virtual addresses.
//!
//! Invariant: one locality, without a name and of weight 1 (gRPC drops one without a weight); an address and port occurs once,
//! because an address has one family and a family one frontend.

use nodemesh_abi::Protocol;
use nodemesh_model::{BackendState, Frontend, FrontendBackend, ResourceName, Service, ServicePort};

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
    let backends = frontends.iter().flat_map(|frontend| &frontend.backends);
    let locality = LocalityLbEndpoints {
        locality: Some(Locality::default()),
        lb_endpoints: backends.map(|backend| endpoint(backend, port.protocol)).collect(),
        load_balancing_weight: Some(UInt32Value { value: 1 }),
        ..LocalityLbEndpoints::default()
    };
    ClusterLoadAssignment {
        cluster_name: cluster_name(&service.metadata.name, port),
        endpoints: vec![locality],
        ..ClusterLoadAssignment::default()
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
