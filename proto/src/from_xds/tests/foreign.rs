// SPDX-License-Identifier: Apache-2.0
//! Resources as the users of Envoy write them, with the names and habits of other control planes.

use nodemesh_abi::Algorithm;
use nodemesh_model::Resource;

use super::{
    envoy::{
        address, assignment, eds_cluster, endpoint, listener, listener_of, static_cluster, tcp_proxy,
        with_health,
    },
    wire::{Sent, all_told, assert_no_complaint, desired_of, named, received, unsupported},
};
use crate::{
    from_xds::Waiting,
    type_url,
    xds::{
        envoy::{
            config::{
                cluster::v3::{
                    Cluster,
                    cluster::{
                        CommonLbConfig, LbPolicy,
                        common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig},
                    },
                },
                core::v3::{HealthStatus, Locality},
                endpoint::v3::{ClusterLoadAssignment, LocalityLbEndpoints},
                listener::v3::{AdditionalAddress, Listener},
            },
            extensions::filters::network::tcp_proxy::v3::{
                TcpProxy,
                tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight},
            },
            r#type::v3::{
                HashPolicy,
                hash_policy::{PolicySpecifier, SourceIp},
            },
        },
        google::protobuf::UInt32Value,
    },
};

fn assembled_of(messages: &[Sent]) -> crate::from_xds::Assembled {
    received(messages).assemble()
}

#[test]
fn eds_as_go_control_plane_has_it() {
    let mut received = received(&[
        named(listener(
            "listener_0",
            "10.96.0.10",
            10000,
            "example_proxy_cluster",
        )),
        named(eds_cluster("example_proxy_cluster")),
    ]);
    let waiting = Waiting {
        listener: "listener_0".to_owned(),
        type_url: type_url::ASSIGNMENT,
        resource: "example_proxy_cluster".to_owned(),
    };
    assert_eq!(received.assemble().incomplete, [waiting]);
    assert_eq!(received.wanted_clusters().len(), 1);
    assert_eq!(
        received.wanted_assignments().first(),
        Some(&"example_proxy_cluster")
    );

    let endpoints = vec![endpoint("10.1.0.1", 8000), endpoint("10.1.0.2", 8001)];
    let (name, wire) = named(assignment("example_proxy_cluster", endpoints));
    received.put(&wire.type_url, &name, &wire.value).unwrap();
    let assembled = received.assemble();
    assert_no_complaint(&assembled);
    assert_eq!(
        all_told(&assembled),
        ["10.96.0.10:10000/TCP round-robin: 10.1.0.1:8000 x1, 10.1.0.2:8001 x1"]
    );
    let services: Vec<_> = assembled
        .manifest
        .resources()
        .filter(|resource| matches!(resource, Resource::Service(_)))
        .map(|resource| resource.metadata().name.to_string())
        .collect();
    assert!(services[0].starts_with("default/listener-0-"), "{services:?}");
}

#[test]
fn the_assignment_may_have_a_name_of_its_own() {
    let mut cluster = eds_cluster("c");
    cluster.eds_cluster_config.as_mut().unwrap().service_name = "endpoints-of-c".to_owned();
    let assembled = assembled_of(&[
        named(listener("l", "10.96.0.10", 80, "c")),
        named(cluster),
        named(assignment("endpoints-of-c", vec![endpoint("10.1.0.1", 8000)])),
    ]);
    assert_no_complaint(&assembled);
    assert_eq!(
        all_told(&assembled),
        ["10.96.0.10:80/TCP round-robin: 10.1.0.1:8000 x1"]
    );
}

#[test]
fn every_health_status() {
    let endpoints = vec![
        with_health("10.1.0.1", HealthStatus::Unknown),
        with_health("10.1.0.2", HealthStatus::Healthy),
        with_health("10.1.0.3", HealthStatus::Unhealthy),
        with_health("10.1.0.4", HealthStatus::Draining),
        with_health("10.1.0.5", HealthStatus::Timeout),
        with_health("10.1.0.6", HealthStatus::Degraded),
    ];
    let assembled = assembled_of(&[
        named(listener("l", "10.96.0.10", 80, "c")),
        named(static_cluster("c", endpoints)),
    ]);
    assert_no_complaint(&assembled);
    let expected = "10.1.0.1:8000 x1, 10.1.0.2:8000 x1, 10.1.0.3:8000 x1 unhealthy, \
                    10.1.0.4:8000 x1 draining, 10.1.0.5:8000 x1 unhealthy, 10.1.0.6:8000 x1 draining";
    assert_eq!(
        all_told(&assembled),
        [format!("10.96.0.10:80/TCP round-robin: {expected}")]
    );
}

#[test]
fn weighted_clusters_split_the_load() {
    let weighted = |(name, weight): (&str, u32)| ClusterWeight {
        name: name.to_owned(),
        weight,
        ..ClusterWeight::default()
    };
    let clusters = [("stable", 90), ("canary", 10)].map(weighted).to_vec();
    let proxy = tcp_proxy(ClusterSpecifier::WeightedClusters(WeightedCluster { clusters }));
    let messages = [
        named(listener_of("split", "10.96.0.10", 80, &proxy)),
        named(static_cluster(
            "stable",
            vec![endpoint("10.1.0.1", 80), endpoint("10.1.0.2", 80)],
        )),
        named(static_cluster("canary", vec![endpoint("10.1.0.3", 80)])),
    ];
    let mut partly = received(&messages[..2]);
    assert_eq!(
        all_told(&partly.assemble()),
        [""; 0],
        "half of a split is not the split"
    );
    let assembled = assembled_of(&messages);
    assert_no_complaint(&assembled);
    assert_eq!(
        all_told(&assembled),
        ["10.96.0.10:80/TCP round-robin: 10.1.0.1:80 x45, 10.1.0.2:80 x45, 10.1.0.3:80 x10"]
    );
}

#[test]
fn localities_and_priorities() {
    let locality = |zone: &str, priority, weight, ip: &str| LocalityLbEndpoints {
        locality: Some(Locality {
            zone: zone.to_owned(),
            ..Locality::default()
        }),
        lb_endpoints: vec![endpoint(ip, 80)],
        load_balancing_weight: Some(UInt32Value { value: weight }),
        priority,
        ..LocalityLbEndpoints::default()
    };
    let endpoints = vec![
        locality("a", 0, 3, "10.1.0.1"),
        locality("b", 0, 1, "10.1.0.2"),
        locality("c", 1, 1, "10.1.0.3"),
    ];
    let assignment = ClusterLoadAssignment {
        endpoints,
        ..assignment("c", vec![])
    };
    let by_locality = LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {});
    let cluster = Cluster {
        lb_policy: LbPolicy::LeastRequest.into(),
        common_lb_config: Some(CommonLbConfig {
            locality_config_specifier: Some(by_locality),
            ..CommonLbConfig::default()
        }),
        ..eds_cluster("c")
    };
    let assembled = assembled_of(&[
        named(listener("l", "10.96.0.10", 80, "c")),
        named(cluster),
        named(assignment),
    ]);
    assert_eq!(
        unsupported(&assembled),
        [
            "ClusterLoadAssignment endpoints[2].priority: used when the health that is told of all lower ones is bad"
        ]
    );
    assert_eq!(
        all_told(&assembled),
        ["10.96.0.10:80/TCP least-request: 10.1.0.1:80 x3, 10.1.0.2:80 x1"]
    );
}

#[test]
fn dual_stack_and_consistent_hashing() {
    let source = PolicySpecifier::SourceIp(SourceIp {});
    let proxy = TcpProxy {
        hash_policy: vec![HashPolicy {
            policy_specifier: Some(source),
        }],
        ..tcp_proxy(ClusterSpecifier::Cluster("c".to_owned()))
    };
    let listener = Listener {
        additional_addresses: vec![AdditionalAddress {
            address: Some(address("fd00:96::10", 80)),
            ..AdditionalAddress::default()
        }],
        ..listener_of("dual", "10.96.0.10", 80, &proxy)
    };
    let cluster = Cluster {
        lb_policy: LbPolicy::RingHash.into(),
        ..static_cluster("c", vec![endpoint("10.1.0.1", 80), endpoint("fd00:1::1", 80)])
    };
    let assembled = assembled_of(&[named(listener), named(cluster)]);
    assert_eq!(unsupported(&assembled), ["Cluster lb_policy: taken as maglev"]);
    assert_eq!(
        all_told(&assembled),
        [
            "10.96.0.10:80/TCP maglev: 10.1.0.1:80 x1",
            "fd00:96::10:80/TCP maglev: fd00:1::1:80 x1"
        ]
    );
    let desired = desired_of(&assembled);
    let frontend = desired.frontends.values().next().unwrap();
    assert_eq!(frontend.algorithm, Algorithm::Maglev);
    assert_eq!(frontend.client_key, nodemesh_abi::ClientKeySource::Address);
}

#[test]
fn endpoints_of_a_family_without_an_address_are_told() {
    let assembled = assembled_of(&[
        named(listener("l", "10.96.0.10", 80, "c")),
        named(static_cluster(
            "c",
            vec![endpoint("10.1.0.1", 80), endpoint("fd00:1::1", 80)],
        )),
    ]);
    assert_eq!(
        unsupported(&assembled),
        ["Listener address: endpoints of a family that the service has no address of are not taken"]
    );
    assert_eq!(
        all_told(&assembled),
        ["10.96.0.10:80/TCP round-robin: 10.1.0.1:80 x1"]
    );
}
