// SPDX-License-Identifier: Apache-2.0
//! Replicas that come back: slowly, with one client until the first token, and by a probe that tells something.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::net::SocketAddr;

use nodemesh_agent::api::EventKind;
use nodemesh_e2e::{
    bed::{Bed, Family, ModelServer, Replica, connect, hold, once},
    eventually::eventually,
    manifest::{Manifest, Policy, Service},
    process::Process,
};
use serde_json::{Value, json};

/// The service `echo` with a policy of this field, in turn.
fn echo(service: impl FnOnce(Service) -> Service, field: &str, value: Value) -> Manifest {
    let policy = Policy::of("echo").algorithm("round-robin").set(field, value);
    Manifest::of([service(Service::new("echo", Family::V4.vip(1)))]).and(policy)
}

#[test]
fn a_replica_that_is_removed_and_comes_back_starts_slowly() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(2);
    let (place, to) = (bed.client.place(), Family::V4.vip(1));
    let with = |count: usize| {
        let backends = replicas[..count].iter().map(|replica| replica.at(Family::V4));
        echo(
            |service| service.to(backends),
            "slowStart",
            json!({"window": "4s"}),
        )
    };
    bed.start(&with(2), &[]);
    // Both are there for longer than the window.
    let all = connect(
        &place,
        to,
        &["--count", "1000000", "--for", "4200ms", "--close", "rst"],
    );
    all.assert_all_ok(all.ok);
    let share = || {
        let report = connect(&place, to, &["--count", "200", "--close", "rst"]);
        report.assert_all_ok(200);
        report.of("r1")
    };
    assert_eq!(share(), 100);
    // Its connection keeps its row, and what is counted there, in the kernel.
    let held = hold(&place, to, 2, &[]);
    assert_eq!(held.report.of("r1"), 1);
    bed.apply(&with(1));
    assert_eq!(share(), 0);
    bed.apply(&with(2));
    let first = share();
    assert!((1..80).contains(&first), "{first} of 200");
    eventually("the whole share again", share, |share| *share == 100);
    assert!(
        bed.backend(replicas[1].at(Family::V4)).active_connections >= 1,
        "the same row"
    );
    held.release();
    bed.assert_no_internal_error();
}

/// One request on a connection of its own, or several at once.
fn requests(bed: &Bed, count: u64, concurrency: u64) -> Process {
    let url = format!("http://{}", Family::V4.vip(1));
    let (count, concurrency) = (count.to_string(), concurrency.to_string());
    let flags = [
        "--url",
        &url,
        "--mode",
        "one-shot",
        "--requests",
        &count,
        "--concurrency",
        &concurrency,
    ];
    bed.client.spawn("load-client", &flags).unwrap()
}

fn all_ok(client: Process, count: u64) {
    let (report, _) = client.report::<Value>().unwrap();
    assert_eq!(report["requests"]["ok"], count, "{report:#}");
}

#[test]
fn a_replica_that_drained_is_cold_until_its_first_token() {
    let mut bed = Bed::new();
    let flags = ["--prefill", "1ms", "--inter-token", "1ms", "--tokens", "4"];
    let [warm, cold] = [9000, 9001].map(|port| ModelServer::start(&bed.server, port, &flags));
    let with = |state: &str| {
        let backends = |service: Service| service.to([warm.address]).in_state(cold.address, state);
        echo(backends, "slowStart", json!({"untilFirstToken": true}))
    };
    bed.start(&with("active"), &[]);
    let total = |address: SocketAddr| bed.backend(address).connections_total;
    all_ok(requests(&bed, 8, 1), 8);
    assert_eq!([warm.address, cold.address].map(total), [4, 4]);
    bed.apply(&with("draining"));
    // Whatever it does meanwhile, such as loading another model, takes time.
    cold.behave(bed.server.netns(), &json!({"prefill_ms": 1_500}));
    bed.apply(&with("active"));
    let client = requests(&bed, 200, 8);
    eventually("many requests", || total(warm.address), |total| *total >= 4 + 150);
    assert_eq!(total(cold.address), 4 + 1);
    all_ok(client, 200);
    assert_eq!(total(cold.address), 4 + 1, "all others went elsewhere");
    all_ok(requests(&bed, 8, 8), 8);
    assert_eq!(total(cold.address), 4 + 1 + 4);
    bed.assert_no_internal_error();
}

#[test]
fn a_probe_that_tells_nothing_is_followed_by_the_next_connection() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(1);
    let silent = bed.b.pod("silent").unwrap();
    let _silent = Replica::start(&silent, "silent", 9000);
    let backends = [replicas[0].at(Family::V4), SocketAddr::new(silent.v4(), 9000)];
    let detection = json!({"baseEjectionTime": "100ms", "maxEjectionTime": "100ms"});
    bed.start(
        &echo(|service| service.to(backends), "outlierDetection", detection),
        &[],
    );
    let (place, to) = (bed.client.place(), Family::V4.vip(1));
    connect(&place, to, &["--count", "4"]).assert_all_ok(4);
    let route = |verb: &str| {
        let line = format!("route {verb} blackhole 10.1.0.0/16");
        silent.netns().configure(&[line]).unwrap();
    };
    route("add");
    let patient = ["--count", "4", "--timeout", "1200ms", "--nonblocking"];
    assert_eq!(connect(&place, to, &patient).errors, once("TIMEOUT", 1));
    bed.eventually_events(EventKind::Ejected, 1);
    // Clients without patience: what their attempts meet is no fault of the replica, and no proof of its health.
    let probed = || {
        connect(
            &place,
            to,
            &["--count", "4", "--timeout", "100ms", "--nonblocking"],
        );
        bed.events(EventKind::Probed)
    };
    eventually("one probe after the other", probed, |events| events.len() >= 5);
    assert_eq!(bed.events(EventKind::Ejected).len(), 1);
    assert_eq!(bed.events(EventKind::Readmitted), []);
    route("del");
    let served = || connect(&place, to, &["--count", "10"]);
    eventually("it is back", served, |report| report.of("silent") == 5);
    assert_eq!(bed.events(EventKind::Readmitted).len(), 1);
    bed.assert_no_internal_error();
}
