// SPDX-License-Identifier: Apache-2.0
//! Envoy in a pod, configured by the control plane.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{Control, ENVOY_REQUIREMENTS, installed, within};
use crate::{process::Process, topology::Pod};

const ADMIN: &str = "127.0.0.1:9901";

/// How Envoy speaks xDS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdsVariant {
    /// Incremental.
    Delta,
    /// State of the world.
    StateOfTheWorld,
}

/// A running Envoy; ends when dropped.
#[derive(Debug)]
pub struct Envoy<'p> {
    pod: &'p Pod,
    process: Process,
}

impl<'p> Envoy<'p> {
    /// Starts one in `pod` as `node`, with its bootstrap in `folder`.
    pub fn start(pod: &'p Pod, folder: &Path, node: &str, variant: AdsVariant) -> Self {
        let file = folder.join(format!("{node}.json"));
        fs::write(&file, bootstrap(node, variant).to_string()).expect("write the bootstrap");
        let program = installed(ENVOY_REQUIREMENTS, "envoy");
        let file = file.display().to_string();
        let arguments = [
            "-c",
            &file,
            "--concurrency",
            "1",
            "--use-dynamic-base-id",
            "-l",
            "warning",
        ];
        let process = pod.spawn(&program.to_string_lossy(), &arguments);
        Self {
            pod,
            process: process.expect("start Envoy"),
        }
    }

    /// Its counters and gauges; none while it does not answer yet.
    pub fn stats(&self) -> BTreeMap<String, u64> {
        let text = self.get("/stats").unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once(": "));
        lines
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    /// Names of what came over xDS and is in use: `clusters`, `listeners`, `endpoints`.
    pub fn in_use(&self) -> BTreeMap<&'static str, BTreeSet<String>> {
        let dump = self.get("/config_dump?include_eds").unwrap_or_default();
        let dump: Value = serde_json::from_str(&dump).unwrap_or_default();
        let configs = || dump["configs"].as_array().into_iter().flatten();
        let names = |section: &str, path: &str| {
            let items = configs()
                .filter_map(|config| config[section].as_array())
                .flatten();
            let names = items.filter_map(|item| item.pointer(path)?.as_str());
            names.map(str::to_owned).collect::<BTreeSet<_>>()
        };
        let listeners = configs().filter_map(|config| config["dynamic_listeners"].as_array());
        let active = listeners
            .flatten()
            .filter(|listener| listener["active_state"].is_object());
        BTreeMap::from([
            ("clusters", names("dynamic_active_clusters", "/cluster/name")),
            (
                "endpoints",
                names("dynamic_endpoint_configs", "/endpoint_config/cluster_name"),
            ),
            (
                "listeners",
                active
                    .filter_map(|listener| listener["name"].as_str().map(str::to_owned))
                    .collect(),
            ),
        ])
    }

    /// What it has logged: warnings and errors.
    pub fn log(&self) -> Vec<String> {
        self.process.stderr()
    }

    fn get(&self, path: &str) -> Option<String> {
        within(self.pod, async || body(path).await.ok())
    }
}

/// What the admin interface answers; it takes HTTP/1.1 only.
async fn body(path: &str) -> anyhow::Result<String> {
    let stream = TcpStream::connect(ADMIN).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header("host", "envoy")
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        anyhow::ensure!(answer.status().is_success(), "{path}: {}", answer.status());
        let bytes = answer.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8(bytes.into())?)
    };
    tokio::select! {
        answer = answer => answer,
        ended = connection => anyhow::bail!("{path}: {ended:?}"),
    }
}

fn socket_address(address: &str) -> Value {
    let (ip, port) = address.rsplit_once(':').expect("ip:port");
    let port: u16 = port.parse().expect("a port");
    json!({"socket_address": {"address": ip, "port_value": port}})
}

fn bootstrap(node: &str, variant: AdsVariant) -> Value {
    let api_type = match variant {
        AdsVariant::Delta => "DELTA_GRPC",
        AdsVariant::StateOfTheWorld => "GRPC",
    };
    let over_ads = json!({"ads": {}, "resource_api_version": "V3"});
    let endpoint = json!({"endpoint": {"address": socket_address(Control::ADDRESS)}});
    let http2 = json!({
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    });
    json!({
        "node": {"id": node, "cluster": "tests"},
        "admin": {"address": socket_address(ADMIN)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": api_type,
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "control"}}],
                "set_node_on_first_message_only": true,
            },
            "cds_config": over_ads,
            "lds_config": over_ads,
        },
        "static_resources": {"clusters": [{
            "name": "control",
            "type": "STATIC",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2,
            },
            "load_assignment": {
                "cluster_name": "control",
                "endpoints": [{"lb_endpoints": [endpoint]}],
            },
        }]},
    })
}
