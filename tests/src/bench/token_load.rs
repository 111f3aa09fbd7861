// SPDX-License-Identifier: Apache-2.0
//! Token streams in a lab: a model server in the server pod, and clients that read what it writes. One token is one write of some
//! 270 bytes.
//!
//! Invariant: every request succeeds, or the measurement is an error.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::lab::{Cpus, Lab, Side};
use crate::{certificate::Certificates, process::Process, real::tool};

/// Name in the certificate.
const SERVER_NAME: &str = "bench";
const UVICORN: &str = include_str!("sse_server.py");

/// What streams do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// At the same time.
    pub(super) streams: u32,
    /// Between two tokens of a stream; zero for as fast as possible.
    pub(super) token: Duration,
    /// Of one answer.
    pub(super) tokens: u32,
}

/// Where server and clients run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placement {
    pub(super) server: Side,
    pub(super) client: Side,
    pub(super) cpus: Cpus,
}

/// What the clients saw.
#[derive(Debug, Deserialize)]
pub(super) struct Streamed {
    /// Tokens that arrived.
    pub(super) tokens: u64,
    requests: Requests,
}

#[derive(Debug, Deserialize)]
struct Requests {
    ok: u64,
    failed: std::collections::BTreeMap<String, u64>,
    aborted: u64,
}

impl Placement {
    /// Both in the mesh.
    pub(super) const fn mesh(cpus: Cpus) -> Self {
        Self {
            server: Side::Mesh,
            client: Side::Mesh,
            cpus,
        }
    }
}

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Software {
    /// `model-server`, on hyper.
    Hyper,
    /// The same under TLS.
    HyperTls,
    /// Starlette on uvicorn, as vLLM's.
    Uvicorn,
}

/// A model server and how to reach it.
pub(super) struct TokenServer {
    at: Placement,
    certificates: Option<Certificates>,
    _process: Process,
}

impl TokenServer {
    /// Starts it on the ports `offsets`, counted from the lab's.
    pub(super) fn start(
        lab: &Lab,
        at: Placement,
        offsets: &[u16],
        software: Software,
        pace: Pace,
    ) -> Result<Self> {
        let addresses: Vec<String> = offsets
            .iter()
            .map(|offset| lab.direct(*offset).to_string())
            .collect();
        if software == Software::Uvicorn {
            let mut arguments = ["-B", "-c", UVICORN].map(str::to_owned).to_vec();
            arguments.push(pace.token.as_secs_f64().to_string());
            arguments.extend(addresses);
            let python = tool::python().display().to_string();
            return Ok(Self {
                at,
                certificates: None,
                _process: lab.server_program(at.server, at.cpus, &python, &arguments)?,
            });
        }
        let mut arguments = vec![
            "--prefill=20ms".to_owned(),
            format!("--inter-token={}us", pace.token.as_micros()),
            format!("--max-num-seqs={}", pace.streams * 2),
        ];
        arguments.extend(addresses.iter().map(|address| format!("--listen={address}")));
        let certificates = match software {
            Software::HyperTls => {
                let folder = lab
                    .folder()?
                    .join(offsets.iter().map(u16::to_string).collect::<String>());
                fs::create_dir_all(&folder)?;
                Some(Certificates::generate(&folder, &[SERVER_NAME])?)
            }
            _ => None,
        };
        arguments.extend(certificates.iter().flat_map(Certificates::server_flags));
        Ok(Self {
            at,
            certificates,
            _process: lab.server_program(at.server, at.cpus, "model-server", &arguments)?,
        })
    }

    /// Starts clients that stream from `address` for `time`, and then finish.
    pub(super) fn clients(
        &self,
        lab: &Lab,
        address: SocketAddr,
        pace: Pace,
        time: Duration,
    ) -> Result<Process> {
        let scheme = if self.certificates.is_some() {
            "https"
        } else {
            "http"
        };
        let mut arguments = vec![
            format!("--url={scheme}://{address}"),
            "--mode=keep-alive".to_owned(),
            format!("--concurrency={}", pace.streams),
            format!("--max-tokens={}", pace.tokens),
            format!("--duration={}ms", time.as_millis()),
            // Streams that start together would send their tokens together.
            format!("--ramp={}us", pace.token.as_micros()),
        ];
        if let Some(certificates) = &self.certificates {
            arguments.extend(certificates.client_flags());
            arguments.push(format!("--server-name={SERVER_NAME}"));
        }
        lab.client(self.at.client, self.at.cpus, "load-client", &arguments)
    }

    /// Streams and waits for the end.
    pub(super) fn stream(
        &self,
        lab: &Lab,
        address: SocketAddr,
        pace: Pace,
        time: Duration,
    ) -> Result<Streamed> {
        Streamed::of(self.clients(lab, address, pace, time)?)
    }
}

impl Streamed {
    /// What clients saw, once they have ended.
    pub(super) fn of(clients: Process) -> Result<Self> {
        let (streamed, _): (Self, _) = clients.report()?;
        let requests = &streamed.requests;
        ensure!(
            requests.failed.values().sum::<u64>() + requests.aborted == 0 && requests.ok > 0,
            "requests failed: {requests:?}"
        );
        Ok(streamed)
    }
}
