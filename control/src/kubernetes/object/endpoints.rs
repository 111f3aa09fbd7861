// SPDX-License-Identifier: Apache-2.0
//! An `EndpointSlice`: some of the replicas of a Service. Read by `reflect`, translated by `translate::endpoints`.
//!
//! Invariant: the conditions have the meaning that the API gives to absent ones: ready and serving unless it says otherwise,
//! terminating only if it says so.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice as Api};

/// Label with the name of the Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Some replicas of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointSlice {
    /// Name of the Service, in the namespace of the slice; `None` for one that belongs to none.
    pub(crate) service: Option<String>,
    pub(crate) ports: Vec<EndpointPort>,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// A port of all replicas of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointPort {
    /// Name of the port of the Service; empty if that has none.
    pub(crate) name: String,
    /// `None` for all ports.
    pub(crate) port: Option<i32>,
    pub(crate) protocol: String,
}

/// A replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) is_ready: bool,
    pub(crate) is_serving: bool,
    pub(crate) is_terminating: bool,
    pub(crate) node: Option<String>,
    pub(crate) zone: Option<String>,
    /// Zones whose clients it is meant for (`hints.forZones`); empty if that is not said.
    pub(crate) for_zones: Vec<String>,
    /// Nodes whose clients it is meant for (`hints.forNodes`).
    pub(crate) for_nodes: Vec<String>,
    /// Name of the pod, in the namespace of the slice.
    pub(crate) pod: Option<String>,
}

impl From<Api> for EndpointSlice {
    fn from(mut api: Api) -> Self {
        let labels = api.metadata.labels.as_mut();
        let ports = api.ports.unwrap_or_default().into_iter();
        Self {
            service: labels.and_then(|labels| labels.remove(SERVICE_NAME)),
            ports: ports
                .map(|port| EndpointPort {
                    name: port.name.unwrap_or_default(),
                    port: port.port,
                    protocol: port.protocol.unwrap_or_else(|| "TCP".to_owned()),
                })
                .collect(),
            endpoints: api.endpoints.into_iter().filter_map(endpoint).collect(),
        }
    }
}

/// The API document lets an endpoint have several addresses and says that consumers use the first one only. One whose first
/// address is a name (`addressType: FQDN`) cannot be reached by address.
fn endpoint(api: ApiEndpoint) -> Option<Endpoint> {
    let address = api.addresses.first()?.parse().ok()?;
    let conditions = api.conditions.unwrap_or_default();
    let is_ready = conditions.ready.unwrap_or(true);
    let pod = api
        .target_ref
        .filter(|target| target.kind.as_deref() == Some("Pod"))
        .and_then(|target| target.name);
    let hints = api.hints.unwrap_or_default();
    let zones = hints.for_zones.into_iter().flatten();
    let nodes = hints.for_nodes.into_iter().flatten();
    Some(Endpoint {
        address,
        is_ready,
        is_serving: conditions.serving.unwrap_or(is_ready),
        is_terminating: conditions.terminating.unwrap_or(false),
        node: api.node_name,
        zone: api.zone,
        for_zones: zones.map(|zone| zone.name).collect(),
        for_nodes: nodes.map(|node| node.name).collect(),
        pod,
    })
}
