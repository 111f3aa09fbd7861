// SPDX-License-Identifier: Apache-2.0
//! A control plane of somebody else's: `xds_server.py`, and resources for it in the JSON form of protobuf.

use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{python, tool};
use crate::process::{Place, Process};

/// A line of the server's log.
#[derive(Clone, Debug, Deserialize)]
pub struct Said {
    /// `request`, `ack`, `nack` or `stream_ended`.
    pub event: String,
    /// The type URL.
    #[serde(default)]
    pub r#type: String,
    /// `delta` or `sotw`.
    #[serde(default)]
    pub variant: String,
    /// Who asks; only the first request of a stream has to say so.
    #[serde(default)]
    pub node: String,
    /// Why it rejects.
    #[serde(default)]
    pub error: String,
    /// The names that it asks for.
    #[serde(default)]
    pub subscribe: Vec<String>,
    /// Versions that it has from an earlier stream.
    #[serde(default)]
    pub initial: std::collections::BTreeMap<String, String>,
}

/// A running server; ends when dropped.
#[derive(Debug)]
pub struct ForeignServer {
    process: Process,
}

impl ForeignServer {
    /// Where it listens, in its network namespace.
    pub const ADDRESS: &'static str = "127.0.0.1:18000";

    /// Starts it at `place` and waits until it listens.
    pub fn start(place: &Place) -> Self {
        let script = tool::script("xds_server.py").display().to_string();
        let arguments = ["-B", &script, "--listen", Self::ADDRESS];
        let process = Process::spawn(place, &python(), &arguments).expect("start the xDS server");
        process
            .wait_for_line(|line| line.starts_with("listening on"))
            .expect("the xDS server listens");
        Self { process }
    }

    /// From now on there are these resources and no others.
    pub fn publish(&mut self, resources: &[Value]) {
        let line = Value::from(resources).to_string();
        self.process.write_line(&line).expect("the xDS server goes on");
    }

    /// Ends every stream; readers may connect again.
    pub fn end_streams(&mut self) {
        self.process.write_line("").expect("the xDS server goes on");
    }

    /// What readers have said.
    pub fn said(&self) -> Vec<Said> {
        let lines = self.process.stdout();
        let parsed = lines.iter().filter(|line| line.starts_with('{'));
        parsed
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect()
    }
}

fn address(of: SocketAddr) -> Value {
    json!({"socketAddress": {"address": of.ip().to_string(), "portValue": of.port()}})
}

fn proxy(name: &str, at: SocketAddr, to: &Value) -> Value {
    let mut filter = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "statPrefix": name,
    });
    for (key, value) in to.as_object().into_iter().flatten() {
        filter[key] = value.clone();
    }
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": name,
        "address": address(at),
        "filterChains": [{"filters": [{"name": "envoy.filters.network.tcp_proxy", "typedConfig": filter}]}],
    })
}

/// A listener at an address that leads to a cluster.
pub fn listener(name: &str, at: SocketAddr, cluster: &str) -> Value {
    proxy(name, at, &json!({"cluster": cluster}))
}

/// A listener at an address that leads to clusters by their weights.
pub fn weighted_listener(name: &str, at: SocketAddr, clusters: &[(&str, u32)]) -> Value {
    let clusters = clusters
        .iter()
        .map(|(name, weight)| json!({"name": name, "weight": weight}));
    let clusters: Value = clusters.collect();
    proxy(name, at, &json!({"weightedClusters": {"clusters": clusters}}))
}

/// A cluster whose endpoints come by EDS.
pub fn cluster(name: &str, policy: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "edsClusterConfig": {"edsConfig": {"ads": {}, "resourceApiVersion": "V3"}},
        "lbPolicy": policy,
    })
}

/// Endpoints with their health, each `HEALTHY`, `UNHEALTHY` or `DRAINING`.
pub fn assignment(cluster: &str, endpoints: &[(IpAddr, u16, &str)]) -> Value {
    let endpoints = endpoints.iter().map(|(ip, port, health)| {
        json!({
            "endpoint": {"address": address(SocketAddr::new(*ip, *port))},
            "healthStatus": health,
            "loadBalancingWeight": 1,
        })
    });
    let endpoints: Value = endpoints.collect();
    json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "clusterName": cluster,
        "endpoints": [{"locality": {"region": "r"}, "loadBalancingWeight": 1, "lbEndpoints": endpoints}],
    })
}
