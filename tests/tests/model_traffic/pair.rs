// SPDX-License-Identifier: Apache-2.0
//! A model server and a load client in this process, with their logs, and what it means that these agree.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use clap::Parser as _;
use nodemesh_e2e::{
    certificate::Certificates,
    eventually::PATIENCE,
    load::{
        self, Report,
        observation::{self, Observation},
    },
    model_server::{self, ModelServer},
    truth::{self, Exchange},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};

/// Longest time that a byte may take over loopback on a busy machine.
const TRANSIT: Duration = Duration::from_millis(500);

/// What is on the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Nothing.
    None,
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

impl Tls {
    pub const ALL: [Self; 3] = [Self::None, Self::V12, Self::V13];

    fn version(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::V12 => Some("1.2"),
            Self::V13 => Some("1.3"),
        }
    }
}

/// A server that serves until it is dropped.
pub struct Pair {
    tls: Tls,
    address: SocketAddr,
    control: SocketAddr,
    certificates: Certificates,
    folder: TempDir,
    _stop: oneshot::Sender<()>,
}

/// What both ends say of one run.
pub struct Run {
    tls: Tls,
    pub report: Report,
    /// The exchanges that the server saw.
    pub both: Vec<(Exchange, Observation)>,
    unanswered: Vec<Observation>,
}

/// A client that runs.
pub struct Running<'a> {
    pair: &'a Pair,
    client: JoinHandle<anyhow::Result<Report>>,
}

/// Words of a command line.
pub fn flags(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

impl Pair {
    /// Starts the server with more flags.
    pub fn start(tls: Tls, line: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let certificates = Certificates::generate(folder.path(), &["127.0.0.1"]).expect("certificates");
        let truth = folder.path().join("truth").display().to_string();
        let mut command = flags("model-server --listen 127.0.0.1:0 --listen-plain 127.0.0.1:0 --truth");
        command.push(truth);
        command.extend(flags(line));
        if let Some(version) = tls.version() {
            command.extend(certificates.server_flags());
            command.extend(["--tls-versions".into(), version.into()]);
        }
        let server = ModelServer::bind(model_server::Options::parse_from(command)).expect("a free port");
        let (address, control) = (server.addresses()[0], server.addresses()[1]);
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(server.serve(async { drop(stopped.await) }));
        Self {
            tls,
            address,
            control,
            certificates,
            folder,
            _stop: stop,
        }
    }

    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Runs a client to its end.
    pub async fn run(&self, line: &str) -> Run {
        self.spawn(line).ended().await
    }

    /// Starts a client.
    pub fn spawn(&self, line: &str) -> Running<'_> {
        let mut more = flags(line);
        more.extend(["--log".into(), self.log().display().to_string()]);
        let options = self.options(&more, &self.certificates);
        Running {
            pair: self,
            client: tokio::spawn(load::drive(options, std::future::pending(), |_| Ok(()))),
        }
    }

    /// Runs a client without a log that trusts these certificates.
    pub async fn client(&self, more: &[String], trusted: &Certificates) -> Report {
        let options = self.options(more, trusted);
        load::drive(options, std::future::pending(), |_| Ok(()))
            .await
            .expect("a run")
    }

    fn options(&self, more: &[String], trusted: &Certificates) -> load::Options {
        let scheme = if self.tls == Tls::None { "http" } else { "https" };
        let mut command = vec!["load-client".into(), format!("--url={scheme}://{}", self.address)];
        command.extend(trusted.client_flags());
        command.extend_from_slice(more);
        load::Options::parse_from(command)
    }

    /// Changes the behaviour of the server and gives what `/control` says.
    pub async fn control(&self, change: &Value) -> Value {
        let body = change.to_string();
        let request = format!(
            "POST /control HTTP/1.0\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(self.control)
            .await
            .expect("the server listens");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("the server reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
        serde_json::from_str(body).expect("JSON")
    }

    /// The counts of exchanges.
    pub async fn requests(&self) -> Value {
        self.control(&Value::Object(serde_json::Map::new())).await["state"]["requests"].take()
    }

    /// Waits until the counts are right.
    pub async fn requests_until(&self, are_right: impl Fn(&Value) -> bool) {
        let started = Instant::now();
        loop {
            let counts = self.requests().await;
            if are_right(&counts) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{counts}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn log(&self) -> std::path::PathBuf {
        self.folder.path().join("log")
    }

    /// Every exchange that began, once all have ended.
    async fn truth(&self, path: &Path) -> Vec<Exchange> {
        self.requests_until(|counts| counts["open"] == 0).await;
        let started = self.requests().await["started"].as_u64().expect("a count");
        let patience = Instant::now();
        loop {
            let lines = truth::read(path).expect("the truth");
            if lines.len() as u64 == started {
                return lines;
            }
            assert!(
                patience.elapsed() < PATIENCE,
                "{} lines of {started}",
                lines.len()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Running<'_> {
    /// Waits for the end and reads both logs.
    pub async fn ended(self) -> Run {
        let report = self.client.await.expect("no panic").expect("a run");
        let truth = self.pair.truth(&self.pair.folder.path().join("truth")).await;
        // Whole, since the client and with it the log are gone.
        let seen = observation::read(&self.pair.log()).expect("the log");
        let mut by_id: HashMap<_, _> = seen.into_iter().map(|seen| (seen.id.clone(), seen)).collect();
        let both = truth
            .into_iter()
            .map(|truth| {
                let id = truth.id.clone().expect("the client sends one");
                let seen = by_id
                    .remove(&id)
                    .unwrap_or_else(|| panic!("{truth:?} was never sent"));
                (truth, seen)
            })
            .collect();
        Run {
            tls: self.pair.tls,
            report,
            both,
            unanswered: by_id.into_values().collect(),
        }
    }
}

impl Run {
    /// What the client sent and the server never read.
    pub fn unanswered(&self) -> &[Observation] {
        &self.unanswered
    }

    /// Cause comes before effect, and nothing on the way is lost.
    pub fn agree(&self, truth: &Exchange, seen: &Observation, what: &str) {
        let both = || format!("{what}:\n{truth:?}\n{seen:?}");
        assert_eq!(
            (truth.peer, truth.local, truth.sequence),
            (seen.source, seen.peer, seen.sequence),
            "{}",
            both()
        );
        assert_eq!(truth.tls.as_deref(), self.tls.version(), "{}", both());
        follows(Some(seen.request_first_ns), Some(truth.request_first_ns), &both);
        // A server that finds the FIN together with the request may never take the request.
        if seen.request_last_ns.is_some() && (truth.request_last_ns.is_some() || seen.cancel.is_none()) {
            follows(seen.request_last_ns, truth.request_last_ns, &both);
        }
        if seen.first_byte_ns.is_some() {
            follows(truth.first_byte_ns, seen.first_byte_ns, &both);
            assert_eq!(truth.status, seen.status, "{}", both());
        }
        if seen.first_token_ns.is_some() {
            follows(truth.first_token_ns, seen.first_token_ns, &both);
        }
        assert!(
            truth.emissions_ns.len() >= seen.emissions_ns.len(),
            "reads may merge writes: {}",
            both()
        );
        if truth.emissions_ns.len() == seen.emissions_ns.len() {
            for (&written, &read) in truth.emissions_ns.iter().zip(&seen.emissions_ns) {
                follows(Some(written), Some(read), &both);
            }
        }
        // The tickets of TLS 1.3 come after the handshake, and the first response brings them.
        let has_tickets = self.tls == Tls::V13 && seen.sequence == 1;
        // An alert that closes the connection may come with the last bytes.
        let alert = if self.tls == Tls::None { 0 } else { 31 };
        let most = truth.response_bytes + if has_tickets { 1024 } else { alert };
        assert!(seen.response_bytes <= most, "{}", both());
        if truth.is_complete() {
            follows(truth.last_write_ns, Some(seen.ended_ns), &both);
            assert_eq!(truth.request_bytes, seen.request_bytes, "{}", both());
            let least = truth.response_bytes + u64::from(has_tickets);
            assert!(seen.response_bytes >= least, "{}", both());
            assert_eq!(truth.last_write_ns, Some(truth.ended_ns), "{}", both());
        }
    }
}

fn follows(cause: Option<u64>, effect: Option<u64>, both: &impl Fn() -> String) {
    let (Some(cause), Some(effect)) = (cause, effect) else {
        panic!("one end knows of it alone: {}", both());
    };
    assert!(
        cause <= effect,
        "{effect} comes before its cause {cause}: {}",
        both()
    );
    let transit = Duration::from_nanos(effect - cause);
    assert!(transit < TRANSIT, "{transit:?} on the way: {}", both());
}
