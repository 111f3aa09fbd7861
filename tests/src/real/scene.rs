// SPDX-License-Identifier: Apache-2.0
//! One node with a client pod and a server pod, and an agent that meters what they say to each other.
//!
//! Both ends are on the agent's node, so that it sees every request from both vantages. Invariant: what the scene cannot do fails
//! the test at once, with the reason.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
};

use nodemesh_agent::{
    api::{Traffic, TrafficReport, Vantage},
    config::ADMIN_SOCKET,
};
use serde_json::Value;

use crate::{
    bed::{Bed, Family},
    certificate::Certificates,
    eventually::eventually,
    manifest::{Manifest, Service},
    topology::Pod,
};

/// Client, server and agent.
#[derive(Debug)]
pub struct Scene {
    /// The agent, and the client.
    pub bed: Bed,
    /// A pod of the same node.
    pub server: Pod,
    ports: u16,
    flags: Vec<&'static str>,
}

impl Scene {
    /// Without an agent: the server is reached at its own address.
    pub fn new() -> Self {
        let bed = Bed::new();
        let server = bed.a.pod("replica").expect("a pod");
        Self {
            bed,
            server,
            ports: first_port(),
            flags: Vec::new(),
        }
    }

    /// The same; its agent will see bytes by this path, `tracepoint` or `packet`.
    pub fn by(path: &'static str) -> Self {
        Self {
            flags: vec!["--meter-path", path],
            ..Self::new()
        }
    }

    /// The `number`th port for servers, of at most nine, that no other scene of this machine is likely to use at the same time: scenes
    /// have the same addresses, and an agent meters whatever socket of the machine is accepted at an address of its backends.
    pub fn port(&self, number: u16) -> u16 {
        self.ports + number
    }

    /// The pod of the clients.
    pub fn client(&self) -> &Pod {
        &self.bed.client
    }

    /// A folder that goes with the scene.
    pub fn folder(&self) -> PathBuf {
        let config = self.bed.agent.config();
        config
            .parent()
            .map(Path::to_owned)
            .expect("a file is in a folder")
    }

    /// Certificates for the server and for the services.
    pub fn certificates(&self) -> Certificates {
        let services = (1..=9).map(|number| Family::V4.vip(number).ip());
        let addresses = [self.server.v4()].into_iter().chain(services);
        let names: Vec<String> = addresses.map(|address| address.to_string()).collect();
        Certificates::generate(&self.folder(), &names).expect("certificates")
    }

    /// Starts the agent with the services `m1`, `m2`..., one for each of `backends`, and an access log. Returns where clients find
    /// them.
    pub fn mesh(&mut self, backends: &[SocketAddr]) -> Vec<SocketAddr> {
        let numbered = || (1u8..).zip(backends);
        let services = numbered().map(|(number, backend)| {
            Service::new(&format!("m{number}"), Family::V4.vip(number)).to([*backend])
        });
        let flags = [&["--access-log", "json"], &self.flags[..]].concat();
        self.bed.start(&Manifest::of(services), &flags);
        numbered().map(|(number, _)| Family::V4.vip(number)).collect()
    }

    /// `GET /v1/traffic` of the admin socket.
    fn report(&self) -> TrafficReport {
        let socket = self.bed.agent.run_dir().join(ADMIN_SOCKET);
        let ask = || -> std::io::Result<String> {
            let (mut stream, mut answer) = (UnixStream::connect(&socket)?, String::new());
            write!(stream, "GET /v1/traffic HTTP/1.0\r\nHost: nodemesh\r\n\r\n")?;
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = ask().unwrap_or_else(|error| panic!("ask {}: {error}", socket.display()));
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    /// What was counted of the backend at `address`, once `is_right`.
    #[track_caller]
    pub fn traffic(
        &self,
        address: SocketAddr,
        vantage: Vantage,
        is_right: impl Fn(&Traffic) -> bool,
    ) -> Traffic {
        let of_this = |row: &Traffic| row.backend == address.to_string() && row.vantage == vantage;
        let found = |rows: &Vec<Traffic>| rows.iter().any(|row| of_this(row) && is_right(row));
        let rows = eventually("traffic", || self.report().rows, found);
        rows.into_iter().find(of_this).expect("it was found")
    }

    /// Requests of the backend at `address` in the access log, once there are `count`, in the order of their ends.
    #[track_caller]
    pub fn access(&self, address: SocketAddr, vantage: &str, count: usize) -> Vec<Value> {
        let is_one = |line: &Value| {
            line["kind"] == "request" && line["vantage"] == vantage && line["backend"] == address.to_string()
        };
        let look = || {
            let lines = self.bed.agent.process().stdout();
            let parsed = lines.iter().filter_map(|line| serde_json::from_str(line).ok());
            parsed.filter(is_one).collect::<Vec<Value>>()
        };
        let lines = eventually("lines in the access log", look, |lines| lines.len() >= count);
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines
    }
}

fn first_port() -> u16 {
    static SCENES: AtomicU16 = AtomicU16::new(0);
    let scene = SCENES.fetch_add(1, Ordering::Relaxed) % 16;
    let process = std::process::id() % 128;
    10_000 + (process as u16 * 16 + scene) * 10
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}
