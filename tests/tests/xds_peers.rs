// SPDX-License-Identifier: Apache-2.0
//! The control plane and the agent against xDS peers that other people wrote.

#[path = "xds_peers/envoy.rs"]
mod envoy;
#[path = "xds_peers/foreign.rs"]
mod foreign;

use std::{collections::BTreeSet, net::SocketAddr};

use nodemesh_e2e::{
    bed::{Bed, Family, connect},
    eventually::eventually,
    manifest::Service,
    real::xds::{Control, GrpcBackend, GrpcClient},
};

const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

#[test]
fn calls_of_grpc_clients_follow_the_endpoints() {
    let (bed, folder) = (Bed::new(), tempfile::tempdir().expect("a folder"));
    let control = Control::start(&bed.client, folder.path());
    let servers =
        [("r0", 9000), ("r1", 9001)].map(|(name, port)| GrpcBackend::start(&bed.server, name, port));
    let service = || Service::new("llama", Family::V4.vip(1));
    control.apply(service().to([servers[0].address]));

    let mut client = GrpcClient::start(&bed.client, "grpc-1", "llama.models:8000");
    let calls = client.call(10);
    assert!(calls.reached(&["r0"]), "{calls:?}");
    let acked: BTreeSet<(String, String, String)> = client
        .status()
        .into_iter()
        .map(|resource| (resource.r#type, resource.name, resource.status))
        .collect();
    let expected = [
        (LISTENER, "llama.models:8000"),
        (ROUTE, "models/llama/8000"),
        (CLUSTER, "models/llama/8000"),
        (ENDPOINTS, "models/llama/8000"),
    ];
    let expected = expected.map(|(of, name)| (of.to_owned(), name.to_owned(), "ACKED".to_owned()));
    assert_eq!(acked, BTreeSet::from(expected));

    control.apply(service().to(servers.iter().map(|server| server.address)));
    eventually(
        "calls to both",
        || client.call(8),
        |calls| calls.reached(&["r0", "r1"]),
    );
    control.apply(
        service()
            .in_state(servers[0].address, "draining")
            .to([servers[1].address]),
    );
    eventually(
        "calls to the other",
        || client.call(8),
        |calls| calls.reached(&["r1"]),
    );
    let calls = client.call(20);
    assert!(calls.reached(&["r1"]), "{calls:?}");
    let statuses = client.status();
    assert!(
        statuses.iter().all(|resource| resource.status == "ACKED"),
        "{statuses:?}"
    );

    let node = eventually("the node", || control.node("grpc-1"), Option::is_some).expect("it is connected");
    assert!(
        node.types.iter().all(|of_type| of_type.nack_message.is_empty()),
        "{node:?}"
    );
    assert!(node.version.starts_with("gRPC C-core"), "{node:?}");

    control.delete("Service", "llama");
    let gone = eventually(
        "no more calls",
        || client.call(2),
        |calls| calls.servers.is_empty(),
    );
    assert!(!gone.errors.is_empty(), "{gone:?}");
}

/// Waits until `replica` alone is reached at `service`.
fn reaches(bed: &Bed, service: SocketAddr, replica: &str) {
    let ask = || connect(&bed.client.place(), service, &["--count", "10"]);
    eventually("the replica", ask, |report| report.of(replica) == 10);
}
