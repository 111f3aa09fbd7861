// SPDX-License-Identifier: Apache-2.0
//! The server over loopback sockets, in process. Also starts servers for the tests of [`crate::load`].

mod behaviour;
mod failures;
mod parts;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::Parser as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{ModelServer, Options};

/// The label alone, of a sample that has no other.
const MODEL: &str = "model_name=\"llama-3.1-8b\"";
/// Longer than any test waits for something that happens.
const DEADLINE: Duration = Duration::from_secs(20);

/// A server that serves until it is stopped or dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<usize>,
}

/// Starts a server on a free port of 127.0.0.1 with further `flags`, named `r0` unless they say otherwise.
pub(crate) fn start(flags: &[&str]) -> Running {
    let name: &[&str] = if flags.contains(&"--name") {
        &[]
    } else {
        &["--name", "r0"]
    };
    let command = ["model-server", "--listen", "127.0.0.1:0"]
        .iter()
        .chain(name)
        .chain(flags);
    let server = ModelServer::bind(Options::parse_from(command)).expect("a free port of 127.0.0.1");
    let address = server.addresses()[0];
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(server.serve(async { drop(stopped.await) }));
    Running {
        address,
        stop: Some(stop),
        serving,
    }
}

impl Running {
    fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    async fn stopped(self) -> usize {
        tokio::time::timeout(DEADLINE, self.serving)
            .await
            .expect("the server stops in time")
            .expect("no panic")
    }

    /// Sends a request on a connection of its own and returns the connection.
    async fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("connect");
        stream
            .write_all(request(method, path, "close", body).as_bytes())
            .await
            .expect("send");
        stream
    }

    async fn fetch(&self, method: &str, path: &str, body: &str) -> String {
        all(&mut self.send(method, path, body).await).await
    }

    pub(crate) async fn control(&self, change: &str) -> Value {
        let answer = self.fetch("POST", "/control", change).await;
        serde_json::from_str(body(&answer)).expect("JSON")
    }

    /// A stream of `tokens` tokens.
    async fn chat(&self, tokens: u32) -> TcpStream {
        self.send("POST", "/v1/chat/completions", &chat_body(tokens))
            .await
    }

    /// Waits until /metrics has `sample` as a line (labels of model and engine left out).
    pub(crate) async fn metric(&self, sample: &str) {
        let started = Instant::now();
        loop {
            let mut metrics = self.fetch("GET", "/metrics", "").await;
            for label in [
                "engine=\"0\",",
                ",model_name=\"llama-3.1-8b\"",
                "model_name=\"llama-3.1-8b\",",
                MODEL,
            ] {
                metrics = metrics.replace(label, "");
            }
            if metrics.replace("{}", "").lines().any(|line| line == sample) {
                return;
            }
            assert!(started.elapsed() < DEADLINE, "no `{sample}` in\n{metrics}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn request(method: &str, path: &str, connection: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: {connection}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn chat_body(tokens: u32) -> String {
    format!(r#"{{"messages":[{{"role":"user","content":"hi there"}}],"stream":true,"max_tokens":{tokens}}}"#)
}

async fn all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
        .await
        .expect("an answer")
        .expect("no error");
    String::from_utf8(answer).expect("UTF-8")
}

/// Reads until `marker` has come and returns everything so far.
async fn until(stream: &mut TcpStream, marker: &str) -> String {
    let mut answer = String::new();
    let read = async {
        while !answer.contains(marker) {
            let mut bytes = [0; 4096];
            let n = stream.read(&mut bytes).await.expect("read");
            assert!(n > 0, "closed before `{marker}`: {answer}");
            answer.push_str(std::str::from_utf8(&bytes[..n]).expect("ASCII"));
        }
    };
    tokio::time::timeout(DEADLINE, read)
        .await
        .unwrap_or_else(|_| panic!("no `{marker}` came"));
    answer
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").expect("headers").1
}

/// JSON of the events of a whole answer; `[DONE]` as a string.
fn events(answer: &str) -> Vec<Value> {
    let data = body(answer)
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| data.into()))
        .collect()
}
