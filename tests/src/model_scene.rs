// SPDX-License-Identifier: Apache-2.0
//! An agent, a client and model servers whose behaviour is known: the scene of the tests of what people see of the meter.
//!
//! Invariant: what the scene cannot do fails the test at once, with the reason.

use std::net::SocketAddr;

use serde_json::Value;

use crate::{
    bed::{Bed, Family, ModelServer},
    eventually::eventually,
    manifest::{Manifest, Service},
    process::Process,
    single_node::said,
    topology::Pod,
};

/// A service with one model server.
pub struct Model {
    /// What clients dial.
    pub address: SocketAddr,
    /// Its only backend.
    pub replica: SocketAddr,
    /// Name of the service, with its namespace.
    pub name: String,
    server: ModelServer,
}

/// An agent, and the services `m1`, `m2`... with one model server each, which is started with these flags.
pub struct ModelScene {
    /// Client and agent.
    pub bed: Bed,
    /// The pod of the servers, on the node of client and agent: both ends of each connection are metered.
    pub server: Pod,
    /// The services.
    pub models: Vec<Model>,
}

impl ModelScene {
    /// Starts the servers, then the agent with more flags.
    pub fn new(servers: &[&[&str]], agent: &[&str]) -> Self {
        let mut bed = Bed::new();
        let server = bed.a.pod("server").expect("a pod");
        let models: Vec<Model> = (1..)
            .zip(servers)
            .map(|(number, flags)| Model::start(&server, number, flags))
            .collect();
        let services = models.iter().map(|model| {
            let name = model.name.trim_start_matches("models/");
            Service::new(name, model.address).to([model.replica])
        });
        let manifest = Manifest::of(services);
        bed.start(&manifest, agent);
        Self { bed, server, models }
    }

    /// A client of the model `index`.
    pub fn client(&self, index: usize, flags: &[&str]) -> Process {
        let url = format!("http://{}", self.models[index].address);
        let arguments = [&["--url", &url], flags].concat();
        self.bed
            .client
            .spawn("load-client", &arguments)
            .expect("a scene that works")
    }

    /// A client of the model `index` with `connections` that have had an answer each and think about the next request for an hour.
    pub fn thinking(&self, index: usize, connections: u64) -> Process {
        let (few, more) = (connections.to_string(), (2 * connections).to_string());
        let flags = ["--mode", "keep-alive", "--concurrency", &few, "--requests", &more];
        let client = self.client(
            index,
            &[&flags[..], &["--think", "1h", "--report-interval", "100ms"]].concat(),
        );
        eventually(
            "their first answers",
            || answered(&client),
            |count| *count == connections,
        );
        client
    }

    /// Waits until the replica of the model `index` has so many connections and requests.
    pub fn await_open(&self, index: usize, connections: u64, requests: u64) {
        eventually(
            "connections and requests",
            || {
                let backend = self.bed.backend(self.models[index].replica);
                (backend.active_connections, backend.requests_in_flight)
            },
            |seen| *seen == (connections, Some(requests)),
        );
    }

    /// Waits until `count` requests at once are let in: a client is through with an answer a little later than the server.
    pub fn await_room(&self, index: usize, count: u64) {
        let text = count.to_string();
        let flags = [
            "--mode",
            "one-shot",
            "--concurrency",
            &text,
            "--requests",
            &text,
            "--allow-failures",
        ];
        let send = || {
            self.client(index, &flags)
                .report::<Value>()
                .expect("a scene that works")
                .0
        };
        eventually("room for them", send, |report| report["requests"]["ok"] == count);
    }

    /// Has a client send `count` requests, one after the other, all of which succeed.
    pub fn send(&self, index: usize, count: u64, flags: &[&str]) -> Value {
        let count_text = count.to_string();
        let client = self.client(index, &[&["--requests", &count_text], flags].concat());
        let (report, status) = client.report::<Value>().expect("a scene that works");
        assert!(
            status.success() && report["requests"]["ok"] == count,
            "{report:#}"
        );
        report
    }

    /// Changes the behaviour of the model server `index`. Its second port is no backend of the mesh.
    pub fn control(&self, index: usize, change: &Value) {
        self.models[index].server.behave(self.server.netns(), change);
    }

    /// The output of a CLI call that must succeed.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let output = self.bed.agent.cli(arguments).expect("a scene that works");
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).expect("a scene that works")
    }

    /// The JSON list that a verb of the CLI prints.
    pub fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.cli(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// Rows of a table, without its headers, as words.
    pub fn rows(&self, arguments: &[&str]) -> Vec<Vec<String>> {
        let text = self.cli(arguments);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        text.lines().skip(1).map(words).collect()
    }

    /// `nodemesh log`.
    pub fn logs(&self) -> Value {
        serde_json::from_str(&self.cli(&["log", "-o", "json"])).expect("JSON")
    }

    /// What the access log has on the agent's standard output.
    pub fn access_lines(&self) -> Vec<Value> {
        let lines = self.bed.agent.process().stdout();
        let parse =
            |line: &String| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        lines.iter().map(parse).collect()
    }
}

/// Requests that a client which reports intervals has had answered.
fn answered(client: &Process) -> u64 {
    let ok = |line: String| {
        let report: Value = serde_json::from_str(&line).expect("a report");
        report["requests"]["ok"].as_u64().expect("a number")
    };
    client.stdout().into_iter().map(ok).sum()
}

impl Model {
    fn start(pod: &Pod, number: u8, flags: &[&str]) -> Self {
        let server = ModelServer::start(pod, 9_000 + u16::from(number), flags);
        Self {
            address: Family::V4.vip(number),
            replica: server.address,
            name: format!("models/m{number}"),
            server,
        }
    }
}
