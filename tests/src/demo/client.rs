// SPDX-License-Identifier: Apache-2.0
//! A client of the demo: a `load-client` in a pod, and the reports that it prints.
//!
//! Invariant: a report counts from the moment at which it was read, which is later than the client wrote it.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{latency::Log, mesh};
use crate::{process::Process, topology::Pod};

/// How often a client reports.
const INTERVAL: &str = "250ms";
/// Tokens of an answer.
const TOKENS: u32 = 64;

/// What is fixed about a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cast {
    pub(super) name: &'static str,
    /// Index of its node.
    pub(super) node: usize,
    /// `one-shot` or `keep-alive`.
    pub(super) mode: &'static str,
    /// Streams at the same time.
    pub(super) streams: u32,
    /// Index of the service's address that it dials.
    pub(super) address: usize,
}

/// A running client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) cast: Cast,
    /// Its last report, once it has ended.
    pub(super) last: Option<Report>,
    /// What it saw of each exchange.
    pub(super) log: Log,
    process: Process,
    /// Lines that were read.
    read: usize,
    /// When it was last looked at.
    looked: Instant,
    pod: Pod,
}

/// A line of `load-client`, as far as the demo needs it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Report {
    kind: String,
    duration: f64,
    pub(super) requests: Requests,
    pub(super) connections: u64,
    pub(super) replicas: BTreeMap<String, Part>,
    pub(super) peer_addresses: BTreeMap<String, u64>,
    pub(super) connect_errors: BTreeMap<String, u64>,
}

/// Requests by outcome.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Requests {
    pub(super) ok: u64,
    pub(super) failed: BTreeMap<String, u64>,
    pub(super) aborted: u64,
}

/// The part of one replica.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Part {
    pub(super) tokens: u64,
    pub(super) failures: u64,
}

/// What happened in a span of time, which [`Heard::span`] covers.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) report: Report,
    /// From the earliest to the latest moment at which it can have happened.
    pub(super) span: (Instant, Instant),
}

impl Report {
    /// Requests that failed.
    pub(super) fn failures(&self) -> u64 {
        self.requests.failed.values().sum()
    }
}

impl Client {
    /// Starts the client, which keeps a log in `folder`; it begins no request after `duration`.
    pub(super) fn start(cast: Cast, pod: Pod, folder: &Path, duration: Duration) -> Result<Self> {
        let address = mesh::service_address(cast.address);
        let log = folder.join(format!("{}.log", cast.name));
        let arguments = [
            format!("--url=http://{address}"),
            format!("--model={}", mesh::MODEL),
            format!("--mode={}", cast.mode),
            format!("--concurrency={}", cast.streams),
            format!("--max-tokens={TOKENS}"),
            format!("--duration={}ms", duration.as_millis()),
            "--think=20ms".into(),
            "--connect-timeout=2s".into(),
            format!("--report-interval={INTERVAL}"),
            "--allow-failures".into(),
            format!("--log={}", log.display()),
        ];
        let process = pod.spawn("load-client", &arguments)?;
        Ok(Self {
            cast,
            last: None,
            log: Log::new(log),
            process,
            read: 0,
            looked: Instant::now(),
            pod,
        })
    }

    /// Its pod.
    pub(super) fn pod(&self) -> &Pod {
        &self.pod
    }

    /// What it complained about.
    pub(super) fn complaints(&self) -> Vec<String> {
        self.process.stderr()
    }

    /// Reports of intervals that came since the last call.
    pub(super) fn listen(&mut self) -> Result<Vec<Heard>> {
        let looked = std::mem::replace(&mut self.looked, Instant::now());
        let mut heard = Vec::new();
        for line in self.process.stdout().split_off(self.read) {
            self.read += 1;
            let report: Report =
                serde_json::from_str(&line).with_context(|| format!("{} said {line}", self.cast.name))?;
            if report.kind == "final" {
                self.last = Some(report);
                continue;
            }
            let begin = looked
                .checked_sub(Duration::from_secs_f64(report.duration))
                .unwrap_or(looked);
            heard.push(Heard {
                report,
                span: (begin, self.looked),
            });
        }
        Ok(heard)
    }
}
