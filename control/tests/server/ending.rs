// SPDX-License-Identifier: Apache-2.0
//! The end of a control plane: every stream is told to go elsewhere.

use std::time::{Duration, Instant};

use nodemesh_proto::{
    v1::{WatchRequest, node_client::NodeClient, registry_client::RegistryClient},
    xds::envoy::service::{
        discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        load_stats::v3::{LoadStatsRequest, load_reporting_service_client::LoadReportingServiceClient},
    },
};
use tokio::sync::mpsc;
use tonic::Code;

use crate::{
    harness::{Control, soon},
    nodes::from,
};

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_unavailable_and_the_end_comes_soon() {
    let control = Control::start(&[]).await;
    let channel = control.channel().await;
    let mut watch = RegistryClient::new(channel.clone())
        .watch(WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    let (_reports, receiver) = mpsc::channel(1);
    let mut report = NodeClient::new(channel.clone())
        .report(from(receiver))
        .await
        .unwrap()
        .into_inner();
    let (_renewals, receiver) = mpsc::channel(1);
    let mut renew = RegistryClient::new(channel.clone())
        .renew(from(receiver))
        .await
        .unwrap()
        .into_inner();
    let (_requests, receiver) = mpsc::channel(1);
    let mut ads = AggregatedDiscoveryServiceClient::new(channel.clone())
        .delta_aggregated_resources(from(receiver))
        .await
        .unwrap()
        .into_inner();
    let (_loads, receiver) = mpsc::channel::<LoadStatsRequest>(1);
    let mut load = LoadReportingServiceClient::new(channel)
        .stream_load_stats(from(receiver))
        .await
        .unwrap()
        .into_inner();
    soon("what is wanted", load.message()).await.unwrap().unwrap();
    assert_eq!(control.get("/readyz").await.0, "HTTP/1.1 200 OK");

    let began = Instant::now();
    let stopping = tokio::spawn(control.app.stop());
    let ends = [
        ("watch", soon("the end", watch.message()).await.unwrap_err()),
        ("report", soon("the end", report.message()).await.unwrap_err()),
        ("renew", soon("the end", renew.message()).await.unwrap_err()),
        ("ads", soon("the end", ads.message()).await.unwrap_err()),
        ("load", soon("the end", load.message()).await.unwrap_err()),
    ];
    for (stream, status) in ends {
        assert_eq!(status.code(), Code::Unavailable, "{stream}");
        assert!(status.message().contains("another"), "{stream}: {status}");
    }
    soon("the server is gone", stopping).await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "open streams do not hold it up"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_does_not_hold_up_the_end() {
    let control = Control::start(&[]).await;
    let (_requests, receiver) = mpsc::channel(1);
    let mut client = control.ads().await;
    let unread = client.delta_aggregated_resources(from(receiver)).await.unwrap();
    // A connection that has not even said what it speaks.
    let silent = tokio::net::TcpStream::connect(control.address()).await.unwrap();
    soon("the server is gone", control.app.stop()).await;
    drop((unread, silent));
}
