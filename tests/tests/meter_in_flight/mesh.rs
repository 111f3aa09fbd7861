// SPDX-License-Identifier: Apache-2.0
//! A service of several model servers on the agent's node, which come and go, and what both sides say of the requests in flight.
//!
//! Invariant: no other test has the servers' ports, since an agent adopts whatever connections the machine has to its backends.

use std::{
    collections::BTreeMap,
    fmt,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    sync::atomic::{AtomicU16, Ordering},
};

use nix::sys::signal::Signal;
use nodemesh_agent::{
    api::{Traffic, TrafficReport, Vantage},
    config::ADMIN_SOCKET,
};
use nodemesh_e2e::{
    bed::{Bed, Family},
    certificate::Certificates,
    manifest::{Manifest, Service},
    process::Process,
    topology::Pod,
};
use serde_json::{Value, json};

use super::watch::Watch;

pub const VANTAGES: [Vantage; 2] = [Vantage::Client, Vantage::Server];

/// What the configuration says of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Active,
    Draining,
    Absent,
}

/// Requests of a replica, as it counts them itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    pub started: u64,
    pub open: u64,
}

/// Requests in flight by address of the backend, as its clients and as the server see them.
pub type InFlight = BTreeMap<SocketAddr, [u64; 2]>;

/// A model server.
pub struct Replica {
    pub address: SocketAddr,
    pub presence: Presence,
    /// It serves clients that have shut their side down, and so notices that one has left only when it writes.
    pub serves_half_closed: bool,
    control: SocketAddr,
    _server: Process,
}

/// Agent, client pod and servers.
pub struct Mesh {
    pub bed: Bed,
    pub replicas: Vec<Replica>,
    pub watch: Watch,
    server: Pod,
    certificates: Option<Certificates>,
    agent_flags: Vec<String>,
}

impl Mesh {
    /// Starts a server for each of `replicas`, which are its flags, and the agent. The last one is not configured yet.
    pub fn start(replicas: &[&str], tls: bool, agent: &[&str]) -> Self {
        let mut bed = Bed::new();
        let server = bed.a.pod("server").expect("a pod");
        let certificates = tls.then(|| certificates(&bed));
        let secure = certificates.iter().flat_map(Certificates::server_flags);
        let secure: Vec<String> = secure.collect();
        let port = first_port();
        let mut replicas: Vec<Replica> = (0..)
            .zip(replicas)
            .map(|(number, flags)| Replica::start(&server, port + 2 * number, flags, &secure))
            .collect();
        replicas.last_mut().expect("a replica").presence = Presence::Absent;
        bed.start(&manifest(&replicas), agent);
        let watch = Watch::start(&bed.a.pins());
        Self {
            bed,
            replicas,
            watch,
            server,
            certificates,
            agent_flags: agent.iter().map(|&flag| flag.to_owned()).collect(),
        }
    }

    /// Starts a client with these flags.
    pub fn client(&self, flags: &str) -> Process {
        let scheme = if self.certificates.is_some() {
            "https"
        } else {
            "http"
        };
        let url = format!("{scheme}://{}", Family::V4.vip(1));
        let mut arguments = vec!["--url".to_owned(), url];
        arguments.extend(flags.split_whitespace().map(str::to_owned));
        arguments.extend(self.certificates.iter().flat_map(Certificates::client_flags));
        let started = self.bed.client.spawn("load-client", &arguments);
        started.expect("start a client")
    }

    /// Changes what the configuration says of a replica, and waits until the kernel has it.
    pub fn set(&mut self, replica: usize, presence: Presence) {
        self.replicas[replica].presence = presence;
        self.bed.apply(&manifest(&self.replicas));
    }

    /// Ends the agent by `signal`, has `meanwhile` done, and starts it again. Panics if the former one had corrected anything.
    pub fn restart(&mut self, signal: Signal, meanwhile: impl FnOnce(&Self)) {
        let agent = self.bed.agent.take_process();
        agent.signal(signal).expect("signal the agent");
        let (_, log) = agent.finish().expect("the agent ends");
        assert_no_drift(&log);
        meanwhile(self);
        let flags: Vec<&str> = self.agent_flags.iter().map(String::as_str).collect();
        self.bed.agent.start(&flags).expect("start the agent");
    }

    /// Has every server behave like this.
    pub fn control(&self, change: &Value) {
        for replica in &self.replicas {
            self.ask(replica, "POST", &change.to_string());
        }
    }

    /// What each server says of its requests, by address.
    pub fn truth(&self) -> BTreeMap<SocketAddr, Truth> {
        let of = |replica: &Replica| {
            let requests = &self.ask(replica, "GET", "")["state"]["requests"];
            let count = |key: &str| requests[key].as_u64().expect("a count");
            let truth = Truth {
                started: count("started"),
                open: count("open"),
            };
            (replica.address, truth)
        };
        self.replicas.iter().map(of).collect()
    }

    /// All of it.
    pub fn total(&self) -> Truth {
        let sum = |sum: Truth, one: &Truth| Truth {
            started: sum.started + one.started,
            open: sum.open + one.open,
        };
        self.truth().values().fold(Truth::default(), sum)
    }

    /// The kernel's counters. A backend that was removed and came back has two rows at each vantage.
    pub fn rows(&self) -> Vec<Traffic> {
        let socket = self.bed.agent.run_dir().join(ADMIN_SOCKET);
        let mut stream = UnixStream::connect(socket).expect("connect to the agent");
        let body = exchange(&mut stream, "GET", "/v1/traffic", "");
        let report: TrafficReport =
            serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        report.rows
    }

    /// Requests that the kernel has in flight.
    pub fn in_flight(&self) -> InFlight {
        let rows = self.rows();
        let of = |replica: &Replica| {
            let address = replica.address.to_string();
            let sum = |vantage| {
                let own = rows
                    .iter()
                    .filter(|row| row.backend == address && row.vantage == vantage);
                own.map(|row| row.requests_in_flight).sum()
            };
            (replica.address, VANTAGES.map(sum))
        };
        self.replicas.iter().map(of).collect()
    }

    /// Panics if the running agent has corrected anything.
    pub fn assert_uncorrected(&self) {
        assert_no_drift(&self.bed.agent.process().stderr().join("\n"));
        let meter = self.bed.agent.status().expect("a status").datapath.meter;
        assert_eq!(meter.corrections, 0, "{meter:?}");
    }

    fn ask(&self, replica: &Replica, method: &str, body: &str) -> Value {
        let ask = || {
            let mut stream = TcpStream::connect(replica.control).expect("connect to a server");
            exchange(&mut stream, method, "/control", body)
        };
        let answer = self.server.netns().run(ask).expect("a namespace");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }
}

impl Replica {
    fn start(pod: &Pod, port: u16, flags: &str, secure: &[String]) -> Self {
        let at = |port| SocketAddr::new(pod.v4(), port);
        let (address, control) = (at(port), at(port + 1));
        let mut arguments = vec![format!("--listen={address}"), format!("--listen-plain={control}")];
        arguments.extend(flags.split_whitespace().map(str::to_owned));
        arguments.extend_from_slice(secure);
        Self {
            address,
            presence: Presence::Active,
            serves_half_closed: flags.contains("--half-close serve"),
            control,
            _server: pod.serve("model-server", &arguments).expect("start a server"),
        }
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.address, self.presence)
    }
}

fn manifest(replicas: &[Replica]) -> Manifest {
    let service = Service::new("chat", Family::V4.vip(1));
    let service = replicas
        .iter()
        .fold(service, |service, replica| match replica.presence {
            Presence::Active => service.weighted(replica.address, 1),
            Presence::Draining => service.in_state(replica.address, "draining"),
            Presence::Absent => service,
        });
    Manifest::of([service])
}

fn certificates(bed: &Bed) -> Certificates {
    let config = bed.agent.config();
    let folder = config.parent().expect("a file is in a folder");
    Certificates::generate(folder, &[Family::V4.vip(1).ip().to_string()]).expect("certificates")
}

fn assert_no_drift(log: &str) {
    let wrong: Vec<&str> = log.lines().filter(|line| line.contains("drifted")).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The body of the answer, which must be a success.
fn exchange(stream: &mut (impl Read + Write), method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    let mut answer = String::new();
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: nodemesh\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .and_then(|()| stream.read_to_string(&mut answer))
    .expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    assert!(head.contains(" 200 OK"), "{method} {path}: {answer}");
    body.to_owned()
}

/// The first of 20 ports.
fn first_port() -> u16 {
    static MESHES: AtomicU16 = AtomicU16::new(0);
    let mesh = MESHES.fetch_add(1, Ordering::Relaxed) % 8;
    let process = (std::process::id() % 160) as u16;
    34_000 + (process * 8 + mesh) * 20
}

/// What [`Mesh::control`] takes for servers that write nothing more, once a stream has three tokens.
pub fn frozen() -> Value {
    json!({"failure": "freeze"})
}

/// And for servers that go on.
pub fn thawed() -> Value {
    json!({"failure": "none"})
}
