// SPDX-License-Identifier: Apache-2.0
//! A Service of the cluster. Read by `reflect`, translated by `translate::service`.
//!
//! Invariant: what is not understood (a protocol, a port that is no port) is kept as it is, so that the translation can name it.

use std::net::IpAddr;

use k8s_openapi::{
    api::core::v1::{Service as Api, ServicePort as ApiPort},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Labels, addresses};

/// How clients reach a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// By these cluster IPs.
    ClusterIps(Vec<IpAddr>),
    /// By the addresses of its pods: `clusterIP: None`.
    Headless,
    /// By another name: `type: ExternalName`.
    ExternalName,
    /// Not yet: its cluster IP is not there.
    Pending,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) labels: Labels,
    pub(crate) annotations: Labels,
    pub(crate) reach: Reach,
    /// `externalIPs`, and what load balancers answer at.
    pub(crate) external_ips: Vec<IpAddr>,
    pub(crate) ports: Vec<Port>,
    /// Seconds that a client stays with its replica: `sessionAffinity: ClientIP`.
    pub(crate) affinity_s: Option<u32>,
    pub(crate) traffic_distribution: Option<String>,
    /// `internalTrafficPolicy: Local`.
    pub(crate) is_local_only: bool,
    pub(crate) selector: Labels,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    /// Empty if it has none.
    pub(crate) name: String,
    pub(crate) number: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub(crate) protocol: String,
    /// `None` if it is the name of a port of the pods.
    pub(crate) target: Option<i32>,
    /// The port at which every node answers.
    pub(crate) on_nodes: Option<i32>,
}

/// What the API server takes if `sessionAffinityConfig` does not say.
const DEFAULT_AFFINITY_S: u32 = 10_800;

impl From<Api> for Service {
    fn from(api: Api) -> Self {
        let spec = api.spec.unwrap_or_default();
        let balancer = api.status.and_then(|status| status.load_balancer);
        let ingress = balancer.and_then(|balancer| balancer.ingress).unwrap_or_default();
        let mut external = spec.external_ips.unwrap_or_default();
        external.extend(ingress.into_iter().filter_map(|point| point.ip));
        let cluster_ips = spec.cluster_ips.or(spec.cluster_ip.map(|ip| vec![ip]));
        let affinity_s = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let config = spec.session_affinity_config.and_then(|config| config.client_ip);
            let seconds = config.and_then(|client_ip| client_ip.timeout_seconds);
            seconds.map_or(DEFAULT_AFFINITY_S, |seconds| u32::try_from(seconds).unwrap_or(0))
        });
        Self {
            labels: api.metadata.labels.unwrap_or_default(),
            annotations: api.metadata.annotations.unwrap_or_default(),
            reach: reach(spec.type_.as_deref(), &cluster_ips.unwrap_or_default()),
            external_ips: addresses(&external),
            ports: spec.ports.unwrap_or_default().into_iter().map(port).collect(),
            affinity_s,
            traffic_distribution: spec.traffic_distribution,
            is_local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
            selector: spec.selector.unwrap_or_default(),
        }
    }
}

fn reach(kind: Option<&str>, cluster_ips: &[String]) -> Reach {
    if kind == Some("ExternalName") {
        return Reach::ExternalName;
    }
    if cluster_ips.iter().any(|ip| ip == "None") {
        return Reach::Headless;
    }
    let cluster_ips = addresses(cluster_ips);
    if cluster_ips.is_empty() {
        return Reach::Pending;
    }
    Reach::ClusterIps(cluster_ips)
}

fn port(api: ApiPort) -> Port {
    Port {
        name: api.name.unwrap_or_default(),
        number: api.port,
        protocol: api.protocol.unwrap_or_else(|| "TCP".to_owned()),
        target: match api.target_port {
            Some(IntOrString::Int(number)) => Some(number),
            Some(IntOrString::String(_)) => None,
            None => Some(api.port),
        },
        on_nodes: api.node_port,
    }
}
