// SPDX-License-Identifier: Apache-2.0
//! Load reports of nodes, and what `Backends` makes of them.

use nodemesh_proto::{
    v1::{ApplyRequest, BackendLoad, BackendsRequest},
    xds::{
        envoy::{
            config::{
                core::v3::{Address, SocketAddress, address, socket_address::PortSpecifier},
                endpoint::v3::{
                    ClusterStats, EndpointLoadMetricStats, UpstreamEndpointStats, UpstreamLocalityStats,
                },
            },
            service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse},
        },
        google::protobuf::Duration,
    },
};
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::{
    harness::{Control, eventually, soon, workload},
    nodes::from,
};

struct Reporter {
    requests: mpsc::Sender<LoadStatsRequest>,
    responses: Streaming<LoadStatsResponse>,
}

impl Reporter {
    async fn connect(control: &Control) -> Self {
        let (requests, receiver) = mpsc::channel(8);
        requests.send(LoadStatsRequest::default()).await.unwrap();
        let responses = control
            .lrs()
            .await
            .stream_load_stats(from(receiver))
            .await
            .unwrap()
            .into_inner();
        Self { requests, responses }
    }

    async fn report(&self, endpoints: Vec<UpstreamEndpointStats>) {
        let cluster = ClusterStats {
            cluster_name: "models/llama/80".to_owned(),
            upstream_locality_stats: vec![UpstreamLocalityStats {
                upstream_endpoint_stats: endpoints,
                ..UpstreamLocalityStats::default()
            }],
            load_report_interval: Some(Duration { seconds: 2, nanos: 0 }),
            ..ClusterStats::default()
        };
        let request = LoadStatsRequest {
            node: None,
            cluster_stats: vec![cluster],
        };
        self.requests.send(request).await.unwrap();
    }
}

fn address(ip: &str, port: u32) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: ip.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(port)),
            ..SocketAddress::default()
        })),
    }
}

fn metric(name: &str, count: u64, value: f64) -> EndpointLoadMetricStats {
    EndpointLoadMetricStats {
        metric_name: name.to_owned(),
        num_requests_finished_with_metric: count,
        total_metric_value: value,
    }
}

fn endpoint(ip: &str, issued: u64, in_flight: u64, ttft: (u64, f64)) -> UpstreamEndpointStats {
    UpstreamEndpointStats {
        address: Some(address(ip, 8000)),
        total_issued_requests: issued,
        total_error_requests: 1,
        total_requests_in_progress: in_flight,
        load_metric_stats: vec![
            metric("nodemesh.ttft_seconds", ttft.0, ttft.1),
            metric("nodemesh.connections_active", 1, 3.0),
            metric("something.else", 1, f64::NAN),
        ],
        ..UpstreamEndpointStats::default()
    }
}

async fn backends(control: &Control, namespace: &str, service: &str) -> Vec<BackendLoad> {
    let request = BackendsRequest {
        namespace: namespace.to_owned(),
        service: service.to_owned(),
    };
    let mut client = control.registry().await;
    client.backends(request).await.unwrap().into_inner().backends
}

/// Two nodes that reported: the first of both backends, the second of one.
async fn two_nodes() -> (Control, [Reporter; 2]) {
    let control = Control::start(&["--report-interval", "3s"]).await;
    let request = ApplyRequest {
        resource: workload("w-0", "llama", "10.0.0.1").to_string(),
        ..ApplyRequest::default()
    };
    control.registry().await.apply(request).await.unwrap();
    let mut nodes = [
        Reporter::connect(&control).await,
        Reporter::connect(&control).await,
    ];
    for node in &mut nodes {
        let wanted = soon("what is wanted", node.responses.message())
            .await
            .unwrap()
            .unwrap();
        assert!(wanted.send_all_clusters && wanted.report_endpoint_granularity);
        assert_eq!(wanted.load_reporting_interval.unwrap().seconds, 3);
    }
    nodes[0]
        .report(vec![
            endpoint("10.0.0.1", 10, 4, (4, 2.0)),
            endpoint("10.0.0.2", 2, 1, (0, 0.0)),
        ])
        .await;
    nodes[1].report(vec![endpoint("10.0.0.1", 20, 5, (6, 8.0))]).await;
    eventually("both reports are in", || async {
        backends(&control, "", "")
            .await
            .first()
            .is_some_and(|backend| backend.nodes == 2)
    })
    .await;
    (control, nodes)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_load_of_all_nodes_is_added_up() {
    let (control, _nodes) = two_nodes().await;
    let expected = BackendLoad {
        namespace: "models".to_owned(),
        service: "llama".to_owned(),
        service_port: 80,
        address: "10.0.0.1".to_owned(),
        port: 8000,
        workload: "w-0".to_owned(),
        nodes: 2,
        in_flight: 9,
        connections_active: 6,
        requests_total: 30,
        errors_total: 2,
        request_rate: 15.0,
        ttft_mean_s: 1.0,
        ttft_count: 10,
    };
    let all = backends(&control, "models", "llama").await;
    assert_eq!(all.len(), 2);
    assert_eq!(all[0], expected);
    assert_eq!(backends(&control, "models", "other").await, []);
    assert_eq!(backends(&control, "elsewhere", "").await, []);
    let series = |family: &str| {
        format!(
            "nodemesh_control_{family}{{namespace=\"models\",service=\"llama\",port=\"80\",backend=\"10.0.0.1:8000\"}}"
        )
    };
    assert_eq!(control.metric(&series("backend_in_flight")).await, Some(9.0));
    assert_eq!(control.metric(&series("backend_ttft_seconds")).await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn load_goes_with_its_node_and_counters_stay() {
    let (control, nodes) = two_nodes().await;
    let [first, second] = nodes;
    drop(second);
    eventually("the load of a node goes with it", || async {
        backends(&control, "", "").await[0].in_flight == 4
    })
    .await;
    first.report(vec![endpoint("10.0.0.2", 1, 0, (0, 0.0))]).await;
    eventually("what is not reported is idle", || async {
        backends(&control, "", "").await[0].nodes == 0
    })
    .await;
    let all = backends(&control, "", "").await;
    assert_eq!(
        (all[0].in_flight, all[0].requests_total),
        (0, 30),
        "counters stay"
    );
    assert_eq!(
        (all[1].in_flight, all[1].requests_total),
        (0, 3),
        "counters add up"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn senseless_entries_are_ignored_and_counted() {
    let control = Control::start(&[]).await;
    let node = Reporter::connect(&control).await;
    let mut pipe = endpoint("10.0.0.1", 1, 1, (0, 0.0));
    pipe.address = None;
    let mut name = endpoint("a.example", 1, 1, (0, 0.0));
    name.address = Some(address("a.example", 1));
    let mut port = endpoint("10.0.0.1", 1, 1, (0, 0.0));
    port.address = Some(address("10.0.0.1", 70_000));
    let good = endpoint("10.0.0.9", u64::MAX, u64::MAX, (u64::MAX, f64::MAX));
    node.report(vec![pipe, name, port, good.clone(), good]).await;
    let ignored = "nodemesh_control_load_entries_ignored_total";
    eventually("the rest is taken", || async {
        control.metric(ignored).await == Some(4.0)
    })
    .await;
    assert_eq!(backends(&control, "", "").await.len(), 1);
    drop(node);
    eventually("it is gone", || async {
        backends(&control, "", "").await[0].nodes == 0
    })
    .await;
    assert_eq!(backends(&control, "", "").await[0].in_flight, 0);
}
