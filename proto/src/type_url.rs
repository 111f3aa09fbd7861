// SPDX-License-Identifier: Apache-2.0
//! Type URLs of the resources, as they stand in discovery requests and responses. Used by servers, clients and `from_xds`.
//!
//! Invariant: each is that of the message's own name.

/// `envoy.config.listener.v3.Listener`.
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// `envoy.config.route.v3.RouteConfiguration`.
pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// `envoy.config.cluster.v3.Cluster`.
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
pub const ASSIGNMENT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// [`crate::v1::WorkloadTable`].
pub const WORKLOAD_TABLE: &str = "type.googleapis.com/nodemesh.v1.WorkloadTable";
/// [`crate::v1::PolicyDocument`].
pub const POLICY_DOCUMENT: &str = "type.googleapis.com/nodemesh.v1.PolicyDocument";

#[cfg(test)]
mod tests {
    use prost::Name;

    use super::*;
    use crate::{
        v1::{PolicyDocument, WorkloadTable},
        xds::envoy::config::{
            cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
            route::v3::RouteConfiguration,
        },
    };

    #[test]
    fn each_is_that_of_its_message() {
        assert_eq!(LISTENER, Listener::type_url());
        assert_eq!(ROUTE, RouteConfiguration::type_url());
        assert_eq!(CLUSTER, Cluster::type_url());
        assert_eq!(ASSIGNMENT, ClusterLoadAssignment::type_url());
        assert_eq!(WORKLOAD_TABLE, WorkloadTable::type_url());
        assert_eq!(POLICY_DOCUMENT, PolicyDocument::type_url());
    }
}
