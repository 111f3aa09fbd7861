// SPDX-License-Identifier: Apache-2.0
//! Names of the xDS resources of a service.
//!
//! Invariant: they are unique per type, because `/` and `:` occur in no name of a service and TCP is the protocol that is left
//! out.

use nodemesh_abi::Protocol;
use nodemesh_model::{Family, Keyword as _, Kind, ResourceName, ServicePort};

/// What `nodemesh-control` calls itself in its responses (`control_plane.identifier`): an agent that reads it waits for what guards
/// services, which other control planes need not know.
pub const CONTROL_PLANE: &str = "nodemesh-control";

/// Name of the `Cluster`, the `ClusterLoadAssignment` and the `RouteConfiguration` of a port: `models/llama/8000`, and
/// `models/llama/8000/udp` for UDP.
pub fn cluster_name(service: &ResourceName, port: &ServicePort) -> String {
    let suffix = match port.protocol {
        Protocol::Tcp => "",
        Protocol::Udp => "/udp",
    };
    format!("{service}/{}{suffix}", port.port)
}

/// Name of the Listener of a virtual address and port: that of the cluster, and `/v4` or `/v6`.
pub fn listener_name(service: &ResourceName, port: &ServicePort, family: Family) -> String {
    let family = match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    };
    format!("{}/{family}", cluster_name(service, port))
}

/// Name of the document of a policy: `AccessPolicy/models/chat`; of a `TrafficPolicy` with the name of the service that it is for.
pub fn policy_name(kind: Kind, name: &ResourceName) -> String {
    format!("{}/{name}", kind.word())
}

/// Name of the Listener that a gRPC client asks for when it dials `xds:///llama.models:8000`.
pub fn api_listener_name(service: &ResourceName, port: &ServicePort) -> String {
    format!("{}.{}:{}", service.name(), service.namespace(), port.port)
}
