// SPDX-License-Identifier: Apache-2.0
//! Wires the parts together and owns the order of start and stop.
//!
//! ```text
//! store -> registry -> feed -> xDS cache ---+
//!             |                             v
//!             +------> north, dns ---> gRPC server <- gate (access, rate) <- certificates
//! ```
//!
//! Start: what the operator may have got wrong, the store, the resources, and only then the listeners: whoever is let in is served
//! what there is, never an empty mesh. Stop: readiness, streams (each is told to go elsewhere), calls, then the rest.

mod guards;
mod store;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nodemesh_proto::v1::{node_server::NodeServer, registry_server::RegistryServer};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    task::{JoinHandle, JoinSet},
};
use tonic::service::Routes;
use tracing::{info, warn};

use crate::{
    config::{ControlConfig, RELEASE},
    dns::{DnsServer, DnsSockets, Zone},
    metrics::{Lag, Live, MeasuredStore, Metrics},
    north::{LeaseTimes, LoadService, Loads, NodeService, RegistryService, Reports, Sources},
    registry::{AddressRanges, Registry, RegistryOptions},
    security,
    server::{self, Ending, GateLayer, RateLimit, Server, http},
    xds::{self, Ads, Feed},
};

/// How long calls get to finish at the end.
const GRACE: Duration = Duration::from_secs(5);
/// How long tasks that do not end by themselves are waited for.
const LAST_TASKS: Duration = Duration::from_secs(2);
/// How often what nobody asked about for a while is forgotten.
const TIDY_EVERY: Duration = Duration::from_secs(5);
/// Times the limit of messages for requests of xDS, which may list all that a node has.
const XDS_REQUEST: u32 = 4;

/// Runs the control plane until it is told to end.
pub fn run(config: &ControlConfig) -> Result<()> {
    raise_descriptor_limit();
    info!(
        version = RELEASE,
        pid = std::process::id(),
        "nodemesh control plane"
    );
    let runtime = runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let app = tokio::select! {
            app = App::start(config) => app?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM"),
            _ = interrupt.recv() => info!("SIGINT"),
        }
        app.stop().await;
        Ok(())
    });
    runtime.shutdown_timeout(LAST_TASKS);
    if result.is_ok() {
        info!("the control plane ends; nodes go on with what they have");
    }
    result
}

/// A running control plane.
#[derive(Debug)]
pub struct App {
    server: Server,
    dns: Option<DnsServer>,
    http: (SocketAddr, JoinHandle<()>),
    ending: Ending,
    /// What tells the source of the mesh what became of it; ends by itself.
    told: Option<JoinHandle<()>>,
    tasks: JoinSet<()>,
}

impl App {
    /// Starts everything.
    pub async fn start(config: &ControlConfig) -> Result<Self> {
        security::check_exposure(&config.listen, &config.security)?;
        let zone = Zone::new(&config.dns.dns_zone)?;
        let options = RegistryOptions {
            ranges: AddressRanges::new(config.registry.address_range.iter().copied())
                .context("--address-range")?,
            grace: config.registry.address_grace,
        };
        let metrics = Arc::new(Metrics::new().context("declare the metrics")?);
        let mut tasks = JoinSet::new();
        let access = guards::access(&config.security, &metrics, &mut tasks).await?;
        let tls = guards::tls(&config.security, &metrics, &mut tasks).await?;

        let nodes = xds::Nodes::new();
        let opened = store::open(&config.store, &config.kubernetes, &nodes).await?;
        let measured = MeasuredStore::new(Arc::clone(&opened.store), Arc::clone(&metrics));
        let store = Arc::new(measured);
        let registry = Registry::open(store, options)
            .await
            .context("read the resources")?;
        let ending = Ending::default();
        let told = opened.tell(registry.subscribe(), ending.clone());
        let lag = Lag::default();
        let snapshots = feed(&registry, &mut tasks).await?;
        tasks.spawn(lag.clone().follow(snapshots.clone()));
        let sources = sources(config, &registry, nodes);
        let rate = Arc::new(RateLimit::new(config.limits.max_request_rate));
        tasks.spawn(tidy(sources.loads.clone(), Arc::clone(&rate)));
        let gate = GateLayer {
            access,
            rate,
            ending: ending.clone(),
            metrics: Arc::clone(&metrics),
        };
        let ads = Ads::new(snapshots, sources.nodes.clone(), xds_limits(config));
        let routes = routes(config, sources.clone(), ads, &metrics);

        let listeners = config.listen.iter();
        let listeners = listeners.map(|address| server::listen(*address, "--listen"));
        let listeners: Result<Vec<_>, _> = listeners.collect();
        let http_listener = server::listen(config.http, "--http")?;
        let dns = serve_dns(config, zone, &registry, &metrics).await?;
        let server = Server::start(listeners?, tls, gate, routes, &config.limits, &metrics);
        let live = Live {
            metrics,
            sources,
            lag,
        };
        let http = serve_http(http_listener, live, ending.clone())?;
        info!(http = %http.0, dns = ?dns.as_ref().map(|dns| dns.address), "ready");
        Ok(Self {
            server,
            dns,
            http,
            ending,
            told,
            tasks,
        })
    }

    /// Where gRPC is served.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.server.addresses
    }

    /// Where metrics and probes are served.
    pub fn http_address(&self) -> SocketAddr {
        self.http.0
    }

    /// Where DNS is served.
    pub fn dns_address(&self) -> Option<SocketAddr> {
        self.dns.as_ref().map(|dns| dns.address)
    }

    /// Ends everything: streams end with UNAVAILABLE, so that readers connect to another control plane.
    pub async fn stop(mut self) {
        self.ending.announce();
        self.server.stop(GRACE).await;
        drop(self.dns);
        self.http.1.abort();
        if let Some(told) = self.told
            && tokio::time::timeout(LAST_TASKS, told).await.is_err()
        {
            warn!("the source of the mesh does not answer; it is not told that this control plane ends");
        }
        self.tasks.shutdown().await;
    }
}

/// The resources as xDS, from the first state on.
async fn feed(
    registry: &Registry,
    tasks: &mut JoinSet<()>,
) -> Result<tokio::sync::watch::Receiver<Arc<xds::Snapshot>>> {
    let state = registry.state();
    let first = tokio::task::spawn_blocking(move || {
        let mut feed = Feed::new();
        feed.advance(&state);
        feed
    });
    let feed = first.await.context("make xDS of the resources")?;
    let snapshots = feed.snapshots();
    tasks.spawn(feed.run(registry.subscribe()));
    Ok(snapshots)
}

fn sources(config: &ControlConfig, registry: &Registry, nodes: xds::Nodes) -> Sources {
    let max_nodes = config.limits.max_nodes as usize;
    Sources {
        registry: registry.clone(),
        nodes,
        reports: Reports::new(max_nodes),
        loads: Loads::new(max_nodes, config.report_interval),
    }
}

fn xds_limits(config: &ControlConfig) -> xds::Limits {
    xds::Limits {
        streams: config.limits.max_nodes as usize,
        request_bytes: config.limits.max_request_bytes.saturating_mul(XDS_REQUEST) as usize,
        ..xds::Limits::default()
    }
}

fn routes(config: &ControlConfig, sources: Sources, ads: Ads, metrics: &Arc<Metrics>) -> Routes {
    let times = LeaseTimes {
        default: config.registry.lease_ttl,
        least: config.registry.lease_ttl_min,
        most: config.registry.lease_ttl_max,
    };
    let limit = config.limits.max_request_bytes as usize;
    let node = NodeService::new(sources.reports.clone(), config.report_interval);
    let loads = LoadService::new(sources.loads.clone());
    let registry = RegistryService::new(sources, times, Arc::clone(metrics));
    Routes::new(RegistryServer::new(registry).max_decoding_message_size(limit))
        .add_service(NodeServer::new(node).max_decoding_message_size(limit))
        .add_service(loads.into_service(limit))
        .add_service(ads.into_service())
}

async fn serve_dns(
    config: &ControlConfig,
    zone: Zone,
    registry: &Registry,
    metrics: &Arc<Metrics>,
) -> Result<Option<DnsServer>> {
    let Some(address) = config.dns.dns else {
        return Ok(None);
    };
    let sockets = DnsSockets::open(address).await?;
    let server = sockets.serve(zone, registry.subscribe(), Arc::clone(metrics));
    server.map(Some).context("address of --dns")
}

fn serve_http(
    listener: tokio::net::TcpListener,
    live: Live,
    ending: Ending,
) -> Result<(SocketAddr, JoinHandle<()>)> {
    let address = listener.local_addr().context("address of --http")?;
    let routes = http::routes(http::Probes { live, ending });
    let serving = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, routes).await {
            warn!(%error, "the HTTP listener ended");
        }
    });
    Ok((address, serving))
}

/// Forgets now and then.
async fn tidy(loads: Loads, rate: Arc<RateLimit>) {
    let mut ticks = tokio::time::interval(TIDY_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        loads.tidy(Instant::now());
        rate.forget_quiet();
    }
}

/// Every node is a descriptor: takes as many as the system gives.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        } else {
            Ok(())
        }
    });
    if let Err(error) = raised {
        warn!(%error, "the limit of open files stays as it is");
    }
}
