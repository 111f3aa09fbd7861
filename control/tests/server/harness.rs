// SPDX-License-Identifier: Apache-2.0
//! Starts a control plane for one test, and clients of it.

use std::{net::SocketAddr, path::Path, time::Duration};

use clap::Parser as _;
use nodemesh_control::{app::App, config::ControlConfig};
use nodemesh_proto::{
    v1::{node_client::NodeClient, registry_client::RegistryClient},
    xds::envoy::service::{
        discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        load_stats::v3::load_reporting_service_client::LoadReportingServiceClient,
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tonic::transport::{Channel, Endpoint};

/// How long anything that has to happen may take.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A control plane. Its folder goes with it.
pub struct Control {
    pub app: App,
    pub folder: TempDir,
}

impl Control {
    /// Starts one with an empty store, on free ports of the loopback, and `flags`.
    pub async fn start(flags: &[&str]) -> Self {
        let folder = folder();
        let app = start_in(folder.path(), flags)
            .await
            .expect("the control plane starts");
        Self { app, folder }
    }

    pub fn address(&self) -> SocketAddr {
        self.app.addresses()[0]
    }

    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address())).expect("a URL");
        endpoint.connect().await.expect("the control plane listens")
    }

    pub async fn registry(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.channel().await)
    }

    pub async fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel().await)
    }

    pub async fn ads(&self) -> AggregatedDiscoveryServiceClient<Channel> {
        AggregatedDiscoveryServiceClient::new(self.channel().await)
    }

    pub async fn lrs(&self) -> LoadReportingServiceClient<Channel> {
        LoadReportingServiceClient::new(self.channel().await)
    }

    /// Status line and body of a `GET`.
    pub async fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.app.http_address())
            .await
            .expect("HTTP listens");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("HTTP reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("HTTP answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a response");
        let status = head.lines().next().expect("a status line");
        (status.to_owned(), body.to_owned())
    }

    /// The value of a series of `/metrics`, if it is there.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics").await;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|number| number.parse().expect("a number"))
    }
}

pub fn folder() -> TempDir {
    tempfile::Builder::new()
        .prefix("nodemesh-control-")
        .tempdir()
        .expect("a temporary folder")
}

/// Starts a control plane with its store in `folder`. Flags given here win.
pub async fn start_in(folder: &Path, flags: &[&str]) -> anyhow::Result<App> {
    let store = format!("embedded://{}/store.redb", folder.display());
    let mut arguments = vec!["nodemesh-control", "--http", "127.0.0.1:0", "--store", &store];
    if !flags.contains(&"--listen") {
        arguments.extend(["--listen", "127.0.0.1:0"]);
    }
    arguments.extend(flags);
    let config = ControlConfig::try_parse_from(arguments)?;
    App::start(&config).await
}

/// Waits until `check` says yes.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let until = Instant::now() + DEADLINE;
    while !check().await {
        assert!(Instant::now() < until, "not in time: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// What `future` comes to, which must not take long.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = timeout(DEADLINE, future).await;
    done.unwrap_or_else(|late| panic!("not in time: {what}: {late}"))
}

/// A Service of namespace `models`, with one port and a selector for its workloads.
pub fn service(name: &str, addresses: &[&str]) -> Value {
    json!({
        "apiVersion": "nodemesh.io/v1alpha1",
        "kind": "Service",
        "metadata": {"namespace": "models", "name": name},
        "spec": {
            "addresses": addresses,
            "ports": [{"port": 80, "targetPort": 8000}],
            "selector": {"app": name},
        },
    })
}

/// A Workload of namespace `models`, with the label that [`service`] selects.
pub fn workload(name: &str, app: &str, address: &str) -> Value {
    json!({
        "apiVersion": "nodemesh.io/v1alpha1",
        "kind": "Workload",
        "metadata": {"namespace": "models", "name": name, "labels": {"app": app}},
        "spec": {"addresses": [address]},
    })
}
