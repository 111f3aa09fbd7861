// SPDX-License-Identifier: Apache-2.0
//! Listeners: of a virtual address and port for agents and proxies, of a name for gRPC clients.
//!
//! Invariant: a proxy that takes one may bind it although the address is on no interface (`freebind`).

use std::net::IpAddr;

use nodemesh_abi::{Algorithm, Protocol};
use nodemesh_model::{Family, Frontend, Keyword as _, Service, ServicePort};

use super::ads;
use crate::{
    metadata::{self, Field},
    names::{api_listener_name, cluster_name, listener_name},
    pack::any,
    rules::rate_limit,
    xds::{
        envoy::{
            config::{
                core::v3::{
                    Address, Metadata, SocketAddress, TrafficDirection, UdpSocketConfig,
                    address::Address as AddressKind,
                    socket_address::{PortSpecifier, Protocol as Transport},
                },
                listener::v3::{
                    ApiListener, Filter, FilterChain, Listener, ListenerFilter, UdpListenerConfig, filter,
                    listener_filter,
                },
            },
            extensions::filters::{
                http::router::v3::Router,
                network::{
                    http_connection_manager::v3::{
                        HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier,
                        http_filter,
                    },
                    tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier},
                },
                udp::udp_proxy::v3::{Route, UdpProxyConfig, udp_proxy_config},
            },
            r#type::v3::{
                HashPolicy,
                hash_policy::{PolicySpecifier, SourceIp},
            },
        },
        google::protobuf::{Any, BoolValue},
        xds::{
            core::v3::TypedExtensionConfig,
            r#type::matcher::v3::{
                Matcher,
                matcher::{OnMatch, on_match},
            },
        },
    },
};

const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
const LOCAL_RATELIMIT: &str = "envoy.filters.network.local_ratelimit";
const UDP_PROXY: &str = "envoy.filters.udp_listener.udp_proxy";
const ROUTER: &str = "envoy.filters.http.router";

pub(super) fn listener(service: &Service, port: &ServicePort, frontend: &Frontend) -> Listener {
    let address = IpAddr::from(frontend.key.addr);
    let cluster = cluster_name(&service.metadata.name, port);
    let listener = Listener {
        name: listener_name(&service.metadata.name, port, Family::of(address)),
        address: Some(socket_address(address, port.port, port.protocol)),
        metadata: service_metadata(service, port),
        traffic_direction: TrafficDirection::Outbound.into(),
        freebind: Some(BoolValue { value: true }),
        ..Listener::default()
    };
    match port.protocol {
        Protocol::Tcp => {
            let rate = rate_limit::write(frontend.rules.kernel.rate, &cluster);
            let rate = rate.map(|wire| network_filter(LOCAL_RATELIMIT, any(&wire)));
            let proxy = network_filter(TCP_PROXY, tcp_proxy(cluster, frontend));
            let chain = FilterChain {
                filters: rate.into_iter().chain([proxy]).collect(),
                ..FilterChain::default()
            };
            Listener {
                filter_chains: vec![chain],
                ..listener
            }
        }
        Protocol::Udp => {
            let filter = ListenerFilter {
                name: UDP_PROXY.to_owned(),
                config_type: Some(listener_filter::ConfigType::TypedConfig(udp_proxy(cluster))),
                ..ListenerFilter::default()
            };
            let sockets = UdpListenerConfig {
                downstream_socket_config: Some(UdpSocketConfig::default()),
                ..UdpListenerConfig::default()
            };
            Listener {
                listener_filters: vec![filter],
                udp_listener_config: Some(sockets),
                ..listener
            }
        }
    }
}

fn network_filter(name: &str, config: Any) -> Filter {
    Filter {
        name: name.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    }
}

/// `address` and `port` as Envoy writes them.
pub(super) fn socket_address(address: IpAddr, port: u16, protocol: Protocol) -> Address {
    let protocol = match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
    };
    let socket = SocketAddress {
        protocol: protocol.into(),
        address: address.to_string(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..SocketAddress::default()
    };
    Address {
        address: Some(AddressKind::SocketAddress(socket)),
    }
}

fn service_metadata(service: &Service, port: &ServicePort) -> Option<Metadata> {
    let name = &service.metadata.name;
    let packet = service.packet.as_ref();
    let external: Vec<String> = packet
        .iter()
        .flat_map(|packet| packet.external.iter().map(ToString::to_string))
        .collect();
    let external = external.join(",");
    metadata::write([
        (metadata::NAMESPACE, Some(Field::Text(name.namespace()))),
        (metadata::NAME, Some(Field::Text(name.name()))),
        (metadata::MODEL, service.model.as_deref().map(Field::Text)),
        (metadata::PORT_NAME, port.name.as_deref().map(Field::Text)),
        (
            metadata::PACKET_PATH,
            packet.map(|packet| Field::Text(packet.mode.word())),
        ),
        (
            metadata::EXTERNAL_ADDRESSES,
            (!external.is_empty()).then_some(Field::Text(&external)),
        ),
        (
            metadata::NODE_PORT,
            port.node_port.map(|port| Field::Number(port.into())),
        ),
    ])
}

fn tcp_proxy(cluster: String, frontend: &Frontend) -> Any {
    // A proxy hashes the address of its client in any case: it cannot see a cgroup.
    let source = PolicySpecifier::SourceIp(SourceIp {});
    let hash = (frontend.algorithm == Algorithm::Maglev).then_some(HashPolicy {
        policy_specifier: Some(source),
    });
    any(&TcpProxy {
        stat_prefix: cluster.clone(),
        hash_policy: hash.into_iter().collect(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
        ..TcpProxy::default()
    })
}

fn udp_proxy(cluster: String) -> Any {
    let stat_prefix = cluster.clone();
    let route = TypedExtensionConfig {
        name: "route".to_owned(),
        typed_config: Some(any(&Route { cluster })),
    };
    let always = OnMatch {
        on_match: Some(on_match::OnMatch::Action(route)),
        ..OnMatch::default()
    };
    let matcher = Matcher {
        on_no_match: Some(Box::new(always)),
        matcher_type: None,
    };
    any(&UdpProxyConfig {
        stat_prefix,
        route_specifier: Some(udp_proxy_config::RouteSpecifier::Matcher(matcher)),
        ..UdpProxyConfig::default()
    })
}

pub(super) fn api_listener(service: &Service, port: &ServicePort) -> Listener {
    let route = cluster_name(&service.metadata.name, port);
    let router = HttpFilter {
        name: ROUTER.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(&Router::default()))),
        ..HttpFilter::default()
    };
    let http = HttpConnectionManager {
        stat_prefix: route.clone(),
        http_filters: vec![router],
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: route,
        })),
        ..HttpConnectionManager::default()
    };
    Listener {
        name: api_listener_name(&service.metadata.name, port),
        api_listener: Some(ApiListener {
            api_listener: Some(any(&http)),
        }),
        metadata: service_metadata(service, port),
        ..Listener::default()
    }
}
