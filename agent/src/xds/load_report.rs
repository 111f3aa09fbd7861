// SPDX-License-Identifier: Apache-2.0
//! Reports load to the control plane with Envoy's load reporting service: per backend what this node's clients sent it, and what is
//! in flight. Run by `link` for each connection.
//!
//! Invariant: what the server asks for decides what is sent and how often; one without the service is left alone.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::stream;
use nodemesh_proto::xds::{
    envoy::{
        config::{
            core::v3::{Address, Node as Identity, SocketAddress, address, socket_address::PortSpecifier},
            endpoint::v3::{
                ClusterStats, EndpointLoadMetricStats, UpstreamEndpointStats, UpstreamLocalityStats,
            },
        },
        service::load_stats::v3::{
            LoadStatsRequest, LoadStatsResponse, load_reporting_service_client::LoadReportingServiceClient,
        },
    },
    google::protobuf::Duration as WireDuration,
};
use tokio::{
    sync::{Mutex, mpsc},
    task::spawn_blocking,
    time::{interval_at, sleep},
};
use tonic::{Code, Status};
use tracing::debug;

use super::{
    load_book::{Key, Load, LoadBook},
    load_reader,
};
use crate::{admin::Node, control::Connection};

/// Time to first token: how many, and their sum in seconds.
pub const FIRST_TOKEN: &str = "nodemesh.ttft_seconds";
/// Open connections now.
pub const CONNECTIONS: &str = "nodemesh.connections_active";
/// Bounds of what a server may ask for.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3_600));
/// Pause before a stream that ended is opened again.
const AGAIN: Duration = Duration::from_secs(5);

/// Reports until it is dropped, or until the server turns out not to want it.
pub async fn run(connection: Connection, identity: Identity, node: Arc<Node>, book: Arc<Mutex<LoadBook>>) {
    loop {
        let status = report(connection.clone(), identity.clone(), &node, &book).await;
        debug!(%status, "load reports ended");
        if status.code() == Code::Unimplemented {
            return;
        }
        sleep(AGAIN).await;
    }
}

async fn report(
    connection: Connection,
    identity: Identity,
    node: &Arc<Node>,
    book: &Mutex<LoadBook>,
) -> Status {
    let (reports, outbox) = mpsc::channel(1);
    let first = LoadStatsRequest {
        node: Some(identity),
        cluster_stats: Vec::new(),
    };
    let _ = reports.try_send(first);
    let outbox = stream::unfold(outbox, |mut outbox| async {
        Some((outbox.recv().await?, outbox))
    });
    let mut client = LoadReportingServiceClient::new(connection);
    let mut wishes = match client.stream_load_stats(outbox).await {
        Ok(wishes) => wishes.into_inner(),
        Err(status) => return status,
    };
    let mut wish: Option<Wish> = None;
    let mut clock = interval_at(tokio::time::Instant::now(), INTERVALS.1);
    let mut last = Instant::now();
    loop {
        tokio::select! {
            asked = wishes.message() => match asked {
                Ok(Some(asked)) => {
                    let asked = Wish::from(asked);
                    clock = interval_at(tokio::time::Instant::now() + asked.interval, asked.interval);
                    wish = Some(asked);
                }
                Ok(None) => return Status::unavailable("the control plane closed the stream"),
                Err(status) => return status,
            },
            _ = clock.tick() => {
                let Some(wish) = &wish else { continue };
                // A report that is still on its way: this one goes with the next.
                let Ok(place) = reports.try_reserve() else { continue };
                let reader = Arc::clone(node);
                let loads = match spawn_blocking(move || load_reader::read(&reader)).await.map_err(anyhow::Error::from).flatten() {
                    Ok(loads) => loads,
                    Err(error) => {
                        debug!(error = format!("{error:#}"), "no load report");
                        continue;
                    }
                };
                let news = book.lock().await.report(loads);
                place.send(LoadStatsRequest {
                    node: None,
                    cluster_stats: describe(wish, news, last.elapsed()),
                });
                last = Instant::now();
            }
        }
    }
}

/// What the server wants.
#[derive(Debug)]
struct Wish {
    interval: Duration,
    /// `None` for all.
    clusters: Option<Vec<String>>,
}

impl From<LoadStatsResponse> for Wish {
    fn from(asked: LoadStatsResponse) -> Self {
        let interval = asked.load_reporting_interval.unwrap_or_default();
        let interval = Duration::new(
            interval.seconds.try_into().unwrap_or_default(),
            interval.nanos.try_into().unwrap_or_default(),
        );
        Self {
            interval: interval.clamp(INTERVALS.0, INTERVALS.1),
            clusters: (!asked.send_all_clusters).then_some(asked.clusters),
        }
    }
}

fn describe(wish: &Wish, news: Vec<(Key, Load)>, elapsed: Duration) -> Vec<ClusterStats> {
    let mut clusters: BTreeMap<String, Vec<UpstreamEndpointStats>> = BTreeMap::new();
    for ((cluster, addr, port), load) in news {
        if wish
            .clusters
            .as_ref()
            .is_none_or(|wanted| wanted.contains(&cluster))
        {
            let stats = endpoint(IpAddr::from(addr), port.get(), &load);
            clusters.entry(cluster).or_default().push(stats);
        }
    }
    clusters
        .into_iter()
        .map(|(name, endpoints)| stats(name, endpoints, elapsed))
        .collect()
}

fn stats(cluster_name: String, endpoints: Vec<UpstreamEndpointStats>, elapsed: Duration) -> ClusterStats {
    let sum = |of: fn(&UpstreamEndpointStats) -> u64| endpoints.iter().map(of).sum();
    let locality = UpstreamLocalityStats {
        total_successful_requests: sum(|it| it.total_successful_requests),
        total_requests_in_progress: sum(|it| it.total_requests_in_progress),
        total_error_requests: sum(|it| it.total_error_requests),
        total_issued_requests: sum(|it| it.total_issued_requests),
        upstream_endpoint_stats: endpoints,
        ..UpstreamLocalityStats::default()
    };
    ClusterStats {
        cluster_name,
        upstream_locality_stats: vec![locality],
        load_report_interval: Some(WireDuration {
            seconds: elapsed.as_secs().cast_signed(),
            nanos: elapsed.subsec_nanos().cast_signed(),
        }),
        ..ClusterStats::default()
    }
}

fn endpoint(addr: IpAddr, port: u16, load: &Load) -> UpstreamEndpointStats {
    let socket = SocketAddress {
        address: addr.to_string(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..SocketAddress::default()
    };
    let Load { counters, levels } = load;
    let metric = |name: &str, count: u64, value: f64| EndpointLoadMetricStats {
        metric_name: name.to_owned(),
        num_requests_finished_with_metric: count,
        total_metric_value: value,
    };
    let mut metrics = vec![metric(CONNECTIONS, 1, levels.connections as f64)];
    if counters.first_tokens > 0 {
        metrics.push(metric(
            FIRST_TOKEN,
            counters.first_tokens,
            counters.first_token_ns as f64 / 1e9,
        ));
    }
    UpstreamEndpointStats {
        address: Some(Address {
            address: Some(address::Address::SocketAddress(socket)),
        }),
        total_successful_requests: counters.succeeded,
        total_requests_in_progress: levels.in_flight,
        total_error_requests: counters.failed,
        total_issued_requests: counters.issued,
        load_metric_stats: metrics,
        ..UpstreamEndpointStats::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::load_book::{Counters, Levels};

    fn load() -> Load {
        Load {
            counters: Counters {
                issued: 20,
                first_tokens: 9,
                first_token_ns: 4_500_000_000,
                ..Counters::default()
            },
            levels: Levels {
                in_flight: 3,
                connections: 6,
            },
        }
    }

    #[test]
    fn a_report_has_the_clusters_that_are_wanted_with_sums_and_metrics() {
        let addr = |text: &str| text.parse::<IpAddr>().unwrap().into();
        let news = |names: &[&str]| -> Vec<(Key, Load)> {
            let of = |name: &&str| {
                (
                    (*name).to_owned(),
                    addr("10.0.0.1"),
                    nodemesh_abi::Port::new(8000),
                )
            };
            names.iter().map(|name| (of(name), load())).collect()
        };
        let wish = Wish::from(LoadStatsResponse {
            clusters: vec!["a/b/80".into()],
            load_reporting_interval: Some(WireDuration { seconds: 2, nanos: 0 }),
            ..LoadStatsResponse::default()
        });
        assert_eq!(wish.interval, Duration::from_secs(2));
        let told = describe(&wish, news(&["a/b/80", "a/c/80"]), Duration::from_millis(2_500));
        assert_eq!(told.len(), 1);
        assert_eq!(
            told[0].load_report_interval,
            Some(WireDuration {
                seconds: 2,
                nanos: 500_000_000
            })
        );
        let locality = &told[0].upstream_locality_stats[0];
        assert_eq!(
            (
                locality.total_issued_requests,
                locality.total_requests_in_progress
            ),
            (20, 3)
        );
        let metrics: Vec<(&str, u64, f64)> = locality.upstream_endpoint_stats[0]
            .load_metric_stats
            .iter()
            .map(|metric| {
                (
                    &*metric.metric_name,
                    metric.num_requests_finished_with_metric,
                    metric.total_metric_value,
                )
            })
            .collect();
        assert_eq!(metrics, [(CONNECTIONS, 1, 6.0), (FIRST_TOKEN, 9, 4.5)]);
        let all = Wish::from(LoadStatsResponse {
            send_all_clusters: true,
            ..LoadStatsResponse::default()
        });
        assert_eq!(all.interval, INTERVALS.0);
        assert_eq!(
            describe(&all, news(&["a/b/80", "a/c/80"]), Duration::ZERO).len(),
            2
        );
    }
}
