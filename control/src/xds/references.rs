// SPDX-License-Identifier: Apache-2.0
//! Which resources a resource refers to by name.
//!
//! Used once per resource, when it enters the cache. What is not understood (a filter of another kind, bytes that do not decode)
//! refers to nothing: it is served without being ordered after anything.

use std::collections::BTreeSet;

use nodemesh_proto::xds::{
    envoy::{
        config::{
            cluster::v3::{Cluster, cluster},
            listener::v3::{Listener, filter},
            route::v3::{RouteAction, RouteConfiguration, route, route_action},
        },
        extensions::filters::network::{
            http_connection_manager::v3::{HttpConnectionManager, http_connection_manager::RouteSpecifier},
            tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier},
        },
    },
    google::protobuf::Any,
};
use prost::{Message, Name as _};

use super::{resource::Name, type_url::TypeUrl};

type Found = BTreeSet<(TypeUrl, Name)>;

/// The references of a cluster, a listener or a route configuration.
pub(super) fn of(any: &Any) -> Box<[(TypeUrl, Name)]> {
    let mut found = Found::new();
    match TypeUrl::from(any.type_url.as_str()) {
        TypeUrl::Cluster => decode(any, |cluster: Cluster| endpoints(cluster, &mut found)),
        TypeUrl::Listener => decode(any, |listener: Listener| filters(listener, &mut found)),
        TypeUrl::Route => decode(any, |routes: RouteConfiguration| clusters(routes, &mut found)),
        TypeUrl::Endpoints | TypeUrl::Workloads | TypeUrl::Policies | TypeUrl::Other(_) => {}
    }
    found.into_iter().collect()
}

fn decode<M: Message + Default>(any: &Any, then: impl FnOnce(M)) {
    if let Ok(message) = M::decode(any.value.as_slice()) {
        then(message);
    }
}

fn endpoints(cluster: Cluster, found: &mut Found) {
    let by_eds = cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds.into());
    if cluster.cluster_discovery_type != Some(by_eds) {
        return;
    }
    let service = cluster.eds_cluster_config.map(|eds| eds.service_name);
    let name = service
        .filter(|service| !service.is_empty())
        .unwrap_or(cluster.name);
    found.insert((TypeUrl::Endpoints, name.into()));
}

fn filters(listener: Listener, found: &mut Found) {
    let chains = listener
        .filter_chains
        .into_iter()
        .chain(listener.default_filter_chain);
    let filters = chains.flat_map(|chain| chain.filters);
    let typed = filters.filter_map(|filter| match filter.config_type {
        Some(filter::ConfigType::TypedConfig(any)) => Some(any),
        _ => None,
    });
    let api = listener.api_listener.and_then(|api| api.api_listener);
    for any in typed.chain(api) {
        if any.type_url == TcpProxy::type_url() {
            decode(&any, |proxy: TcpProxy| proxied(proxy, found));
        } else if any.type_url == HttpConnectionManager::type_url() {
            decode(&any, |manager: HttpConnectionManager| routed(manager, found));
        }
    }
}

fn proxied(proxy: TcpProxy, found: &mut Found) {
    let names = match proxy.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![name],
        Some(ClusterSpecifier::WeightedClusters(split)) => {
            split.clusters.into_iter().map(|cluster| cluster.name).collect()
        }
        None => Vec::new(),
    };
    found.extend(names.into_iter().map(cluster));
}

fn routed(manager: HttpConnectionManager, found: &mut Found) {
    match manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => {
            found.insert((TypeUrl::Route, rds.route_config_name.into()));
        }
        Some(RouteSpecifier::RouteConfig(routes)) => clusters(routes, found),
        Some(RouteSpecifier::ScopedRoutes(_)) | None => {}
    }
}

fn clusters(routes: RouteConfiguration, found: &mut Found) {
    let routes = routes.virtual_hosts.into_iter().flat_map(|host| host.routes);
    let actions = routes.filter_map(|route| match route.action {
        Some(route::Action::Route(action)) => Some(action),
        _ => None,
    });
    found.extend(actions.flat_map(chosen).map(cluster));
}

fn chosen(action: RouteAction) -> Vec<String> {
    match action.cluster_specifier {
        Some(route_action::ClusterSpecifier::Cluster(name)) => vec![name],
        Some(route_action::ClusterSpecifier::WeightedClusters(split)) => {
            split.clusters.into_iter().map(|cluster| cluster.name).collect()
        }
        _ => Vec::new(),
    }
}

fn cluster(name: String) -> (TypeUrl, Name) {
    (TypeUrl::Cluster, name.into())
}
