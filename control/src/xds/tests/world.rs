// SPDX-License-Identifier: Apache-2.0
//! Consistent sets of resources: what a listener leads to is always there.

use std::{collections::BTreeMap, sync::Arc};

use nodemesh_proto::xds::{
    envoy::{
        config::{
            cluster::v3::{Cluster, cluster},
            endpoint::v3::{ClusterLoadAssignment, LocalityLbEndpoints},
            listener::v3::{Filter, FilterChain, Listener, filter},
            route::v3::{Route, RouteAction, RouteConfiguration, VirtualHost, route, route_action},
        },
        extensions::filters::network::{
            http_connection_manager::v3::{
                HttpConnectionManager, Rds, http_connection_manager::RouteSpecifier,
            },
            tcp_proxy::v3::{TcpProxy, tcp_proxy},
        },
    },
    google::protobuf::Any,
};
use prost::Message;

use crate::xds::{Cache, Change, Resource, Snapshot, TypeUrl};

/// Clusters and listeners that can be.
pub(super) const COUNT: usize = 6;

/// Where a listener leads.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// To a cluster.
    Cluster(usize),
    /// To a route configuration of its own, and that to a cluster.
    Route(usize),
}

/// What there should be.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    /// By number.
    pub(super) listeners: [Option<Target>; COUNT],
    /// Content of each cluster.
    pub(super) clusters: [u8; COUNT],
    /// Content of each cluster's endpoints.
    pub(super) endpoints: [u8; COUNT],
}

impl World {
    pub(super) fn resources(&self) -> BTreeMap<(TypeUrl, String), Any> {
        let mut all = BTreeMap::new();
        for (number, target) in self.listeners.iter().enumerate() {
            let (Some(Target::Cluster(to) | Target::Route(to)), name) = (target, format!("l{number}")) else {
                continue;
            };
            let cluster = format!("c{to}");
            if let Some(Target::Route(_)) = target {
                let route = format!("r{number}");
                all.insert((TypeUrl::Listener, name.clone()), http_listener(&name, &route));
                all.insert((TypeUrl::Route, route.clone()), routes(&route, &cluster));
            } else {
                all.insert((TypeUrl::Listener, name.clone()), tcp_listener(&name, &cluster));
            }
            let assignment = endpoints(&cluster, self.endpoints[*to]);
            all.insert(
                (TypeUrl::Cluster, cluster.clone()),
                eds_cluster(&cluster, self.clusters[*to]),
            );
            all.insert((TypeUrl::Endpoints, cluster), assignment);
        }
        all
    }
}

/// A cache, and what was put there.
#[derive(Debug, Default)]
pub(super) struct Source {
    cache: Cache,
    revision: u64,
    published: BTreeMap<(TypeUrl, String), Any>,
}

impl Source {
    /// Brings the cache to this state in one commit.
    pub(super) fn publish(&mut self, next: BTreeMap<(TypeUrl, String), Any>) {
        let gone = self.published.keys().filter(|key| !next.contains_key(key));
        let removals = gone.map(|(type_url, name)| Change::Remove(type_url.clone(), name.as_str().into()));
        let puts = next.iter().map(|((type_url, name), any)| {
            let resource = Arc::new(Resource::new(any.clone()));
            Change::Put(type_url.clone(), name.as_str().into(), resource)
        });
        let changes: Vec<Change> = removals.chain(puts).collect();
        self.revision += 1;
        self.cache.commit(self.revision, changes);
        self.published = next;
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.cache.subscribe().borrow().clone()
    }
}

fn packed<M: Message + prost::Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

pub(super) fn eds_cluster(name: &str, content: u8) -> Any {
    packed(&Cluster {
        name: name.to_owned(),
        alt_stat_name: content.to_string(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Eds.into(),
        )),
        ..Cluster::default()
    })
}

pub(super) fn endpoints(name: &str, content: u8) -> Any {
    packed(&ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            priority: content.into(),
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    })
}

fn listener(name: &str, filter: Any) -> Any {
    let filters = vec![Filter {
        config_type: Some(filter::ConfigType::TypedConfig(filter)),
        ..Filter::default()
    }];
    packed(&Listener {
        name: name.to_owned(),
        filter_chains: vec![FilterChain {
            filters,
            ..FilterChain::default()
        }],
        ..Listener::default()
    })
}

pub(super) fn tcp_listener(name: &str, cluster: &str) -> Any {
    let proxy = TcpProxy {
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..TcpProxy::default()
    };
    listener(name, packed(&proxy))
}

pub(super) fn http_listener(name: &str, route: &str) -> Any {
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            route_config_name: route.to_owned(),
            ..Rds::default()
        })),
        ..HttpConnectionManager::default()
    };
    listener(name, packed(&manager))
}

pub(super) fn routes(name: &str, cluster: &str) -> Any {
    let action = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..RouteAction::default()
    };
    packed(&RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![VirtualHost {
            routes: vec![Route {
                action: Some(route::Action::Route(action)),
                ..Route::default()
            }],
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    })
}
