// SPDX-License-Identifier: Apache-2.0
//! Routes of gRPC clients: everything to the cluster of the port.
//!
//! Invariant: no timeout, since a stream of tokens may take longer than any default.

use nodemesh_model::{Service, ServicePort};

use crate::{
    names::cluster_name,
    xds::{
        envoy::config::route::v3::{
            Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route,
            route_action::ClusterSpecifier, route_match::PathSpecifier,
        },
        google::protobuf::Duration,
    },
};

pub(super) fn route(service: &Service, port: &ServicePort) -> RouteConfiguration {
    let name = cluster_name(&service.metadata.name, port);
    let action = RouteAction {
        timeout: Some(Duration::default()),
        cluster_specifier: Some(ClusterSpecifier::Cluster(name.clone())),
        ..RouteAction::default()
    };
    let all = RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
        ..RouteMatch::default()
    };
    let route = Route {
        r#match: Some(all),
        action: Some(route::Action::Route(action)),
        ..Route::default()
    };
    let host = VirtualHost {
        name: name.clone(),
        domains: vec!["*".to_owned()],
        routes: vec![route],
        ..VirtualHost::default()
    };
    RouteConfiguration {
        name,
        virtual_hosts: vec![host],
        ..RouteConfiguration::default()
    }
}
