// SPDX-License-Identifier: Apache-2.0
//! A client script in a pod. When its requests are over it keeps its connections, until it is told to go.

use std::net::SocketAddr;

use super::{server::Server, tool, truth::Truth};
use crate::{process::Process, topology::Pod};

/// A running client; ends when dropped.
#[derive(Debug)]
pub struct Client {
    /// Its process.
    pub process: Process,
}

impl Client {
    /// Starts `openai_client.py`: the openai SDK, that asks `server`, which it reaches at `address`.
    pub fn openai(pod: &Pod, server: &Server, address: SocketAddr, flags: &[&str]) -> Self {
        let base = format!("{}/v1", server.url(address));
        Self::start(
            pod,
            "openai_client.py",
            ["--base-url", &base],
            &server.flags(flags),
        )
    }

    /// Starts `httpx_client.py`: httpx.
    pub fn httpx(pod: &Pod, server: &Server, address: SocketAddr, flags: &[&str]) -> Self {
        let completions = format!("{}/v1/chat/completions", server.url(address));
        Self::start(
            pod,
            "httpx_client.py",
            ["--url", &completions],
            &server.flags(flags),
        )
    }

    /// Starts `grpc_client.py`: grpcio.
    pub fn grpc(pod: &Pod, server: &Server, address: SocketAddr, flags: &[&str]) -> Self {
        let target = address.to_string();
        Self::start(pod, "grpc_client.py", ["--target", &target], &server.flags(flags))
    }

    fn start(pod: &Pod, script: &str, whom: [&str; 2], flags: &[String]) -> Self {
        let (python, script) = (tool::python(), tool::script(script).display().to_string());
        let words = ["-B", &script].into_iter().chain(whom);
        let arguments: Vec<&str> = words.chain(flags.iter().map(String::as_str)).collect();
        let started = pod.spawn(&python.to_string_lossy(), &arguments);
        Self {
            process: started.expect("start a client"),
        }
    }

    /// Waits until the log of the first request has an event like this one.
    pub fn wait_for(&self, event: &str) {
        let event = format!("\"event\": \"{event}\"");
        self.process
            .wait_for_line(|line| line.contains(&event))
            .expect("the client goes on");
    }

    /// Waits until all requests are over; the connections stay.
    pub fn done(&self) -> Truth {
        self.wait_for("idle");
        Truth::of(&self.process.stdout())
    }

    /// Has it close its connections and end.
    pub fn leave(mut self) -> Truth {
        let truth = self.done();
        self.process.close_stdin();
        let status = self.process.wait().expect("the client ends");
        assert!(status.success(), "{status}: {:?}", self.process.stderr());
        truth
    }
}
