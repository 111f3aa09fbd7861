// SPDX-License-Identifier: Apache-2.0
//! New connections per second, of a service, of each client and of each replica: met to a percent, and nothing is lost of them.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{net::SocketAddr, time::Duration};

use nodemesh_e2e::{
    bed::{Bed, Family, Replica, Report, connect, hold, once, probe, report_of, udp},
    manifest::{Manifest, Policy, Service, workload},
    process::Place,
};
use serde_json::{Value, json};

const EXCESS: &str = "EAGAIN";

/// The service `echo` of `replicas` with these limits.
fn limited(replicas: &[Replica], algorithm: &str, limits: Value) -> Manifest {
    let backends = replicas.iter().map(|replica| replica.at(Family::V4));
    let service = Service::new("echo", Family::V4.vip(1)).to(backends);
    Manifest::of([service]).and(Policy::of("echo").algorithm(algorithm).set("limits", limits))
}

/// Connections that the service at `address` refused for want of a token.
fn refused(bed: &Bed, address: SocketAddr) -> u64 {
    let services = bed.agent.services().unwrap();
    let found = services
        .iter()
        .find(|service| service.address == address.to_string());
    found.unwrap().refused["rate"]
}

#[test]
fn rates_are_met_within_one_percent() {
    const RATE: u64 = 400;
    // A client that is kept waiting for less than a second loses no token.
    const BURST: u64 = 400;
    let mut bed = Bed::new();
    let replicas = bed.replicas(2);
    let (_one, one) = bed.nested(&bed.client, "one");
    let rate = json!({"connectionsPerSecond": RATE, "burst": BURST});
    let mut manifest = Manifest::of([workload("apps", "one", &json!({"cgroup": "client/one"}))]);
    let scopes = [
        ("all", rate.clone()),
        ("client", json!({"perClient": rate})),
        ("backend", json!({"perBackend": rate})),
    ];
    for ((name, limits), number) in scopes.into_iter().zip(1..) {
        let backends = replicas.iter().map(|replica| replica.at(Family::V4));
        let service = Service::new(name, Family::V4.vip(number)).to(backends);
        let policy = Policy::of(name).algorithm("random").set("limits", limits);
        manifest = manifest.and(service).and(policy);
    }
    bed.start(&manifest, &[]);
    let unknown = bed.client.place();
    let hammer = |number: u8, place: &Place| {
        let address = Family::V4.vip(number).to_string();
        let flags = [
            "--count",
            "100000000",
            "--for",
            "10s",
            "--concurrency",
            "2",
            "--close",
            "rst",
        ];
        probe(place, &[&["connect", &address], &flags[..]].concat())
    };
    // Both clients together, each client, and each of two replicas.
    let clients = [
        (1_usize, hammer(1, &unknown), 1_u64),
        (2, hammer(2, &unknown), 1),
        (2, hammer(2, &one), 1),
        (3, hammer(3, &one), 2),
    ];
    let mut excess = [0; 4];
    for (number, client, buckets) in clients {
        let report: Report = report_of(client);
        let expected = report.seconds * (buckets * RATE) as f64 + (buckets * BURST) as f64;
        let ratio = report.ok as f64 / expected;
        println!(
            "{number}: {} connections in {} s: {ratio}",
            report.ok, report.seconds
        );
        assert!((0.99..=1.01).contains(&ratio), "{number}: {ratio}: {report:?}");
        assert_eq!(report.errors.keys().collect::<Vec<_>>(), [EXCESS], "{number}");
        excess[number] += report.errors[EXCESS];
    }
    for number in 1..=3 {
        let counted = refused(&bed, Family::V4.vip(number));
        assert_eq!(counted, excess[usize::from(number)], "{number}");
    }
}

#[test]
fn a_burst_is_the_whole_of_a_full_bucket() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(1);
    let (_one, one) = bed.nested(&bed.client, "one");
    // A token each minute and more: none comes back while the test runs.
    let limits = json!({"perClient": {"connectionsPerSecond": 1, "burst": 7}});
    let manifest = limited(&replicas, "random", limits);
    bed.start(
        &manifest.and(workload("apps", "one", &json!({"cgroup": "client/one"}))),
        &[],
    );
    for place in [&one, &bed.client.place()] {
        let report = connect(place, Family::V4.vip(1), &["--count", "20", "--concurrency", "4"]);
        let most = 8 + Duration::from_secs_f64(report.seconds).as_secs();
        assert!((7..=most).contains(&report.ok), "{report:?}");
    }
}

#[test]
fn a_replica_without_tokens_passes_its_clients_on() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(3);
    let (place, to) = (bed.client.place(), Family::V4.vip(1));
    for (number, algorithm) in ["least-request", "random", "maglev", "round-robin"]
        .into_iter()
        .enumerate()
    {
        // Whatever changes gives no replica its tokens back, so each round has a rate of its own.
        let burst = 5 * (number as u64 + 1);
        let limits = json!({"perBackend": {"connectionsPerSecond": 1, "burst": burst}});
        let manifest = limited(&replicas, algorithm, limits);
        if number == 0 {
            bed.start(&manifest, &[]);
        } else {
            bed.apply(&manifest);
        }
        let before = refused(&bed, to);
        let report = connect(&place, to, &["--count", "100"]);
        // Each round adds five tokens to each replica's bucket, and each second one.
        assert!(report.ok >= 15, "{algorithm}: {report:?}");
        for replica in &replicas {
            assert!(report.of(replica.name()) >= 5, "{algorithm}: {report:?}");
        }
        let most = 15 + 3 * (Duration::from_secs_f64(report.seconds).as_secs() + 1 + 10 * number as u64);
        assert!(report.ok <= most, "{algorithm}: {report:?}");
        assert_eq!(report.errors, once(EXCESS, 100 - report.ok), "{algorithm}");
        assert_eq!(refused(&bed, to), before + 100 - report.ok, "{algorithm}");
    }
}

#[test]
fn whoever_is_refused_for_another_reason_takes_no_token() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(1);
    let place = bed.client.place();
    let rate = |other: Value| {
        // The tokens of a minute, so that none that is lost comes back while the test runs.
        let mut limits = json!({"connectionsPerSecond": 1, "burst": 60});
        limits
            .as_object_mut()
            .unwrap()
            .extend(other.as_object().unwrap().clone());
        limits
    };
    let cases = [
        rate(json!({"connections": 1})),
        rate(json!({"perBackend": {"connections": 1}})),
        json!({"perClient": rate(json!({"connections": 1}))}),
        json!({"perClient": rate(json!({})), "perBackend": {"requests": 1}}),
        json!({"perBackend": rate(json!({"connections": 1}))}),
    ];
    let mut manifest = Manifest::of(Vec::<Value>::new());
    for (limits, number) in cases.iter().zip(1..) {
        let name = format!("echo-{number}");
        let service = Service::new(&name, Family::V4.vip(number)).to([replicas[0].at(Family::V4)]);
        manifest = manifest
            .and(service)
            .and(Policy::of(&name).set("limits", limits.clone()));
    }
    bed.start(&manifest, &[]);
    for (limits, number) in cases.iter().zip(1..) {
        let to = Family::V4.vip(number);
        let held = hold(&place, to, 1, &[]);
        assert_eq!(held.report.ok, 1, "{limits}");
        let beyond = connect(&place, to, &["--count", "500", "--concurrency", "4"]);
        beyond.assert_all_failed(500, EXCESS);
        assert_eq!(refused(&bed, to), 0, "{limits}: for want of room, not of a token");
        held.release();
        bed.at_rest();
        connect(&place, to, &["--count", "59"]).assert_all_ok(59);
    }
}

#[test]
fn a_flow_of_datagrams_takes_a_token_of_its_replica() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(1);
    let to = Family::V4.vip(1);
    let service = Service::new("echo", to).udp().to([replicas[0].at(Family::V4)]);
    let limits = json!({"perBackend": {"connectionsPerSecond": 1, "burst": 2}});
    bed.start(
        &Manifest::of([service]).and(Policy::of("echo").set("limits", limits)),
        &[],
    );
    let report = udp(&bed.client.place(), to, &["--sockets", "8", "--count", "8"]);
    assert!((2..=4).contains(&report.ok), "{report:?}");
    assert_eq!(report.errors, once(EXCESS, 8 - report.ok), "{report:?}");
}
