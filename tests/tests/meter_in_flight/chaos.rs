// SPDX-License-Identifier: Apache-2.0
//! Thousands of streams whose clients give up, half-close, reset and are killed, while replicas come and go and the agent is
//! restarted; twice the servers freeze and the clients are stopped, so that what is in flight can be compared.
//!
//! ```text
//! clients start ─► frozen: agent killed, replica removed, client killed ─► running: replica drained, others added, agent restarted
//! twice, client killed ─► frozen: agent restarted ─► all requests end ─► nothing may be left
//! ```

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use nodemesh_agent::api::{Traffic, Vantage};
use nodemesh_e2e::{
    eventually::{eventually, wait_until},
    process::Process,
};
use serde_json::Value;

use super::mesh::{InFlight, Mesh, Presence, frozen, thawed};

/// The replicas, by what becomes of them.
const DRAINED: usize = 2;
const REMOVED: usize = 3;
const ADDED: usize = 4;
/// How long nothing may change before the mesh is taken to be quiet.
const QUIET: Duration = Duration::from_secs(1);
/// What thousands of streams may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is run.
pub struct Chaos {
    pub tls: bool,
    /// Flags of the agent.
    pub agent: &'static [&'static str],
    /// Flags of the servers, beyond those that all have.
    pub servers: [&'static str; 5],
    /// Requests of a client at once.
    pub concurrency: u64,
    /// Requests of a client that is not killed.
    pub requests: u64,
}

/// What came of it, all of which was counted right.
#[derive(Debug)]
pub struct Outcome {
    /// Requests that reached a server.
    pub requests: u64,
    /// Most that were open at once.
    pub at_once: u64,
}

impl Chaos {
    /// Runs it, and panics if anything is not counted right.
    pub fn run(&self) -> Outcome {
        let servers = self.servers.map(|flags| {
            format!(
                "--prefill 2s --inter-token 700ms --tokens 6 --failure-after 3 --max-num-seqs 100000 --idle-timeout 120s {flags}"
            )
        });
        let mut mesh = Mesh::start(&servers.each_ref().map(String::as_str), self.tls, self.agent);
        let mut lasting = vec![
            self.client(&mesh, 1, "one-shot"),
            self.client(&mesh, 2, "keep-alive"),
        ];
        let mut doomed = Vec::from([3, 4].map(|seed| self.endless(&mesh, seed)));
        wait_for_open(&mesh, self.concurrency * 3);

        let all = || lasting.iter().chain(&doomed);
        calm(&mesh, all());
        let first = assert_agreement(&mesh);
        mesh.restart(Signal::SIGKILL, |_| {});
        assert_eq!(assert_agreement(&mesh), first, "the agent was killed");
        mesh.set(REMOVED, Presence::Absent);
        assert_eq!(assert_agreement(&mesh), first, "a replica was removed");
        let resumed = || lasting.iter().chain(&doomed[1..]);
        kill(&doomed[0]);
        wait_for_quiet(&mesh);
        let left = assert_agreement(&mesh);
        assert!(
            sum(&left) < sum(&first),
            "a client was killed: {left:?} of {first:?}"
        );
        mesh.assert_uncorrected();
        stir(&mesh, resumed());

        mesh.set(DRAINED, Presence::Draining);
        lasting.push(self.client(&mesh, 5, "one-shot"));
        mesh.restart(Signal::SIGTERM, |mesh| wait_for_more(mesh, self.concurrency / 4));
        mesh.set(ADDED, Presence::Active);
        kill(&doomed.pop().expect("there are two"));
        mesh.restart(Signal::SIGKILL, |mesh| wait_for_more(mesh, self.concurrency / 4));
        mesh.set(REMOVED, Presence::Active);
        lasting.push(self.client(&mesh, 6, "keep-alive"));
        mesh.set(DRAINED, Presence::Active);
        wait_for_more(&mesh, self.concurrency);

        calm(&mesh, lasting.iter());
        let second = assert_agreement(&mesh);
        mesh.assert_uncorrected();
        mesh.restart(Signal::SIGTERM, |_| {});
        assert_eq!(assert_agreement(&mesh), second, "the agent was restarted");
        stir(&mesh, lasting.iter());
        for client in lasting {
            self.assert_told(client);
        }
        eprintln!("in flight at the quiet points: {}, {}", sum(&first), sum(&second));
        at_rest(mesh)
    }

    fn flags(&self, seed: u32, mode: &str) -> String {
        format!(
            "--concurrency {} --seed {seed} --mode {mode} --requests-per-connection 3 --ramp 2s --cancel mix --cancel-share 0.4 \
             --cancel-after 0ms..3s --cancel-tokens 6 --timeout 300s --connect-timeout 30s",
            self.concurrency
        )
    }

    /// A client that is left to end.
    fn client(&self, mesh: &Mesh, seed: u32, mode: &str) -> Process {
        mesh.client(&format!(
            "{} --requests {}",
            self.flags(seed, mode),
            self.requests
        ))
    }

    /// A client that is to be killed.
    fn endless(&self, mesh: &Mesh, seed: u32) -> Process {
        mesh.client(&self.flags(seed, "one-shot"))
    }

    /// Panics unless all of a client's requests were answered or given up by itself.
    fn assert_told(&self, client: Process) {
        let (report, status): (Value, _) = client.report().expect("a report");
        let requests = &report["requests"];
        let ended = requests["ok"].as_u64().unwrap_or(0) + requests["cancelled"].as_u64().unwrap_or(0);
        assert!(status.success() && ended == self.requests, "{requests:#}");
    }
}

/// Waits until nothing is open, and panics unless everything is counted once.
fn at_rest(mesh: Mesh) -> Outcome {
    let nothing = |left: &Vec<(String, u64)>| left.is_empty();
    eventually("nothing is left in the kernel", || mesh.watch.left(), nothing);
    mesh.bed.assert_no_internal_error();
    let (truth, rows) = (mesh.truth(), mesh.rows());
    for (index, replica) in mesh.replicas.iter().enumerate() {
        let told = truth[&replica.address];
        assert_eq!(told.open, 0, "{replica:?}: {told:?}");
        // The rows of a backend that was removed go with it.
        if index == REMOVED {
            continue;
        }
        let of = |vantage: Vantage| {
            let is_own = |row: &&_| is_of(row, replica.address, vantage);
            rows.iter().find(is_own).expect("a row")
        };
        let [client, server] = [of(Vantage::Client), of(Vantage::Server)];
        let ended: u64 = server.requests.values().sum();
        assert_eq!(ended, told.started, "{replica:?}: {server:#?}");
        let ended: u64 = client.requests.values().sum();
        assert!(ended >= told.started, "{replica:?}: {told:?}, {client:#?}");
        assert!(
            server.cancels.values().sum::<u64>() > 0,
            "{replica:?}: {server:#?}"
        );
        assert_eq!(
            (client.ambiguous_sockets, server.ambiguous_sockets),
            (0, 0),
            "{replica:?}"
        );
    }
    mesh.assert_uncorrected();
    let seen = mesh.watch.stop();
    eprintln!("{} looks", seen.looks);
    assert!(seen.negative.is_empty(), "{seen:#?}");
    Outcome {
        requests: truth.values().map(|one| one.started).sum(),
        at_once: seen.most_in_flight,
    }
}

fn is_of(row: &Traffic, address: SocketAddr, vantage: Vantage) -> bool {
    row.backend == address.to_string() && row.vantage == vantage
}

fn wait_for_open(mesh: &Mesh, open: u64) {
    let waited = wait_until(PATIENCE, || mesh.total().open >= open);
    waited.unwrap_or_else(|error| panic!("{open} streams at once: {error}; {:?}", mesh.total()));
}

/// Waits until so many more requests have reached the servers.
fn wait_for_more(mesh: &Mesh, requests: u64) {
    let before = mesh.total().started;
    let waited = wait_until(PATIENCE, || mesh.total().started >= before + requests);
    waited.unwrap_or_else(|error| panic!("{requests} more requests: {error}; {:?}", mesh.total()));
}

fn kill(client: &Process) {
    client.signal(Signal::SIGKILL).expect("kill a client");
}

/// Freezes the servers and stops the clients, in this order, so that no client is left with an answer that it has not read.
fn calm<'a>(mesh: &Mesh, clients: impl Iterator<Item = &'a Process>) {
    mesh.control(&frozen());
    unchanged("the servers freeze", || {
        let complete = |row: &Traffic| row.requests["success"];
        mesh.rows().iter().map(complete).sum::<u64>()
    });
    for client in clients {
        client.signal(Signal::SIGSTOP).expect("stop a client");
    }
    wait_for_quiet(mesh);
}

/// Has all go on.
fn stir<'a>(mesh: &Mesh, clients: impl Iterator<Item = &'a Process>) {
    mesh.control(&thawed());
    for client in clients {
        client.signal(Signal::SIGCONT).expect("wake a client");
    }
}

fn wait_for_quiet(mesh: &Mesh) {
    unchanged("quiet", || mesh.truth());
}

/// Waits until `look` has given the same for a while.
fn unchanged<T: PartialEq + std::fmt::Debug>(what: &str, look: impl Fn() -> T) {
    let mut last = (look(), Instant::now());
    let waited = wait_until(PATIENCE, || {
        let now = look();
        if now != last.0 {
            last = (now, Instant::now());
        }
        last.1.elapsed() >= QUIET
    });
    waited.unwrap_or_else(|error| panic!("{what}: {error}; {:?}", last.0));
}

/// Panics unless the kernel has in flight, at both ends of each replica, what its server has open.
fn assert_agreement(mesh: &Mesh) -> InFlight {
    let (truth, in_flight) = (mesh.truth(), mesh.in_flight());
    for replica in &mesh.replicas {
        let (open, [client, server]) = (truth[&replica.address].open, in_flight[&replica.address]);
        let agree = if replica.serves_half_closed {
            client <= server && server <= open
        } else {
            [client, server] == [open; 2]
        };
        assert!(agree, "{replica:?} has {open} open: {in_flight:?}");
    }
    assert!(sum(&in_flight) > 0, "{truth:?}");
    in_flight
}

/// Requests that the servers have in flight.
fn sum(in_flight: &InFlight) -> u64 {
    in_flight.values().map(|[_, server]| server).sum()
}
