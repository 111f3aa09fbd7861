// SPDX-License-Identifier: Apache-2.0
//! The model as xDS resources. Called by the control plane for each service or workload that changed.
//!
//! ```text
//! Service, its Workloads, its TrafficPolicy --model::desired::frontends--> frontends
//!   frontend (address, port)  -> Listener            port (TCP) -> Listener for gRPC clients, RouteConfiguration
//!   port                      -> Cluster, ClusterLoadAssignment
//! what these do not express   -> PolicyDocument
//! ```
//!
//! Invariant: the resources of a service depend on nothing but the arguments, and names are those of `names`.

use std::collections::BTreeMap;

use nodemesh_abi::Protocol;
use nodemesh_model::{Frontend, Service, ServicePort, TrafficPolicy, Workload, desired};

use crate::{
    rules,
    v1::PolicyDocument,
    xds::envoy::config::{
        cluster::v3::Cluster,
        core::v3::{AggregatedConfigSource, ApiVersion, ConfigSource, config_source::ConfigSourceSpecifier},
        endpoint::v3::ClusterLoadAssignment,
        listener::v3::Listener,
        route::v3::RouteConfiguration,
    },
};

mod cluster;
mod endpoints;
mod listener;
mod policy;
mod route;
mod workload;

pub use policy::access_policy;
pub use workload::{Rows, workload, workload_table};

/// The xDS resources of one service, each list in a stable order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceResources {
    /// One per virtual address and port: for agents and proxies.
    pub listeners: Vec<Listener>,
    /// One per TCP port: for gRPC clients, which ask for them by name. Envoy has no use for them.
    pub api_listeners: Vec<Listener>,
    /// One per port.
    pub clusters: Vec<Cluster>,
    /// One per port, of the same names as the clusters.
    pub assignments: Vec<ClusterLoadAssignment>,
    /// One per TCP port, of the same names as the clusters: for `api_listeners`.
    pub routes: Vec<RouteConfiguration>,
    /// What these do not express, by name: the clusters refer to it.
    pub policy: Option<(String, PolicyDocument)>,
}

/// The resources of `service` under `policy`, with `workloads` as the ones it selects ([`desired::selected`]).
pub fn resources(
    service: &Service,
    workloads: &[&Workload],
    policy: Option<&TrafficPolicy>,
) -> ServiceResources {
    let frontends: Vec<_> = desired::frontends(service, policy, workloads).collect();
    compiled_resources(service, &frontends, policy)
}

/// The resources of `service` from its compiled frontends ([`nodemesh_model::Desired::frontends_of`]) under `policy`.
pub fn compiled_resources<'a>(
    service: &Service,
    frontends: impl IntoIterator<Item = &'a Frontend>,
    policy: Option<&TrafficPolicy>,
) -> ServiceResources {
    let mut by_port: BTreeMap<(u16, Protocol), Vec<&Frontend>> = BTreeMap::new();
    for frontend in frontends {
        let port = (frontend.key.port.get(), frontend.protocol());
        by_port.entry(port).or_default().push(frontend);
    }
    let mut resources = ServiceResources::default();
    if let Some(policy) = policy {
        resources.policy = rules::unexpressed(service, policy.load_balancer.algorithm, &policy.rules);
    }
    for port in &service.ports {
        let frontends = by_port.remove(&(port.port, port.protocol)).unwrap_or_default();
        resources.add(service, port, &frontends, policy);
    }
    resources
}

impl ServiceResources {
    fn add(
        &mut self,
        service: &Service,
        port: &ServicePort,
        frontends: &[&Frontend],
        policy: Option<&TrafficPolicy>,
    ) {
        let listeners = frontends
            .iter()
            .map(|frontend| listener::listener(service, port, frontend));
        self.listeners.extend(listeners);
        let document = self.policy.as_ref().map(|(name, _)| name.as_str());
        self.clusters
            .push(cluster::cluster(service, port, policy, document));
        self.assignments
            .push(endpoints::assignment(service, port, frontends));
        if port.protocol == Protocol::Tcp {
            self.api_listeners.push(listener::api_listener(service, port));
            self.routes.push(route::route(service, port));
        }
    }
}

/// "Over the stream that this came on."
fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}
