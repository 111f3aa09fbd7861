// SPDX-License-Identifier: Apache-2.0
//! A replica of a model: a `model-server` in a pod, with a second port, which is no backend of the mesh, to change its behaviour.
//!
//! Invariant: what it refuses fails the test at once, with its answer.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use serde_json::Value;

use crate::{netns::NetNs, process::Process, topology::Pod};

/// How far the second port is from the first.
const CONTROL: u16 = 100;

/// A running model server; ends when dropped.
#[derive(Debug)]
pub struct ModelServer {
    /// The backend.
    pub address: SocketAddr,
    control: SocketAddr,
    process: Process,
}

impl ModelServer {
    /// Starts it with `flags` at `port` of the IPv4 address of `pod`, and waits until it listens.
    pub fn start(pod: &Pod, port: u16, flags: &[&str]) -> Self {
        let [address, control] = [port, port + CONTROL].map(|port| SocketAddr::new(pod.v4(), port));
        let listen = [address, control].map(|address| address.to_string());
        let arguments = [&["--listen", &listen[0], "--listen", &listen[1]], flags].concat();
        Self {
            address,
            control,
            process: pod.serve("model-server", &arguments).expect("a model server"),
        }
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Changes its behaviour, which must be possible from `netns`.
    pub fn behave(&self, netns: &NetNs, change: &Value) {
        let body = change.to_string();
        let length = body.len();
        let answer = self.ask(
            netns,
            &format!("POST /control HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}"),
        );
        assert!(answer.contains(" 200 OK"), "{answer}");
    }

    /// What it says of its health.
    pub fn health(&self, netns: &NetNs) -> String {
        let answer = self.ask(netns, "GET /health HTTP/1.0\r\n\r\n");
        answer.lines().next().unwrap_or_default().to_owned()
    }

    /// Connections that it ever accepted at the backend and the second port together.
    pub fn accepted(&self, netns: &NetNs) -> u64 {
        let answer = self.ask(netns, "GET /control HTTP/1.0\r\n\r\n");
        let (_, body) = answer.split_once("\r\n\r\n").expect("an answer");
        let shown: Value = serde_json::from_str(body).expect("JSON");
        shown["state"]["connections_accepted"].as_u64().expect("a number")
    }

    fn ask(&self, netns: &NetNs, request: &str) -> String {
        let asked = netns.run(|| -> std::io::Result<String> {
            let mut answer = String::new();
            let mut stream = TcpStream::connect(self.control)?;
            stream.write_all(request.as_bytes())?;
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        asked
            .expect("a network namespace")
            .expect("a model server that answers")
    }
}
