// SPDX-License-Identifier: Apache-2.0
//! A gRPC client that takes its configuration from the control plane, and servers for it: `xds_grpc_client.py` and
//! `xds_grpc_backend.py`.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, de::DeserializeOwned};

use super::{Control, python, tool};
use crate::{process::Process, topology::Pod};

/// A server that answers with its name; ends when dropped.
#[derive(Debug)]
pub struct GrpcBackend {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Process,
}

impl GrpcBackend {
    /// Starts it and waits until it listens.
    pub fn start(pod: &Pod, name: &str, port: u16) -> Self {
        let address = SocketAddr::new(pod.v4(), port);
        let script = tool::script("xds_grpc_backend.py").display().to_string();
        let listen = address.to_string();
        let arguments = ["-B", &script, "--listen", &listen, "--name", name];
        let process = pod.serve(&python().to_string_lossy(), &arguments);
        Self {
            address,
            _process: process.expect("start a gRPC server"),
        }
    }
}

/// What came of some calls.
#[derive(Debug, Deserialize)]
pub struct Calls {
    /// How often each server answered.
    pub servers: BTreeMap<String, u64>,
    /// How often calls failed, by what the library said.
    pub errors: BTreeMap<String, u64>,
}

impl Calls {
    /// Whether all were answered, and by these servers.
    pub fn reached(&self, servers: &[&str]) -> bool {
        self.errors.is_empty() && self.servers.keys().eq(servers)
    }
}

/// What the client says of a resource (CSDS).
#[derive(Debug, Deserialize)]
pub struct ResourceStatus {
    /// The type URL.
    pub r#type: String,
    /// The name.
    pub name: String,
    /// The version of what it uses.
    pub version: String,
    /// `ACKED`, `NACKED`, ...
    pub status: String,
    /// Why it rejected the last one.
    pub error: String,
}

#[derive(Deserialize)]
struct Statuses {
    resources: Vec<ResourceStatus>,
}

/// A running client; ends when dropped.
#[derive(Debug)]
pub struct GrpcClient {
    process: Process,
    answers: usize,
}

impl GrpcClient {
    /// Starts one in `pod` as `node`, that will dial `xds:///target`.
    pub fn start(pod: &Pod, node: &str, target: &str) -> Self {
        let script = tool::script("xds_grpc_client.py").display().to_string();
        let control = ["--control", Control::ADDRESS];
        let who = ["--node", node, "--target", target];
        let arguments = [&["-B", script.as_str()][..], &control, &who].concat();
        let process = pod.spawn(&python().to_string_lossy(), &arguments);
        Self {
            process: process.expect("start a gRPC client"),
            answers: 0,
        }
    }

    /// Calls `count` times, one after the other.
    pub fn call(&mut self, count: u64) -> Calls {
        self.ask(&format!("call {count}"))
    }

    /// What it has of each resource.
    pub fn status(&mut self) -> Vec<ResourceStatus> {
        self.ask::<Statuses>("status").resources
    }

    fn ask<T: DeserializeOwned>(&mut self, line: &str) -> T {
        self.process.write_line(line).expect("the client listens");
        let number = format!("{{\"answer\": {},", self.answers);
        self.answers += 1;
        let answer = self.process.wait_for_line(|line| line.starts_with(&number));
        let answer = answer.expect("the client answers");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }
}
