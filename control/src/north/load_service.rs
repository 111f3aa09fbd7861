// SPDX-License-Identifier: Apache-2.0
//! Envoy's load reporting service (LRS): nodes stream what their clients make of the backends.
//!
//! Reads, per endpoint of each cluster: requests issued and failed since the last report, requests in progress, and the metrics
//! `nodemesh.ttft_seconds` (time to first token) and `nodemesh.connections_active` (a gauge). An endpoint that a report does not
//! mention has no load.

use std::{pin::Pin, sync::Arc, time::Instant};

use futures_util::{Stream, StreamExt as _, stream};
use nodemesh_proto::xds::{
    envoy::{
        config::{
            core::v3::{Address, address, socket_address::PortSpecifier},
            endpoint::v3::{ClusterStats, UpstreamEndpointStats},
        },
        service::load_stats::v3::{
            LoadStatsRequest, LoadStatsResponse,
            load_reporting_service_server::{LoadReportingService, LoadReportingServiceServer},
        },
    },
    google::protobuf,
};
use std::net::SocketAddr;
use tonic::{Request, Response, Status, Streaming};

use super::load_table::{BackendKey, Current, Delta, Loads, MAX_OF_NODE, Seat};

/// Metric with the time to first token, in seconds, of each request that had one.
const TTFT: &str = "nodemesh.ttft_seconds";
/// Metric with the number of open connections.
const CONNECTIONS: &str = "nodemesh.connections_active";
/// Longest name of a cluster, bytes.
const MAX_CLUSTER: usize = 256;
/// Shortest and longest interval that a rate is computed over, seconds: a report may come at once.
const INTERVAL_S: (f64, f64) = (0.1, 86_400.0);

/// The service.
#[derive(Clone, Debug)]
pub struct LoadService {
    loads: Loads,
}

impl LoadService {
    /// Collects what nodes report in `loads`.
    pub fn new(loads: Loads) -> Self {
        Self { loads }
    }

    /// For a router of tonic.
    pub fn into_service(self, request_bytes: usize) -> LoadReportingServiceServer<Self> {
        LoadReportingServiceServer::new(self).max_decoding_message_size(request_bytes)
    }
}

#[tonic::async_trait]
impl LoadReportingService for LoadService {
    type StreamLoadStatsStream = Pin<Box<dyn Stream<Item = Result<LoadStatsResponse, Status>> + Send>>;

    async fn stream_load_stats(
        &self,
        request: Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Self::StreamLoadStatsStream>, Status> {
        let too_many = || Status::resource_exhausted("there are more nodes than --max-nodes allows");
        let seat = self.loads.admit(Instant::now()).ok_or_else(too_many)?;
        let wanted = LoadStatsResponse {
            clusters: Vec::new(),
            send_all_clusters: true,
            load_reporting_interval: Some(protobuf::Duration {
                seconds: seat.interval().as_secs().try_into().unwrap_or(i64::MAX),
                nanos: 0,
            }),
            report_endpoint_granularity: true,
        };
        let first = stream::once(async move { Ok(wanted) });
        // After the first answer there is nothing to say until the node ends the stream, or breaks it.
        let rest = stream::once(collect(seat, request.into_inner()))
            .filter_map(|end| async move { end.err().map(Err) });
        Ok(Response::new(Box::pin(first.chain(rest))))
    }
}

async fn collect(seat: Seat, mut requests: Streaming<LoadStatsRequest>) -> Result<(), Status> {
    let mut last = Instant::now();
    while let Some(request) = requests.message().await? {
        let now = Instant::now();
        let elapsed_s = now.duration_since(last).as_secs_f64();
        last = now;
        let (report, ignored) = read(&request, elapsed_s);
        seat.update(report, ignored, now);
    }
    Ok(())
}

/// The entries of a request, and how many of it are ignored.
fn read(request: &LoadStatsRequest, elapsed_s: f64) -> (Vec<(BackendKey, Delta)>, u64) {
    let (mut report, mut ignored) = (Vec::new(), 0);
    for cluster in &request.cluster_stats {
        let endpoints = cluster
            .upstream_locality_stats
            .iter()
            .flat_map(|locality| &locality.upstream_endpoint_stats);
        if cluster.cluster_name.len() > MAX_CLUSTER {
            ignored += endpoints.count() as u64;
            continue;
        }
        let name: Arc<str> = cluster.cluster_name.as_str().into();
        let interval_s = interval_s(cluster, elapsed_s);
        for endpoint in endpoints {
            let address = endpoint.address.as_ref().and_then(socket_address);
            match address {
                Some(address) if report.len() < MAX_OF_NODE => {
                    let cluster = Arc::clone(&name);
                    report.push((BackendKey { cluster, address }, delta(endpoint, interval_s)));
                }
                _ => ignored += 1,
            }
        }
    }
    (report, ignored)
}

fn interval_s(cluster: &ClusterStats, elapsed_s: f64) -> f64 {
    let told = cluster.load_report_interval.as_ref();
    let told = told.map(|interval| interval.seconds as f64 + f64::from(interval.nanos) / 1e9);
    let (least, most) = INTERVAL_S;
    told.filter(|told| *told > 0.0)
        .unwrap_or(elapsed_s)
        .clamp(least, most)
}

fn socket_address(address: &Address) -> Option<SocketAddr> {
    let Some(address::Address::SocketAddress(socket)) = &address.address else {
        return None;
    };
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else {
        return None;
    };
    Some(SocketAddr::new(
        socket.address.parse().ok()?,
        port.try_into().ok()?,
    ))
}

fn delta(endpoint: &UpstreamEndpointStats, interval_s: f64) -> Delta {
    let mut current = Current {
        in_flight: endpoint.total_requests_in_progress,
        rate: endpoint.total_issued_requests as f64 / interval_s,
        ..Current::default()
    };
    for metric in &endpoint.load_metric_stats {
        let value = metric.total_metric_value;
        if !value.is_finite() || value < 0.0 {
            continue;
        }
        match metric.metric_name.as_str() {
            TTFT => {
                current.ttft_sum_s = value;
                current.ttft_count = metric.num_requests_finished_with_metric;
            }
            // A gauge: what it says is a whole number.
            CONNECTIONS => current.connections = whole(value),
            _ => {}
        }
    }
    Delta {
        requests: endpoint.total_issued_requests,
        errors: endpoint.total_error_requests,
        current,
    }
}

#[expect(
    clippy::cast_sign_loss,
    reason = "callers give no negative values; `as` saturates"
)]
fn whole(value: f64) -> u64 {
    value.round() as u64
}
