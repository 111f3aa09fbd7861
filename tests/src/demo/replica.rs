// SPDX-License-Identifier: Apache-2.0
//! A model server of the demo, which registers itself: where it runs, how fast it is, and what it says itself.
//!
//! Invariant: server and registration are the two processes of one pod, and nothing else is in it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::Value;

use super::mesh;
use crate::{
    control::ControlPlane,
    process::{Process, binary},
    topology::{Node, Pod},
};

/// Port of the model servers.
pub(super) const PORT: u16 = 9000;
/// Port where they take orders and tell their load: no backend of the mesh, so that it is not metered.
const CONTROL_PORT: u16 = 9001;
/// The shortest and the longest that a registration waits for open requests: the former is more than the nodes' interval of reports.
const DRAIN_SETTLE: &str = "1500ms";
const DRAIN_TIMEOUT: &str = "4s";
/// How long a server may take to tell its load.
const PATIENCE: Duration = Duration::from_millis(300);

/// How fast a model server is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speed {
    /// Milliseconds to the first token.
    pub(super) prefill: u32,
    /// Milliseconds from one token to the next.
    pub(super) token: u32,
}

/// What is fixed about a replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cast {
    pub(super) name: &'static str,
    /// Index of its node.
    pub(super) node: usize,
    pub(super) speed: Speed,
}

/// A model server, or the pod where one will run.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) cast: Cast,
    /// `nodemesh register`, which runs the server.
    process: Option<Process>,
    pod: Pod,
}

/// What a model server says about itself.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Truth {
    /// Requests that generate.
    requests_running: u64,
    /// Requests that wait for their turn.
    requests_waiting: u64,
}

impl Truth {
    /// Requests that were received and not answered to the end.
    pub(super) fn in_flight(self) -> u64 {
        self.requests_running + self.requests_waiting
    }
}

impl Replica {
    /// A pod without a server.
    pub(super) fn new(cast: Cast, node: &Node) -> Result<Self> {
        Ok(Self {
            cast,
            process: None,
            pod: node.pod(cast.name)?,
        })
    }

    /// Where it listens.
    pub(super) fn addresses(&self) -> [SocketAddr; 2] {
        [self.pod.v4(), self.pod.v6()].map(|ip| SocketAddr::new(ip, PORT))
    }

    fn control(&self) -> SocketAddr {
        SocketAddr::new(self.pod.v4(), CONTROL_PORT)
    }

    /// Its pod.
    pub(super) fn pod(&self) -> &Pod {
        &self.pod
    }

    /// Starts the server, which registers itself, and waits until it listens.
    pub(super) fn start(&mut self, control: &ControlPlane) -> Result<()> {
        let [v4, v6] = self.addresses();
        let Speed { prefill, token } = self.cast.speed;
        let mut arguments = vec!["register".to_owned()];
        arguments.extend(control.flags());
        arguments.extend([
            format!("--namespace={}", mesh::NAMESPACE),
            format!("--name={}", self.cast.name),
            format!("--address={}", v4.ip()),
            format!("--address={}", v6.ip()),
            format!("--port={PORT}"),
            format!("--label={}", mesh::LABEL),
            format!("--ttl={}s", mesh::LEASE.as_secs()),
            format!("--drain-settle={DRAIN_SETTLE}"),
            format!("--drain-timeout={DRAIN_TIMEOUT}"),
            "--".to_owned(),
            binary("model-server").display().to_string(),
            format!("--listen={v4}"),
            format!("--listen={v6}"),
            format!("--listen-plain={}", self.control()),
            format!("--name={}", self.cast.name),
            format!("--model={}", mesh::MODEL),
            format!("--prefill={prefill}ms"),
            format!("--inter-token={token}ms"),
        ]);
        self.process = Some(self.pod.serve("nodemesh", &arguments)?);
        Ok(())
    }

    /// Kills the server and its registration at once, by SIGKILL.
    pub(super) fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the server runs")?;
        fs::write(self.pod.cgroup().join("cgroup.kill"), "1").context("kill the processes of a pod")?;
        process.wait()?;
        Ok(())
    }

    /// Asks the registration to end, and so the server, as a service manager does.
    pub(super) fn terminate(&self) -> Result<()> {
        self.process
            .as_ref()
            .context("the server runs")?
            .signal(Signal::SIGTERM)
    }

    /// How it ended by itself, with what it said on standard error; `None` while it runs.
    pub(super) fn ended(&mut self) -> Result<Option<(ExitStatus, Vec<String>)>> {
        let Some(process) = self.process.as_mut() else {
            return Ok(None);
        };
        if !process.has_ended() {
            return Ok(None);
        }
        let status = process.wait()?;
        let said = process.stderr();
        self.process = None;
        Ok(Some((status, said)))
    }

    /// Whether there is a server.
    pub(super) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// What the server says about its load; `None` if it does not answer.
    pub(super) fn truth(&self) -> Option<Truth> {
        #[derive(Deserialize)]
        struct Control {
            state: Truth,
        }
        if !self.runs() {
            return None;
        }
        let address = self.control();
        let (_, body) = self
            .pod
            .netns()
            .run(|| ask(address, "GET /control", ""))
            .ok()?
            .ok()?;
        serde_json::from_str::<Control>(&body)
            .ok()
            .map(|control| control.state)
    }

    /// Changes how the server behaves.
    pub(super) fn behave(&self, change: &Value) -> Result<()> {
        let address = self.control();
        let body = change.to_string();
        let (_, answer) = self.pod.netns().run(|| ask(address, "POST /control", &body))??;
        serde_json::from_str::<Value>(&answer)
            .map(drop)
            .with_context(|| format!("{} does not take {body}: {answer}", self.cast.name))
    }

    /// Status of `/health`, asked where it serves, as a kubelet does.
    pub(super) fn health(&self) -> Result<u16> {
        let [address, _] = self.addresses();
        let (status, _) = self.pod.netns().run(|| ask(address, "GET /health", ""))??;
        Ok(status)
    }
}

/// Status and body of the answer to a request, from the pod itself: past the mesh.
fn ask(address: SocketAddr, request: &str, body: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "{request} HTTP/1.0\r\nHost: replica\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    Ok((status, body.to_owned()))
}
