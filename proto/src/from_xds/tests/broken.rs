// SPDX-License-Identifier: Apache-2.0
//! A resource that is invalid is refused alone, with its field and the remedy, and the former one stays.

use super::{
    envoy::{address, assignment, eds_cluster, endpoint, listener},
    wire::{all_told, assert_no_complaint, named, put_all, received},
};
use crate::{
    IntoAny,
    from_xds::{Received, Rejected},
    type_url,
    v1::{Workload, WorkloadTable},
    xds::{
        envoy::config::{
            cluster::v3::{
                Cluster,
                cluster::{ClusterDiscoveryType, LbConfig, LbPolicy, MaglevLbConfig},
            },
            endpoint::v3::{ClusterLoadAssignment, LbEndpoint},
            listener::v3::{FilterChain, Listener},
        },
        google::protobuf::{UInt32Value, UInt64Value},
    },
};

/// A complete service with one endpoint.
fn good() -> Received {
    received(&[
        named(listener("l", "10.96.0.10", 80, "c")),
        named(eds_cluster("c")),
        named(assignment("c", vec![endpoint("10.1.0.1", 80)])),
    ])
}

const GOOD: [&str; 1] = ["10.96.0.10:80/TCP round-robin: 10.1.0.1:80 x1"];

/// Puts `wire` under `name`, which must be refused for `field`, and leave all as it was.
fn refused(name: &str, wire: impl IntoAny, field: &str, reason: &str) {
    let mut received = good();
    received.assemble();
    let any = wire.into_any();
    let rejected = received.put(&any.type_url, name, &any.value).unwrap_err();
    let expected = Rejected {
        type_url: any.type_url,
        resource: name.to_owned(),
        field: field.to_owned(),
        reason: reason.to_owned(),
    };
    assert_eq!(rejected, expected);
    let assembled = received.assemble();
    assert_no_complaint(&assembled);
    assert_eq!(all_told(&assembled), GOOD);
}

#[test]
fn listeners() {
    let good = || listener("l", "10.96.0.10", 80, "c");
    let cases = [
        (
            Listener {
                address: None,
                ..good()
            },
            "address",
            "is missing; add a socket_address",
        ),
        (
            Listener {
                address: Some(address("10.96.0.10", 0)),
                ..good()
            },
            "address.socket_address.port_value",
            "port is 0; use 1 to 65535",
        ),
        (
            Listener {
                address: Some(address("llama", 80)),
                ..good()
            },
            "address.socket_address",
            "\"llama\" is no IP address; write one such as 10.1.0.2 or fd00::2 (host names are not resolved)",
        ),
        (
            listener("l", "10.96.0.10", 80, ""),
            "filter_chains[0].filters[0].typed_config.cluster",
            "is empty; name a cluster",
        ),
        (
            Listener {
                filter_chains: [good().filter_chains, good().filter_chains].concat(),
                ..good()
            },
            "filter_chains[1]",
            "matches the same connections as an earlier chain; give it a filter_chain_match",
        ),
        (
            listener("other", "10.96.0.10", 80, "c"),
            "name",
            "is \"other\", but the resource is \"l\"; give both the same name",
        ),
    ];
    for (listener, field, reason) in cases {
        refused("l", listener, field, reason);
    }
}

#[test]
fn a_filter_that_cannot_be_decoded() {
    let mut broken = listener("l", "10.96.0.10", 80, "c");
    let chain: &mut FilterChain = &mut broken.filter_chains[0];
    let Some(crate::xds::envoy::config::listener::v3::filter::ConfigType::TypedConfig(config)) =
        &mut chain.filters[0].config_type
    else {
        unreachable!("made by listener()");
    };
    config.value = vec![0x12, 0xff];
    let any = broken.into_any();
    let rejected = good().put(&any.type_url, "l", &any.value).unwrap_err();
    assert_eq!(rejected.field, "filter_chains[0].filters[0].typed_config");
    assert!(
        rejected.reason.starts_with("cannot be decoded: "),
        "{}",
        rejected.reason
    );
}

#[test]
fn clusters() {
    let maglev = |size| Cluster {
        lb_policy: LbPolicy::Maglev.into(),
        lb_config: Some(LbConfig::MaglevLbConfig(MaglevLbConfig {
            table_size: Some(UInt64Value { value: size }),
        })),
        ..eds_cluster("c")
    };
    let unknown = "42 is no value that this release knows; use a named one";
    let cases = vec![
        (
            Cluster {
                lb_policy: 42,
                ..eds_cluster("c")
            },
            "lb_policy",
            unknown,
        ),
        (
            Cluster {
                cluster_discovery_type: Some(ClusterDiscoveryType::Type(42)),
                ..eds_cluster("c")
            },
            "type",
            unknown,
        ),
        (
            Cluster {
                eds_cluster_config: None,
                ..eds_cluster("c")
            },
            "eds_cluster_config",
            "is missing; a cluster of type EDS says where its endpoints are told",
        ),
        (
            Cluster {
                cluster_discovery_type: None,
                ..eds_cluster("c")
            },
            "load_assignment",
            "is missing; a cluster of this type lists its endpoints",
        ),
        (
            maglev(1000),
            "maglev_lb_config.table_size",
            "1000 is not a prime; the next one is 1009",
        ),
    ];
    for (cluster, field, reason) in cases {
        refused("c", cluster, field, reason);
    }
}

#[test]
fn assignments() {
    let weighted = |value| LbEndpoint {
        load_balancing_weight: Some(UInt32Value { value }),
        ..endpoint("10.1.0.2", 80)
    };
    let of = |bad: LbEndpoint| assignment("c", vec![endpoint("10.1.0.1", 80), bad]);
    let mut far = assignment("c", vec![]);
    far.endpoints[0].priority = 129;
    let cases: [(ClusterLoadAssignment, &str, &str); 5] = [
        (
            of(weighted(0)),
            "endpoints[0].lb_endpoints[1].load_balancing_weight",
            "is 0; use at least 1",
        ),
        (
            of(endpoint("10.1.0.2", 65_536)),
            "endpoints[0].lb_endpoints[1].endpoint.address.socket_address.port_value",
            "port is 65536; use 1 to 65535",
        ),
        (
            of(endpoint("0.0.0.0", 80)),
            "endpoints[0].lb_endpoints[1].endpoint.address.socket_address",
            "0.0.0.0 is unspecified; use a unicast address that does not depend on an interface",
        ),
        (
            of(LbEndpoint {
                health_status: 42,
                ..endpoint("10.1.0.2", 80)
            }),
            "endpoints[0].lb_endpoints[1].health_status",
            "42 is no value that this release knows; use a named one",
        ),
        (far, "endpoints[0].priority", "is 129; use 0 to 128"),
    ];
    for (assignment, field, reason) in cases {
        refused("c", assignment, field, reason);
    }
}

#[test]
fn workloads() {
    let row = |name: &str, cgroup: &str| Workload {
        namespace: "models".to_owned(),
        name: name.to_owned(),
        cgroup: cgroup.to_owned(),
        ..Workload::default()
    };
    let table = |workloads| WorkloadTable { workloads };
    refused(
        "t",
        table(vec![row("a", "a"), row("B", "b")]),
        "workloads[1].name",
        "\"B\" is no DNS label; use 1 to 63 of a-z, 0-9 and -, not - at either end",
    );
    refused(
        "t",
        table(vec![row("a", "../a")]),
        "workloads[0].cgroup",
        "\"../a\" leads upwards; write a path such as kubepods/pod1, relative to the cgroup v2 root",
    );
}

#[test]
fn types_and_bytes_that_nobody_knows() {
    let mut received = good();
    let rejected = received
        .put("type.googleapis.com/envoy.Unknown", "x", &[])
        .unwrap_err();
    assert_eq!(
        rejected.to_string(),
        "type.googleapis.com/envoy.Unknown \"x\": is of a type that nodemesh does not know; do not send it"
    );
    for type_url in super::wire::TYPES {
        let rejected = received.put(type_url, "x", &[0xff; 9]).unwrap_err();
        assert!(rejected.reason.starts_with("cannot be decoded: "), "{rejected}");
    }
    assert_eq!(all_told(&received.assemble()), GOOD);
}

#[test]
fn of_two_services_with_one_address_the_first_that_came_stays() {
    let mut received = good();
    received.assemble();
    // By name it would go first.
    put_all(&mut received, &[named(listener("a", "10.96.0.10", 80, "c"))]);
    let assembled = received.assemble();
    let rejected: Vec<_> = assembled.rejected.iter().map(ToString::to_string).collect();
    assert_eq!(
        rejected,
        [format!(
            "{} \"a\": address: 10.96.0.10, port 80/TCP, of Service default/a is that of Service default/l; use another address or port",
            type_url::LISTENER
        )]
    );
    assert_eq!(all_told(&assembled), GOOD);

    assert!(received.remove(type_url::LISTENER, "l"));
    let assembled = received.assemble();
    assert_no_complaint(&assembled);
    assert_eq!(
        all_told(&assembled),
        GOOD,
        "the address is free for the other one"
    );
}

#[test]
fn a_service_that_moves_onto_a_taken_address_stays_where_it_was() {
    let mut received = good();
    put_all(&mut received, &[named(listener("m", "10.96.0.11", 80, "c"))]);
    let before = all_told(&received.assemble());
    put_all(&mut received, &[named(listener("m", "10.96.0.10", 80, "c"))]);
    let assembled = received.assemble();
    assert_eq!(assembled.rejected.len(), 1);
    assert_eq!(all_told(&assembled), before);
}
