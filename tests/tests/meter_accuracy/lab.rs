// SPDX-License-Identifier: Apache-2.0
//! Model servers that keep a log of what they did, each reached in plaintext and under two versions of TLS, and an agent that meters
//! all of it.
//!
//! Invariant: every server and [`Wire`] is a backend of its own, so that no row of the meter mixes two of them.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicU16, Ordering},
};

use nodemesh_agent::api::{Traffic, Vantage};
use nodemesh_e2e::{
    bed::Family,
    certificate::Certificates,
    eventually::eventually,
    load::observation::{self, Observation},
    manifest::{Manifest, Policy, Service},
    process::Process,
    real::Scene,
    scrape::Scrape,
    truth::{self, Exchange},
};
use serde_json::{Value, json};

use crate::line::Line;

/// What is on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Plain,
    Tls12,
    Tls13,
}

impl Wire {
    pub const ALL: [Self; 3] = [Self::Plain, Self::Tls12, Self::Tls13];

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plaintext",
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        }
    }

    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::Tls12 => &["--tls-versions", "1.2"],
            Self::Tls13 => &["--tls-versions", "1.3"],
        }
    }
}

/// A server as it is reached over one wire, and its service.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    pub server: usize,
    pub wire: Wire,
}

/// Servers, clients and agent.
pub struct Lab {
    scene: Scene,
    certificates: Certificates,
    ports: u16,
    path: &'static str,
    servers: Vec<Process>,
}

/// A client that runs.
pub struct Client {
    process: Process,
    log: PathBuf,
}

impl Lab {
    /// Starts a server for each of these command lines, then the agent.
    pub fn new(path: &'static str, servers: &[String]) -> Self {
        let scene = Scene::new();
        let certificates = scene.certificates();
        let mut lab = Self {
            scene,
            certificates,
            ports: first_port(servers.len() * Wire::ALL.len()),
            path,
            servers: Vec::new(),
        };
        lab.servers = (0..servers.len())
            .map(|server| lab.serve(server, &servers[server]))
            .collect();
        lab.mesh();
        lab
    }

    fn serve(&self, server: usize, line: &str) -> Process {
        let at = |wire| self.backend(Spot { server, wire }).to_string();
        let truth = self.truth_file(server).display().to_string();
        let mut arguments = vec![
            "--listen-plain".to_owned(),
            at(Wire::Plain),
            "--truth".into(),
            truth,
        ];
        for wire in [Wire::Tls12, Wire::Tls13] {
            arguments.extend(["--listen".into(), at(wire)]);
        }
        arguments.extend(self.certificates.server_flags());
        arguments.extend(line.split_whitespace().map(str::to_owned));
        self.scene
            .server
            .serve("model-server", &arguments)
            .expect("start a server")
    }

    fn mesh(&mut self) {
        let services = self.spots().map(|spot| {
            let name = format!("m{}", number(spot));
            Service::new(&name, Family::V4.vip(number(spot))).to([self.backend(spot)])
        });
        let names: Vec<String> = self.spots().map(|spot| format!("m{}", number(spot))).collect();
        let mut manifest = Manifest::of(services);
        let mut flags = vec!["--access-log", "json", "--meter-path", self.meter_path()];
        if self.is_short() {
            flags.extend(["--shortcut", "force"]);
            for name in &names {
                manifest = manifest.and(Policy::of(name).set("shortcut", json!({"enabled": true})));
            }
        }
        self.scene.bed.start(&manifest, &flags);
    }

    /// Whether messages in plaintext take the shortcut, for which the meter sees bytes at tracepoints.
    fn is_short(&self) -> bool {
        self.path == "shortcut"
    }

    fn meter_path(&self) -> &'static str {
        if self.is_short() { "tracepoint" } else { self.path }
    }

    /// Every server over every wire.
    pub fn spots(&self) -> impl Iterator<Item = Spot> + use<> {
        (0..self.servers.len()).flat_map(|server| Wire::ALL.map(|wire| Spot { server, wire }))
    }

    /// Where the server listens.
    pub fn backend(&self, spot: Spot) -> SocketAddr {
        SocketAddr::new(self.scene.server.v4(), self.ports + u16::from(number(spot)) - 1)
    }

    /// Starts a load client of the service.
    pub fn client(&self, spot: Spot, line: &str) -> Client {
        let scheme = if spot.wire == Wire::Plain { "http" } else { "https" };
        let log = self.scene.folder().join(format!("client{}", number(spot)));
        let mut arguments = vec![format!("--url={scheme}://{}", Family::V4.vip(number(spot)))];
        arguments.extend(["--log".into(), log.display().to_string()]);
        arguments.extend(["--server-name".into(), self.scene.server.v4().to_string()]);
        arguments.extend(self.certificates.client_flags());
        arguments.extend(spot.wire.flags().iter().map(|&flag| flag.to_owned()));
        arguments.extend(line.split_whitespace().map(str::to_owned));
        let process = self.scene.client().spawn("load-client", &arguments);
        Client {
            process: process.expect("start a client"),
            log,
        }
    }

    /// What the meter counted, once `is_right`.
    #[track_caller]
    pub fn row(&self, spot: Spot, vantage: Vantage, is_right: impl Fn(&Traffic) -> bool) -> Traffic {
        self.scene.traffic(self.backend(spot), vantage, is_right)
    }

    /// What the meter counted, once it counts no request any more as in flight and `count` as ended.
    #[track_caller]
    pub fn at_rest(&self, spot: Spot, vantage: Vantage, count: u64) -> Traffic {
        let over = |row: &Traffic| row.requests_in_flight == 0 && row.requests.values().sum::<u64>() >= count;
        self.row(spot, vantage, over)
    }

    /// The exchanges of the service, by connection and in order, once at least `count` have ended.
    #[track_caller]
    pub fn truth(&self, spot: Spot, count: usize) -> Vec<Exchange> {
        let backend = self.backend(spot);
        let look = || {
            let all = truth::read(&self.truth_file(spot.server)).expect("a log");
            let mut of_this: Vec<_> = all.into_iter().filter(|one| one.local == backend).collect();
            of_this.sort_by_key(|one| (one.peer, one.sequence));
            of_this
        };
        eventually("the server's log", look, |lines| lines.len() >= count)
    }

    /// Lines of the access log about the service at one vantage, by connection, in the order of their beginnings; there must be
    /// `count` requests.
    #[track_caller]
    pub fn told(&self, spot: Spot, vantage: Vantage, count: usize) -> Vec<Line> {
        let backend = self.backend(spot);
        let look = || {
            let lines = self.lines();
            let of_this =
                |line: &Line| line.is_request() && line.backend == backend && line.vantage == vantage;
            lines.into_iter().filter(of_this).collect::<Vec<_>>()
        };
        let mut told = eventually("the access log", look, |told| told.len() >= count);
        assert_eq!(told.len(), count, "{spot:?}, {vantage:?}");
        told.sort_by_key(|line| (line.client, line.started_monotonic_ns));
        told
    }

    /// The access log so far.
    pub fn lines(&self) -> Vec<Line> {
        let lines = self.scene.bed.agent.process().stdout();
        lines.iter().map(|line| Line::parse(line)).collect()
    }

    /// Panics if the access log is incomplete or a program had an error.
    #[track_caller]
    pub fn assert_nothing_was_lost(&self) {
        self.scene.bed.assert_no_internal_error();
        let scrape = self.scrape();
        for name in [
            "nodemesh_access_log_lost_total",
            "nodemesh_in_flight_corrections_total",
        ] {
            assert_eq!(scrape.count(name, &[]), 0, "{name}");
        }
        assert_eq!(
            scrape.count("nodemesh_meter_path_info", &[("path", self.meter_path())]),
            1,
            "{}",
            self.path
        );
        let handed = scrape.count("nodemesh_shortcut_messages_total", &[("route", "shortcut")]);
        assert_eq!(
            handed > 1_000,
            self.is_short(),
            "{handed} messages took the shortcut"
        );
    }

    /// Upper bounds of the buckets of a histogram, seconds, without the last one.
    pub fn bounds(&self, family: &str) -> Vec<f64> {
        let (scrape, name) = (self.scrape(), format!("{family}_bucket"));
        let labels = scrape.samples(&name).map(|(labels, _)| labels["le"].clone());
        let mut bounds: Vec<f64> = labels
            .filter_map(|bound| bound.parse().ok())
            .filter(|bound: &f64| bound.is_finite())
            .collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        bounds
    }

    fn scrape(&self) -> Scrape {
        let (code, body) = self
            .scene
            .bed
            .agent
            .http(&self.scene.bed.a, "/metrics")
            .expect("a scrape");
        assert_eq!(code, 200, "{body}");
        Scrape::parse(&body).expect("a scrape")
    }

    fn truth_file(&self, server: usize) -> PathBuf {
        self.scene.folder().join(format!("truth{server}"))
    }
}

impl Client {
    /// Waits for its end and gives what it saw, by connection, in order.
    #[track_caller]
    pub fn ended(self) -> (Value, Vec<Observation>) {
        let (report, _) = self.process.report().expect("a report");
        let mut seen = observation::read(&self.log).expect("a log");
        seen.sort_by_key(|one| (one.source, one.sequence));
        (report, seen)
    }
}

/// Of a service: from 1.
fn number(spot: Spot) -> u8 {
    (spot.server * Wire::ALL.len() + spot.wire as usize + 1) as u8
}

/// Scenes have the same addresses, and an agent adopts whatever socket of the machine is accepted at an address of its backends: ports
/// that no other scene is likely to use at the same time.
fn first_port(count: usize) -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let taken = TAKEN.fetch_add(count as u16, Ordering::Relaxed);
    2_000 + (std::process::id() % 20) as u16 * 320 + taken % 320
}
