// SPDX-License-Identifier: Apache-2.0
//! One service, its policy and its workloads to its frontends. Called by `desired`.
//!
//! Invariant: of several sources of one (address, port) one wins, the same on every node: what the service lists, else the
//! workload in the best state, else the first by name.

use std::{net::IpAddr, sync::Arc};

use nodemesh_abi::{Algorithm, ClientKeySource, Port, ServiceKey};

use crate::{
    frontend::{Frontend, FrontendBackend, FrontendName, FrontendPacket, packet_table_size, table_size},
    keyword::Family,
    resource::{LoadBalancer, Service, ServicePort, TrafficPolicy, Workload, policy::ServiceRules},
};

/// Names of the frontends of `service`.
pub(super) fn names(service: &Service) -> impl Iterator<Item = FrontendName> {
    rows(service).map(|(address, port)| FrontendName {
        service: service.metadata.name.clone(),
        port: port.port,
        protocol: port.protocol,
        family: Family::of(address),
    })
}

/// The frontends of `service` under `policy`, with `workloads` as its selected replicas.
pub fn frontends(
    service: &Service,
    policy: Option<&TrafficPolicy>,
    workloads: &[&Workload],
) -> impl Iterator<Item = Frontend> {
    let balancer = policy.map_or_else(LoadBalancer::default, |policy| policy.load_balancer);
    rows(service).map(move |(address, port)| {
        let backends = backends(service, port, Family::of(address), workloads);
        Frontend {
            key: ServiceKey::new(address.into(), Port::new(port.port), port.protocol as u8),
            service: service.metadata.name.clone(),
            model: service.model.clone(),
            port_name: port.name.clone(),
            algorithm: balancer.algorithm,
            table_size: (balancer.algorithm == Algorithm::Maglev)
                .then(|| table_size(balancer.table_size, backends.len())),
            client_key: policy.map_or(ClientKeySource::Workload, |policy| policy.client_key),
            affinity_timeout_s: policy.map_or(0, |policy| policy.affinity_timeout_s),
            access: None,
            rules: policy.map_or_else(ServiceRules::shared_default, |policy| Arc::clone(&policy.rules)),
            packet: packet(service, port, Family::of(address), balancer, backends.len()),
            backends,
        }
    })
}

fn packet(
    service: &Service,
    port: &ServicePort,
    family: Family,
    balancer: LoadBalancer,
    backends: usize,
) -> Option<FrontendPacket> {
    let packet = service.packet.as_ref()?;
    let external = packet
        .external
        .iter()
        .filter(|address| Family::of(**address) == family);
    let asked = balancer.table_size.filter(|size| backends <= *size as usize);
    Some(FrontendPacket {
        mode: packet.mode,
        node_port: port.node_port.map(Port::new),
        external: external.map(|address| (*address).into()).collect(),
        table_size: asked.unwrap_or_else(|| packet_table_size(backends)),
    })
}

fn rows(service: &Service) -> impl Iterator<Item = (IpAddr, &ServicePort)> {
    service
        .addresses
        .iter()
        .flat_map(|address| service.ports.iter().map(|port| (*address, port)))
}

fn backends(
    service: &Service,
    port: &ServicePort,
    family: Family,
    workloads: &[&Workload],
) -> Vec<FrontendBackend> {
    let listed = service
        .backends
        .iter()
        .filter(|backend| Family::of(backend.address) == family && backend.serves(port))
        .map(|backend| FrontendBackend {
            addr: backend.address.into(),
            port: Port::new(backend.port.unwrap_or(port.target_port)),
            weight: backend.weight,
            state: backend.state,
            workload: backend.workload.clone(),
            locality: backend.locality.clone(),
            is_local: false,
            tier: 0,
        })
        .map(|backend| (Source::Listed, backend));
    let selected = workloads.iter().filter_map(|workload| {
        let backend = FrontendBackend {
            addr: workload.address(family)?.into(),
            port: Port::new(port.target_port),
            weight: workload.weight,
            state: workload.state,
            workload: Some(workload.metadata.name.clone()),
            locality: workload.locality.clone(),
            is_local: false,
            tier: 0,
        };
        Some((Source::Selected, backend))
    });
    let mut backends: Vec<_> = listed.chain(selected).collect();
    backends.sort_by(|(of_a, a), (of_b, b)| {
        (a.sort_key(), of_a, a.state, &a.workload).cmp(&(b.sort_key(), of_b, b.state, &b.workload))
    });
    backends.dedup_by(|(_, later), (_, first)| later.sort_key() == first.sort_key());
    backends.into_iter().map(|(_, backend)| backend).collect()
}

/// Where a backend comes from; the first wins.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Listed,
    Selected,
}
