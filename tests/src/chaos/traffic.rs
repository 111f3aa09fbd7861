// SPDX-License-Identifier: Apache-2.0
//! The streams and connects of the chaos, and what their clients saw. Part of `chaos`.
//!
//! Invariant: a client that could not do its work is an error, one whose requests failed reports them.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::Plan;
use crate::{
    bed::{Bed, Family},
    manifest::{Manifest, Policy, Service},
    process::Process,
};

/// Replicas, of which the first has three quarters of the weight.
const REPLICAS: u16 = 4;
const HEAVY_WEIGHT: u32 = 9;

/// The model servers.
pub(super) struct Servers {
    replicas: Vec<(String, SocketAddr)>,
    _processes: Vec<Process>,
}

impl Servers {
    pub(super) fn start(bed: &Bed) -> Result<Self> {
        let mut replicas = Vec::new();
        let mut processes = Vec::new();
        for number in 0..REPLICAS {
            let (name, address) = (
                format!("m{number}"),
                SocketAddr::new(bed.server.v4(), 9_000 + number),
            );
            let listen = address.to_string();
            let flags = ["--listen", &listen, "--name", &name, "--prefill", "10ms"];
            let pace = ["--inter-token", "200ms", "--max-num-seqs", "100000"];
            processes.push(bed.server.serve("model-server", &[&flags[..], &pace].concat())?);
            replicas.push((name, address));
        }
        Ok(Self {
            replicas,
            _processes: processes,
        })
    }

    /// Name of the replica with three quarters of the weight.
    pub(super) fn heavy(&self) -> &str {
        &self.replicas[0].0
    }

    pub(super) fn manifest(&self) -> Manifest {
        let service = Service::new("chat", address());
        let weighted = (0..)
            .zip(&self.replicas)
            .fold(service, |service, (number, (_, at))| {
                service.weighted(*at, if number == 0 { HEAVY_WEIGHT } else { 1 })
            });
        Manifest::default()
            .and(weighted)
            .and(Policy::of("chat").algorithm("random"))
    }
}

/// What clients dial.
fn address() -> SocketAddr {
    Family::V4.vip(1)
}

/// What clients saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Requests that were answered to their end.
    pub ok: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Of these, by kind, and errors of `connect()` by name.
    pub failures: BTreeMap<String, u64>,
    /// Requests that did not end while the client waited for them.
    pub cut: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// Tokens that arrived.
    pub tokens: u64,
    /// Connections by replica.
    pub replicas: BTreeMap<String, u64>,
}

impl Seen {
    fn of(report: &Value) -> Self {
        let count = |value: &Value| value.as_u64().unwrap_or_default();
        let counts = |value: &Value| -> BTreeMap<String, u64> {
            let entries = value.as_object().into_iter().flatten();
            let counts = entries.map(|(name, value)| (name.clone(), count(value)));
            counts.filter(|(_, count)| *count > 0).collect()
        };
        let mut failures = counts(&report["requests"]["failed"]);
        let failed = failures.values().sum();
        failures.extend(counts(&report["connect_errors"]));
        let replicas = report["replicas"].as_object().into_iter().flatten();
        Self {
            ok: count(&report["requests"]["ok"]),
            failed,
            failures,
            cut: count(&report["requests"]["aborted"]),
            connections: count(&report["connections"]),
            tokens: count(&report["tokens"]),
            replicas: replicas
                .map(|(name, replica)| (name.clone(), count(&replica["connections"])))
                .collect(),
        }
    }

    /// What both saw.
    pub(super) fn plus(mut self, other: Self) -> Self {
        self.ok += other.ok;
        self.failed += other.failed;
        self.cut += other.cut;
        self.connections += other.connections;
        self.tokens += other.tokens;
        for (name, count) in other.failures {
            *self.failures.entry(name).or_default() += count;
        }
        for (name, count) in other.replicas {
            *self.replicas.entry(name).or_default() += count;
        }
        self
    }

    /// Part of the connections that led to `replica`.
    pub(super) fn share(&self, replica: &str) -> f64 {
        let all: u64 = self.replicas.values().sum();
        let of = self.replicas.get(replica).copied().unwrap_or_default();
        of as f64 / all.max(1) as f64
    }
}

/// The clients that run all the time.
pub(super) struct Clients(Vec<Process>);

impl Clients {
    pub(super) fn start(bed: &Bed, plan: &Plan) -> Result<Self> {
        let (streams, tokens, rate) = (
            plan.streams.to_string(),
            plan.tokens.to_string(),
            plan.connects_per_second.to_string(),
        );
        // Both go on until they are told to end; what is open then is waited for.
        let streaming = ["--concurrency", &streams, "--max-tokens", &tokens, "--ramp", "2s"];
        let connecting = [
            "--rate",
            &rate,
            "--concurrency",
            "512",
            "--max-tokens",
            "1",
            "--stream",
            "false",
        ];
        Ok(Self(vec![client(bed, &streaming)?, client(bed, &connecting)?]))
    }

    /// Lets them finish what is open, and gives what they saw.
    pub(super) fn finish(self) -> Result<Seen> {
        for process in &self.0 {
            process.signal(Signal::SIGUSR1)?;
        }
        self.0.into_iter().try_fold(Seen::default(), |seen, process| {
            let (report, _): (Value, _) = process.report().context("a client's report")?;
            Ok(seen.plus(Seen::of(&report)))
        })
    }
}

fn client(bed: &Bed, flags: &[&str]) -> Result<Process> {
    let url = format!("http://{}", address());
    let arguments = [&["--url", &url, "--allow-failures"], flags].concat();
    bed.client.spawn("load-client", &arguments)
}

/// So many requests on connections of their own, and where they led.
pub(super) fn place(bed: &Bed, count: u32) -> Result<Seen> {
    let count = count.to_string();
    let flags = [
        "--requests",
        &count,
        "--concurrency",
        "8",
        "--max-tokens",
        "1",
        "--stream",
        "false",
    ];
    let (report, _): (Value, _) = client(bed, &flags)?.report()?;
    Ok(Seen::of(&report))
}
