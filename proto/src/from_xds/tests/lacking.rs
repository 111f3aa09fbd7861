// SPDX-License-Identifier: Apache-2.0
//! What Envoy has and nodemesh lacks: it is told, and the rest is taken.

use super::{
    envoy::{chain, endpoint, filter, listener, static_cluster, tcp_proxy},
    wire::{Sent, all_told, named, received, unsupported},
};
use crate::{
    from_xds::Received,
    pack::any,
    xds::{
        envoy::{
            config::{
                cluster::v3::{
                    CircuitBreakers, Cluster, OutlierDetection,
                    circuit_breakers::Thresholds,
                    cluster::{ClusterDiscoveryType, DiscoveryType},
                },
                core::v3::{HealthCheck, TransportSocket, transport_socket},
                listener::v3::{FilterChain, FilterChainMatch, Listener},
            },
            extensions::{
                filters::network::{
                    ext_authz::v3::ExtAuthz,
                    http_connection_manager::v3::HttpConnectionManager,
                    rbac::v3::Rbac,
                    tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier},
                },
                transport_sockets::tls::v3::DownstreamTlsContext,
            },
        },
        google::protobuf::{BoolValue, Duration, UInt32Value},
    },
};

fn outliers() -> OutlierDetection {
    OutlierDetection {
        always_eject_one_host: Some(BoolValue { value: true }),
        ..OutlierDetection::default()
    }
}

fn assembled_of(messages: &[Sent]) -> crate::from_xds::Assembled {
    received(messages).assemble()
}

#[test]
fn what_nodemesh_lacks_is_told() {
    let tls = TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(
            &DownstreamTlsContext::default(),
        ))),
    };
    let proxy = TcpProxy {
        idle_timeout: Some(Duration {
            seconds: 30,
            nanos: 0,
        }),
        ..tcp_proxy(ClusterSpecifier::Cluster("c".to_owned()))
    };
    let filters = vec![
        filter("rbac", any(&Rbac::default())),
        filter("envoy.filters.network.tcp_proxy", any(&proxy)),
    ];
    let listener = Listener {
        filter_chains: vec![FilterChain {
            transport_socket: Some(tls),
            ..chain(filters)
        }],
        ..listener("l", "10.96.0.10", 80, "c")
    };
    let limits = |max_connections| CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: Some(UInt32Value {
                value: max_connections,
            }),
            ..Thresholds::default()
        }],
        ..CircuitBreakers::default()
    };
    let cluster = Cluster {
        circuit_breakers: Some(limits(100)),
        outlier_detection: Some(outliers()),
        health_checks: vec![HealthCheck::default()],
        ..static_cluster("c", vec![endpoint("10.1.0.1", 80)])
    };
    let unlimited = Cluster {
        circuit_breakers: Some(limits(u32::MAX)),
        ..static_cluster("unlimited", vec![])
    };
    let assembled = assembled_of(&[named(listener), named(cluster), named(unlimited)]);
    assert_eq!(
        unsupported(&assembled),
        [
            "Listener filter_chains[0].transport_socket: ignored",
            "Listener filter_chains[0].filters[0][\"envoy.extensions.filters.network.rbac.v3.RBAC\"]: ignored",
            "Listener filter_chains[0].filters[1].typed_config.idle_timeout: ignored",
            "Cluster outlier_detection.always_eject_one_host: ignored",
            "Cluster health_checks[0]: ignored",
        ]
    );
    assert_eq!(
        all_told(&assembled),
        ["10.96.0.10:80/TCP round-robin: 10.1.0.1:80 x1"]
    );
}

#[test]
fn a_listener_that_says_who_may_connect_is_left_out() {
    let rules = Rbac {
        rules: Some(crate::xds::envoy::config::rbac::v3::Rbac::default()),
        ..Rbac::default()
    };
    for (name, config) in [("rbac", any(&rules)), ("ext_authz", any(&ExtAuthz::default()))] {
        let kind = config.type_url.split('/').next_back().unwrap().to_owned();
        let proxy = any(&tcp_proxy(ClusterSpecifier::Cluster("c".to_owned())));
        let filters = vec![
            filter(name, config),
            filter("envoy.filters.network.tcp_proxy", proxy),
        ];
        let guarded = Listener {
            filter_chains: vec![chain(filters)],
            ..listener("l", "10.96.0.10", 80, "c")
        };
        let cluster = static_cluster("c", vec![endpoint("10.1.0.1", 80)]);
        // Also where one without it was there before.
        let open = listener("l", "10.96.0.10", 80, "c");
        let assembled = assembled_of(&[named(open), named(guarded), named(cluster)]);
        assert_eq!(all_told(&assembled), [""; 0]);
        let told = unsupported(&assembled);
        assert!(
            told[0].contains(&kind) && told[0].contains("not taken"),
            "{told:?}"
        );
    }
}

#[test]
fn a_listener_that_does_not_fit_is_left_out() {
    let not_taken = |listener: Listener, expected: &str| {
        let cluster = static_cluster("c", vec![endpoint("10.1.0.1", 80)]);
        let assembled = assembled_of(&[named(listener), named(cluster)]);
        assert_eq!(unsupported(&assembled), [format!("Listener {expected}")]);
        assert_eq!(all_told(&assembled), [""; 0]);
        assert_eq!((assembled.rejected, assembled.incomplete), (vec![], vec![]));
    };
    not_taken(
        listener("virtualOutbound", "0.0.0.0", 15001, "c"),
        "address: the listener is not taken",
    );
    let http = filter(
        "envoy.filters.network.http_connection_manager",
        any(&HttpConnectionManager::default()),
    );
    let kind = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    not_taken(
        Listener {
            filter_chains: vec![chain(vec![http])],
            ..listener("http", "10.96.0.10", 80, "c")
        },
        &format!("filter_chains[0].filters[0][{kind:?}]: the listener is not taken"),
    );
    not_taken(
        Listener {
            filter_chains: vec![],
            ..listener("empty", "10.96.0.10", 80, "c")
        },
        "filter_chains: the listener is not taken",
    );
}

#[test]
fn the_chain_for_all_else_is_taken() {
    let listener = Listener {
        filter_chains: vec![FilterChain {
            filter_chain_match: Some(FilterChainMatch {
                server_names: vec!["llama.example".to_owned()],
                ..FilterChainMatch::default()
            }),
            ..chain(vec![])
        }],
        default_filter_chain: Some(listener("l", "10.96.0.10", 80, "c").filter_chains.remove(0)),
        ..listener("l", "10.96.0.10", 80, "none")
    };
    let cluster = static_cluster("c", vec![endpoint("10.1.0.1", 80)]);
    let assembled = assembled_of(&[named(listener), named(cluster)]);
    assert_eq!(
        unsupported(&assembled),
        ["Listener filter_chains[0].filter_chain_match: the chain is ignored"]
    );
    assert_eq!(
        all_told(&assembled),
        ["10.96.0.10:80/TCP round-robin: 10.1.0.1:80 x1"]
    );
}

#[test]
fn names_in_dns_clusters_are_not_resolved() {
    let cluster = Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns.into())),
        ..static_cluster("c", vec![endpoint("llama.example", 80), endpoint("10.1.0.1", 80)])
    };
    let assembled = assembled_of(&[named(listener("l", "10.96.0.10", 80, "c")), named(cluster)]);
    assert_eq!(
        unsupported(&assembled),
        ["Cluster load_assignment.endpoints[0].lb_endpoints[0].endpoint.address: the endpoint is not taken"]
    );
    assert_eq!(
        all_told(&assembled),
        ["10.96.0.10:80/TCP round-robin: 10.1.0.1:80 x1"]
    );
}

#[test]
fn a_field_newer_than_this_release_is_told() {
    let (name, mut wire) = named(listener("l", "10.96.0.10", 80, "c"));
    // Field 15000, a varint.
    wire.value.extend([0xc0, 0xa9, 0x07, 0x01]);
    let mut received = Received::default();
    received.put(&wire.type_url, &name, &wire.value).unwrap();
    assert_eq!(
        unsupported(&received.assemble()),
        ["Listener (a field newer than this release): ignored"]
    );
}
