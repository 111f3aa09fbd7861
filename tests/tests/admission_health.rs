// SPDX-License-Identifier: Apache-2.0
//! Which replicas are fit: nobody is sent to a dead one twice, and a well one is not left out.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use nodemesh_agent::api::EventKind;
use nodemesh_e2e::{
    bed::{Bed, Family, Replica, connect, hold, once},
    eventually::eventually,
    manifest::{Manifest, Policy, Service},
    process::Process,
};
use serde_json::{Value, json};

const REFUSED: &str = "ECONNREFUSED";
/// No test is as long.
const FOREVER: &str = "1h";

/// The service `echo` of `backends` with this detection, in turn.
fn service(family: Family, backends: impl IntoIterator<Item = SocketAddr>, detection: Value) -> Manifest {
    let policy = Policy::of("echo").algorithm("round-robin");
    Manifest::of([Service::new("echo", family.vip(1)).to(backends)])
        .and(policy.set("outlierDetection", detection))
}

fn of(family: Family, replicas: &[Replica]) -> Vec<SocketAddr> {
    replicas.iter().map(|replica| replica.at(family)).collect()
}

/// A bed with these replicas and this detection.
fn bed(family: Family, count: u16, detection: Value) -> (Bed, Vec<Replica>) {
    let mut bed = Bed::new();
    let replicas = bed.replicas(count);
    bed.start(&service(family, of(family, &replicas), detection), &[]);
    (bed, replicas)
}

#[test]
fn a_killed_replica_costs_one_attempt() {
    for family in Family::BOTH {
        let (bed, mut replicas) = bed(
            family,
            3,
            json!({"baseEjectionTime": FOREVER, "maxEjectionTime": FOREVER}),
        );
        let (place, to) = (bed.client.place(), family.vip(1));
        connect(&place, to, &["--count", "30"]).assert_all_ok(30);
        let held = hold(&place, to, 6, &[]);
        let gone = replicas.remove(1);
        let address = gone.at(family);
        drop(gone);
        let report = connect(&place, to, &["--count", "300"]);
        assert_eq!((report.ok, &report.errors), (299, &once(REFUSED, 1)));
        assert_eq!((report.of("r1"), report.of("r0") + report.of("r2")), (0, 299));
        let ejected = bed.eventually_events(EventKind::Ejected, 1);
        assert_eq!(ejected.len(), 1, "{ejected:#?}");
        assert_eq!(ejected[0].backend, Some(address.to_string()));
        assert_eq!(ejected[0].reason.as_deref(), Some("connect"));
        assert_eq!(ejected[0].service.as_deref(), Some("models/echo"));
        let seconds = ejected[0].ejected_seconds.unwrap();
        assert!((3_599.0..=3_600.0).contains(&seconds), "{seconds}");
        held.release();
        bed.at_rest();
        bed.assert_no_internal_error();
    }
}

#[test]
fn the_same_client_finds_another_replica_at_once() {
    let (bed, mut replicas) = bed(
        Family::V4,
        2,
        json!({"baseEjectionTime": FOREVER, "maxEjectionTime": FOREVER}),
    );
    drop(replicas.remove(0));
    let flags = ["--count", "10", "--retry-on-same-socket", "1"];
    let report = connect(&bed.client.place(), Family::V4.vip(1), &flags);
    report.assert_all_ok(10);
    assert_eq!(report.attempts, once("ECONNREFUSED,ok", 1));
    assert_eq!(report.of("r1"), 10);
}

#[test]
fn many_clients_that_fail_at_once_eject_once() {
    let (bed, mut replicas) = bed(
        Family::V4,
        2,
        json!({"baseEjectionTime": FOREVER, "maxEjectionTime": "24h"}),
    );
    drop(replicas.remove(0));
    let flags = ["--count", "2000", "--concurrency", "16"];
    let report = connect(&bed.client.place(), Family::V4.vip(1), &flags);
    let failed = report.errors.get(REFUSED).copied().unwrap_or_default();
    assert!((1..=16).contains(&failed), "one per client at most: {report:?}");
    assert_eq!(report.ok + failed, 2000);
    let ejected = bed.eventually_events(EventKind::Ejected, 1);
    assert_eq!(ejected.len(), 1, "{ejected:#?}");
}

#[test]
fn a_replica_that_comes_back_is_readmitted_by_a_probe() {
    let (bed, mut replicas) = bed(
        Family::V4,
        2,
        json!({"baseEjectionTime": "500ms", "maxEjectionTime": "500ms"}),
    );
    let (place, to) = (bed.client.place(), Family::V4.vip(1));
    drop(replicas.remove(0));
    let report = connect(&place, to, &["--count", "20"]);
    assert_eq!(report.errors, once(REFUSED, 1));
    // Each probe that fails is somebody's connection, and the only one of its half second.
    let report = connect(
        &place,
        to,
        &["--count", "100000000", "--for", "1800ms", "--close", "rst"],
    );
    let failed = report.errors.get(REFUSED).copied().unwrap_or_default();
    assert!(
        (2..=4).contains(&failed) && report.errors.len() == 1,
        "{report:?}"
    );
    let again = Replica::start(&bed.server, "r0", 9000);
    let served = || connect(&place, to, &["--count", "10"]);
    let back = eventually("it is back", served, |report| report.of("r0") > 0);
    assert!(back.errors.is_empty(), "{back:?}");
    let report = connect(&place, to, &["--count", "20"]);
    assert_eq!((report.of("r0"), report.of("r1")), (10, 10));
    let readmitted = bed.eventually_events(EventKind::Readmitted, 1);
    assert_eq!(readmitted.len(), 1, "{readmitted:#?}");
    assert_eq!(readmitted[0].backend, Some(again.at(Family::V4).to_string()));
    let probed = bed.events(EventKind::Probed).len() as u64;
    assert_eq!(
        probed,
        bed.events(EventKind::Ejected).len() as u64,
        "each ejection ends with a probe"
    );
}

#[test]
fn each_failed_probe_makes_the_ejection_longer() {
    let detection = json!({"baseEjectionTime": "100ms", "maxEjectionTime": "300ms"});
    let (bed, mut replicas) = bed(Family::V4, 2, detection);
    drop(replicas.remove(0));
    let (place, to) = (bed.client.place(), Family::V4.vip(1));
    let ejected = eventually(
        "five ejections",
        || {
            connect(&place, to, &["--count", "50"]);
            bed.events(EventKind::Ejected)
        },
        |events| events.len() >= 5,
    );
    let tenths: Vec<f64> = ejected
        .iter()
        .take(5)
        .map(|event| (event.ejected_seconds.unwrap() * 10.0).round())
        .collect();
    assert_eq!(tenths, [1.0, 2.0, 3.0, 3.0, 3.0]);
}

#[test]
fn no_more_than_the_configured_share_is_ejected() {
    let detection =
        json!({"baseEjectionTime": FOREVER, "maxEjectionTime": FOREVER, "maxEjectionPercent": 50});
    let (bed, mut replicas) = bed(Family::V4, 4, detection);
    replicas.truncate(1);
    let (place, to) = (bed.client.place(), Family::V4.vip(1));
    let report = connect(&place, to, &["--count", "200"]);
    // Two are left out after a failure each, the third one is met again and again.
    let failed = report.errors[REFUSED];
    assert!((50..150).contains(&failed), "{report:?}");
    let ejected = bed.eventually_events(EventKind::Ejected, 2);
    let backends: BTreeSet<_> = ejected.iter().map(|event| event.backend.clone()).collect();
    assert_eq!((ejected.len(), backends.len()), (2, 2), "{ejected:#?}");
}

#[test]
fn with_all_ejected_everyone_is_tried() {
    let detection =
        json!({"baseEjectionTime": FOREVER, "maxEjectionTime": FOREVER, "maxEjectionPercent": 100});
    let (bed, replicas) = bed(Family::V4, 2, detection);
    drop(replicas);
    let (place, to) = (bed.client.place(), Family::V4.vip(1));
    connect(&place, to, &["--count", "10"]).assert_all_failed(10, REFUSED);
    assert_eq!(bed.eventually_events(EventKind::Ejected, 2).len(), 2);
    assert_eq!(bed.refused(to), 0, "they were sent somewhere");
    let _again = Replica::start(&bed.server, "r1", 9001);
    let served = || connect(&place, to, &["--count", "10"]);
    eventually("it serves", served, |report| report.ok == 10);
    let readmitted = bed.eventually_events(EventKind::Readmitted, 1);
    assert_eq!(readmitted.len(), 1, "{readmitted:#?}");
}

#[test]
fn failures_are_counted_in_a_row_and_the_only_replica_stays() {
    let (bed, mut replicas) = bed(
        Family::V4,
        1,
        json!({"connectFailures": 1, "baseEjectionTime": FOREVER, "maxEjectionTime": FOREVER}),
    );
    let (place, to) = (bed.client.place(), Family::V4.vip(1));
    drop(replicas.remove(0));
    connect(&place, to, &["--count", "5"]).assert_all_failed(5, REFUSED);
    assert_eq!(bed.events(EventKind::Ejected), [], "there is no other");
    let r0 = Replica::start(&bed.server, "r0", 9000);
    let r1 = Replica::start(&bed.server, "r1", 9001);
    let detection = json!({"connectFailures": 3, "baseEjectionTime": FOREVER, "maxEjectionTime": FOREVER});
    bed.apply(&service(Family::V4, of(Family::V4, &[r0, r1]), detection));
    // The replicas ended with the slice.
    for _ in 0..3 {
        let r0 = Replica::start(&bed.server, "r0", 9000);
        let r1 = Replica::start(&bed.server, "r1", 9001);
        connect(&place, to, &["--count", "4"]).assert_all_ok(4);
        drop(r0);
        // In turn: two failures in a row, and then a success.
        let report = connect(&place, to, &["--count", "4"]);
        assert_eq!((report.ok, &report.errors), (2, &once(REFUSED, 2)));
        drop(r1);
    }
    assert_eq!(bed.events(EventKind::Ejected), []);
    let _r1 = Replica::start(&bed.server, "r1", 9001);
    // The third one.
    let report = connect(&place, to, &["--count", "40"]);
    assert_eq!(report.errors, once(REFUSED, 1));
    assert_eq!(bed.eventually_events(EventKind::Ejected, 1).len(), 1);
}

#[test]
fn a_replica_that_does_not_answer_is_ejected_when_its_client_gives_up() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(1);
    let silent = bed.b.pod("silent").unwrap();
    let backend = SocketAddr::new(silent.v4(), 9000);
    let _silent = Replica::start(&silent, "silent", 9000);
    let detection = json!({"baseEjectionTime": FOREVER, "maxEjectionTime": FOREVER});
    let manifest = service(Family::V4, [replicas[0].at(Family::V4), backend], detection);
    bed.start(&manifest, &[]);
    let (place, to) = (bed.client.place(), Family::V4.vip(1));
    connect(&place, to, &["--count", "4"]).assert_all_ok(4);
    // Packets for it end in it.
    silent
        .netns()
        .configure(&["route add blackhole 10.1.0.0/16".into()])
        .unwrap();
    let flags = ["--count", "10", "--timeout", "1200ms", "--nonblocking"];
    let report = connect(&place, to, &flags);
    assert_eq!((report.ok, &report.errors), (9, &once("TIMEOUT", 1)));
    let ejected = bed.eventually_events(EventKind::Ejected, 1);
    assert_eq!(ejected[0].backend, Some(backend.to_string()));
}

/// A model server that misbehaves as `failure` says, and one that does not.
fn models(failure: &str, detection: Value) -> (Bed, [SocketAddr; 2], Vec<Process>) {
    let mut bed = Bed::new();
    let server: IpAddr = bed.server.v4();
    let addresses = [9000, 9001].map(|port| SocketAddr::new(server, port));
    let servers = addresses
        .iter()
        .zip([failure, "none"])
        .map(|(address, failure)| {
            let listen = address.to_string();
            let flags = [
                "--listen",
                &listen,
                "--prefill",
                "1ms",
                "--inter-token",
                "1ms",
                "--tokens",
                "8",
            ];
            let flags = [&flags[..], &["--failure", failure]].concat();
            bed.server.serve("model-server", &flags).unwrap()
        })
        .collect();
    // Whatever its connections hold would be missed by the next one.
    let limits = json!({"connections": 1, "requests": 1, "perClient": {"connections": 1, "requests": 1}});
    let policy = Policy::of("echo").algorithm("round-robin").set("limits", limits);
    let service = Service::new("echo", Family::V4.vip(1)).to(addresses);
    let manifest = Manifest::of([service]).and(policy.set("outlierDetection", detection));
    bed.start(&manifest, &[]);
    (bed, addresses, servers)
}

/// Sends `count` requests, one after the other and on a connection each; how many went well.
fn requests(bed: &Bed, count: u64, flags: &[&str]) -> u64 {
    let (url, count) = (format!("http://{}", Family::V4.vip(1)), count.to_string());
    let arguments = [
        "--url",
        &url,
        "--mode",
        "one-shot",
        "--requests",
        &count,
        "--allow-failures",
    ];
    let client = bed.client.spawn("load-client", &[&arguments, flags].concat());
    let (report, _) = client.unwrap().report::<Value>().unwrap();
    report["requests"]["ok"].as_u64().unwrap()
}

#[test]
fn failed_requests_eject_at_the_threshold() {
    for failure in ["reset", "truncate", "reset-early", "close-early"] {
        let detection = json!({
            "requestFailures": 3, "baseEjectionTime": FOREVER, "maxEjectionTime": FOREVER,
        });
        let (bed, [bad, _], _servers) = models(failure, detection);
        assert_eq!(requests(&bed, 40, &[]), 37, "{failure}");
        let ejected = bed.eventually_events(EventKind::Ejected, 1);
        assert_eq!(ejected.len(), 1, "{failure}: {ejected:#?}");
        assert_eq!(ejected[0].backend, Some(bad.to_string()), "{failure}");
        assert_eq!(ejected[0].reason.as_deref(), Some("request"), "{failure}");
        assert_eq!(bed.backend(bad).connections_total, 3, "{failure}");
        bed.at_rest();
        bed.assert_no_internal_error();
    }
}

#[test]
fn statuses_eject_only_where_they_are_the_servers_fault_and_configured() {
    let detection = |server_errors: bool| {
        json!({
            "requestFailures": 2, "baseEjectionTime": FOREVER, "maxEjectionTime": FOREVER,
            "serverErrors": server_errors,
        })
    };
    let (bed, addresses, _servers) = models("error", detection(true));
    assert_eq!(requests(&bed, 20, &[]), 18);
    let ejected = bed.eventually_events(EventKind::Ejected, 1);
    assert_eq!(ejected.len(), 1, "{ejected:#?}");
    assert_eq!(ejected[0].backend, Some(addresses[0].to_string()));

    let (bed, _, _servers) = models("error", detection(false));
    assert_eq!(requests(&bed, 20, &[]), 10);
    // A client that asks for what is not there.
    assert_eq!(requests(&bed, 20, &["--model", "none"]), 0);
    assert_eq!(bed.events(EventKind::Ejected), []);
}

#[test]
fn a_replica_that_still_fails_is_ejected_again_by_its_first_failure() {
    let detection = json!({"requestFailures": 3, "baseEjectionTime": "200ms", "maxEjectionTime": FOREVER});
    let (bed, [bad, _], _servers) = models("truncate", detection);
    let ejected = eventually(
        "three ejections",
        || {
            requests(&bed, 20, &[]);
            bed.events(EventKind::Ejected)
        },
        |events| events.len() >= 3,
    );
    // Three before the first ejection, and a probe for each further one.
    let counted = || {
        (
            bed.backend(bad).connections_total,
            bed.events(EventKind::Ejected).len() as u64,
        )
    };
    eventually("nothing but probes", counted, |(total, ejections)| {
        *total == ejections + 2
    });
    let tenths: Vec<f64> = ejected
        .iter()
        .map(|event| (event.ejected_seconds.unwrap() * 10.0).round())
        .collect();
    assert_eq!(tenths[..3], [2.0, 4.0, 6.0]);
}
