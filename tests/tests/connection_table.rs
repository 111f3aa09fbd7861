// SPDX-License-Identifier: Apache-2.0
//! The table of connections is bounded: what finds no room is placed all the same, is counted as untracked, and leaves room for
//! those after it; what is in it is listed.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU16, Ordering},
};

use nodemesh_agent::api::{Connection, MeterStatus};
use nodemesh_e2e::{
    bed::{Bed, Family, Held, Replica, Report, hold, probe, report_of},
    eventually::eventually,
    manifest::{Manifest, Service},
    process::Process,
    scrape::Scrape,
};
use serde::Deserialize;
use serde_json::Value;

/// A TCP service and a UDP one, each with the same replica on another node: connections have records as clients' only.
struct Table {
    bed: Bed,
    tcp: SocketAddr,
    udp: SocketAddr,
    _replica: Replica,
}

/// What the agent tells Prometheus of the table.
#[derive(Debug, PartialEq, Eq)]
struct Gauges {
    entries: u64,
    limit: u64,
    untracked: u64,
}

impl Table {
    fn new(flags: &[&str]) -> Self {
        let mut bed = Bed::new();
        let replica = Replica::start(&bed.server, "r0", port());
        let (tcp, udp) = (Family::V4.vip(1), Family::V4.vip(2));
        let backend = [replica.at(Family::V4)];
        let manifest = Manifest::of([
            Service::new("tcp", tcp).to(backend),
            Service::new("udp", udp).udp().to(backend),
        ]);
        bed.start(&manifest, flags);
        Self {
            bed,
            tcp,
            udp,
            _replica: replica,
        }
    }

    /// Opens TCP connections and holds them. All of them lead to the replica; `untracked` of them say so by `getpeername()`, where
    /// the others say what was dialled.
    #[track_caller]
    fn hold(&self, count: u64, untracked: u64) -> Held {
        let held = hold(&self.bed.client.place(), self.tcp, count, &["--concurrency", "2"]);
        assert_eq!(held.report.only_replica(count), "r0");
        let dialled = self.tcp.to_string();
        let peers = &held.report.peers;
        assert_eq!(peers.get(&dialled), Some(&(count - untracked)), "{peers:?}");
        assert_eq!(peers.values().sum::<u64>(), count, "{peers:?}");
        held
    }

    /// Connected UDP sockets that live as long as the process.
    fn hold_udp(&self, count: u64) -> Process {
        #[derive(Deserialize)]
        struct Opened {
            opened: u64,
        }
        let script = "import resource, socket, sys\n\
            host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])\n\
            resource.setrlimit(resource.RLIMIT_NOFILE, (count + 64, count + 64))\n\
            sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]\n\
            for one in sockets: one.connect((host, port))\n\
            print('{\"opened\": %d}' % len(sockets), flush=True)\n\
            sys.stdin.read()\n";
        let arguments = [
            "-c",
            script,
            &self.udp.ip().to_string(),
            &self.udp.port().to_string(),
            &count.to_string(),
        ];
        let process = self
            .bed
            .client
            .spawn("/usr/bin/python3", &arguments)
            .expect("start a client");
        let line = process
            .wait_for_line(|line| line.starts_with('{'))
            .expect("sockets");
        let opened: Opened = serde_json::from_str(&line).expect("a number");
        assert_eq!(opened.opened, count);
        process
    }

    /// Ends the agent and starts it with `flags`.
    fn restart(&mut self, flags: &[&str]) {
        assert!(self.bed.agent.stop().expect("stop the agent").success());
        self.bed.agent.start(flags).expect("start the agent");
    }

    fn gauges(&self) -> Gauges {
        let (code, text) = self
            .bed
            .agent
            .http(&self.bed.a, "/metrics")
            .expect("ask over HTTP");
        assert_eq!(code, 200, "{text}");
        let scrape = Scrape::parse(&text).expect("a scrape");
        let of = |name: &str| scrape.count(&format!("nodemesh_connection_table_{name}"), &[]);
        Gauges {
            entries: of("entries"),
            limit: of("limit"),
            untracked: of("untracked_total"),
        }
    }

    /// Waits until the table is as told, and checks that `status` and the list say the same.
    #[track_caller]
    fn assert(&self, entries: u64, limit: u64, untracked: u64) {
        let expected = Gauges {
            entries,
            limit,
            untracked,
        };
        eventually("the table", || self.gauges(), |gauges| *gauges == expected);
        let meter: MeterStatus = self.bed.agent.status().expect("a status").datapath.meter;
        let told = [
            meter.connections,
            meter.connection_limit,
            meter.connections_untracked,
        ];
        assert_eq!(told, [entries, limit, untracked], "{meter:?}");
        assert_eq!(self.list().len() as u64, entries);
    }

    fn list(&self) -> Vec<Connection> {
        self.bed.agent.connections().expect("nodemesh connections")
    }
}

#[test]
fn beyond_the_limit_connections_work_and_are_counted() {
    let table = Table::new(&["--max-connections", "12"]);
    table.assert(0, 12, 0);
    let first = table.hold(8, 0);
    table.assert(8, 12, 0);
    let second = table.hold(9, 5);
    table.assert(12, 12, 5);
    // One that has a place gives it back; one that has none does not.
    second.release();
    table.assert(8, 12, 5);
    let third = table.hold(4, 0);
    table.assert(12, 12, 5);
    first.kill();
    table.assert(4, 12, 5);
    drop(third);
    table.assert(0, 12, 5);
    // As often as one likes.
    let all: Report = report_of(probe(
        &table.bed.client.place(),
        &[
            "connect",
            &table.tcp.to_string(),
            "--count",
            "300",
            "--concurrency",
            "4",
        ],
    ));
    all.assert_all_ok(300);
    table.assert(0, 12, 5);
    let active = table.bed.counted().active;
    assert_eq!(
        active, 0,
        "untracked connections are not counted on their backend"
    );
}

#[test]
fn a_limit_that_was_lowered_holds_for_new_connections() {
    let mut table = Table::new(&["--max-connections", "50"]);
    // Of UDP, so that the agent finds nothing to adopt at the other end, which is on this machine.
    let first = table.hold_udp(30);
    table.assert(30, 50, 0);
    table.restart(&["--max-connections", "20"]);
    table.assert(30, 20, 0);
    let second = table.hold_udp(3);
    table.assert(30, 20, 3);
    drop(first);
    table.assert(0, 20, 3);
    let third = table.hold_udp(20);
    table.assert(20, 20, 3);
    drop((second, third));
    table.assert(0, 20, 3);
    table.restart(&["--max-connections", "0"]);
    let fourth = table.hold_udp(40);
    table.assert(40, 0, 3);
    drop(fourth);
    table.assert(0, 0, 3);
}

#[test]
fn every_entry_is_listed_in_every_form() {
    let table = Table::new(&[]);
    let tcp = table.hold(600, 0);
    let sockets = table.hold_udp(400);
    let listed = eventually("1000 entries", || table.list(), |listed| listed.len() == 1_000);
    let of = |protocol: &str| listed.iter().filter(|one| one.protocol == protocol).count();
    assert_eq!((of("TCP"), of("UDP")), (600, 400));
    let text = |arguments: &[&str]| {
        let output = table
            .bed
            .agent
            .cli(&[&["connections"], arguments].concat())
            .expect("the CLI");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let lines = |arguments: &[&str]| text(arguments).lines().count();
    // With the headers.
    assert_eq!(lines(&[]), 1_001);
    assert_eq!(lines(&["--wide", "--sort", "rtt"]), 1_001);
    assert_eq!(lines(&["--service", "models/udp"]), 401);
    assert_eq!(lines(&["--limit", "7"]), 8);
    assert_eq!(lines(&["--older-than", "1h"]), 1);
    let parsed: Vec<Value> = serde_json::from_str(&text(&["-o", "json", "--limit", "999"])).expect("JSON");
    assert_eq!(parsed.len(), 999);
    drop((tcp, sockets));
    table.assert(0, table.gauges().limit, 0);
}

/// A port that no other test of this machine has: an agent adopts whatever connections the machine has to its backends.
fn port() -> u16 {
    static TABLES: AtomicU16 = AtomicU16::new(0);
    let process = (std::process::id() % 1_000) as u16;
    20_000 + process * 8 + TABLES.fetch_add(1, Ordering::Relaxed)
}
