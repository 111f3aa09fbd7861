// SPDX-License-Identifier: Apache-2.0
//! Resources in the manner of Envoy's users, for the tests beside: as little as Envoy takes.

use crate::{
    pack::any,
    xds::{
        envoy::{
            config::{
                cluster::v3::{
                    Cluster,
                    cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig},
                },
                core::v3::{
                    Address, AggregatedConfigSource, ConfigSource, HealthStatus, SocketAddress,
                    address::Address as Kind, config_source::ConfigSourceSpecifier,
                    socket_address::PortSpecifier,
                },
                endpoint::v3::{
                    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
                    lb_endpoint::HostIdentifier,
                },
                listener::v3::{Filter, FilterChain, Listener, filter},
            },
            extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier},
        },
        google::protobuf::{Any, Duration},
    },
};

pub(super) fn address(ip: &str, port: u32) -> Address {
    let socket = SocketAddress {
        address: ip.to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..SocketAddress::default()
    };
    Address {
        address: Some(Kind::SocketAddress(socket)),
    }
}

pub(super) fn filter(name: &str, config: Any) -> Filter {
    Filter {
        name: name.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    }
}

pub(super) fn tcp_proxy(cluster: ClusterSpecifier) -> TcpProxy {
    TcpProxy {
        stat_prefix: "ingress_tcp".to_owned(),
        cluster_specifier: Some(cluster),
        ..TcpProxy::default()
    }
}

pub(super) fn chain(filters: Vec<Filter>) -> FilterChain {
    FilterChain {
        filters,
        ..FilterChain::default()
    }
}

pub(super) fn listener_of(name: &str, ip: &str, port: u32, proxy: &TcpProxy) -> Listener {
    Listener {
        name: name.to_owned(),
        address: Some(address(ip, port)),
        filter_chains: vec![chain(vec![filter("envoy.filters.network.tcp_proxy", any(proxy))])],
        ..Listener::default()
    }
}

pub(super) fn listener(name: &str, ip: &str, port: u32, cluster: &str) -> Listener {
    listener_of(
        name,
        ip,
        port,
        &tcp_proxy(ClusterSpecifier::Cluster(cluster.to_owned())),
    )
}

pub(super) fn endpoint(ip: &str, port: u32) -> LbEndpoint {
    let endpoint = Endpoint {
        address: Some(address(ip, port)),
        ..Endpoint::default()
    };
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
        ..LbEndpoint::default()
    }
}

pub(super) fn with_health(ip: &str, status: HealthStatus) -> LbEndpoint {
    LbEndpoint {
        health_status: status.into(),
        ..endpoint(ip, 8000)
    }
}

pub(super) fn assignment(cluster: &str, lb_endpoints: Vec<LbEndpoint>) -> ClusterLoadAssignment {
    let endpoints = vec![LocalityLbEndpoints {
        lb_endpoints,
        ..LocalityLbEndpoints::default()
    }];
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints,
        ..ClusterLoadAssignment::default()
    }
}

pub(super) fn eds_cluster(name: &str) -> Cluster {
    let ads = ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    };
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads),
            ..EdsClusterConfig::default()
        }),
        connect_timeout: Some(Duration { seconds: 5, nanos: 0 }),
        ..Cluster::default()
    }
}

pub(super) fn static_cluster(name: &str, endpoints: Vec<LbEndpoint>) -> Cluster {
    Cluster {
        name: name.to_owned(),
        load_assignment: Some(assignment(name, endpoints)),
        ..Cluster::default()
    }
}
