// SPDX-License-Identifier: Apache-2.0
//! How much a service takes: counts that are never passed, rates that are met, and errors that say so.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{collections::BTreeSet, net::SocketAddr};

use nodemesh_e2e::{
    bed::{Bed, Family, Replica, Report, connect, hold, once, probe, report_of, udp},
    eventually::eventually,
    manifest::{Manifest, Policy, Service, workload},
    model_scene::ModelScene,
    process::Process,
};
use serde_json::{Value, json};

const EXCESS: &str = "EAGAIN";

/// The service `echo` of `replicas` with these limits.
fn limited(family: Family, replicas: &[Replica], limits: Value) -> Manifest {
    let service = Service::new("echo", family.vip(1)).to(replicas.iter().map(|replica| replica.at(family)));
    Manifest::of([service]).and(Policy::of("echo").set("limits", limits))
}

/// Connections that the service at `address` refused for `reason`.
fn refused(bed: &Bed, address: SocketAddr, reason: &str) -> u64 {
    let services = bed.agent.services().unwrap();
    let service = services
        .iter()
        .find(|service| service.address == address.to_string());
    service.unwrap().refused[reason]
}

/// A server that tells each new maximum of its open connections.
fn counting_server(bed: &Bed, address: SocketAddr) -> Process {
    let listen = address.to_string();
    let arguments = ["serve", "--name", "r0", "--tcp", "--peaks", "--listen", &listen];
    bed.server.serve("socket-probe", &arguments).unwrap()
}

fn peak(server: &Process) -> u64 {
    let peaks = server.stdout();
    let numbers = peaks.iter().filter_map(|line| line.strip_prefix("peak "));
    numbers
        .map(|number| number.parse().unwrap())
        .max()
        .unwrap_or_default()
}

#[test]
fn a_cap_is_never_passed_however_many_hammer() {
    let mut bed = Bed::new();
    let backend = SocketAddr::new(bed.server.v4(), 9000);
    let server = counting_server(&bed, backend);
    let service = Service::new("echo", Family::V4.vip(1)).to([backend]);
    let policy = Policy::of("echo").set("limits", json!({"connections": 64}));
    bed.start(&Manifest::of([service]).and(policy), &[]);
    let to = Family::V4.vip(1);
    let place = bed.client.place();
    let flags = [
        "--count",
        "100000",
        "--for",
        "3s",
        "--concurrency",
        "2",
        "--close",
        "agreed",
    ];
    let address = to.to_string();
    let clients: Vec<Process> = (0..64)
        .map(|_| probe(&place, &[&["connect", &address], &flags[..]].concat()))
        .collect();
    let (mut ok, mut excess) = (0, 0);
    for client in clients {
        let report: Report = report_of(client);
        let expected: BTreeSet<&str> = [EXCESS].into();
        let met: BTreeSet<&str> = report.errors.keys().map(String::as_str).collect();
        assert!(met.is_subset(&expected), "{report:?}");
        ok += report.ok;
        excess += report.errors.get(EXCESS).copied().unwrap_or_default();
    }
    assert!(ok > 1_000 && excess > 100, "it was a crowd: {ok} {excess}");
    assert_eq!(peak(&server), 64, "as the server has counted");
    assert_eq!(refused(&bed, to, "connections"), excess);

    // All were given back, and no more than that.
    bed.at_rest();
    let held = hold(&place, to, 70, &[]);
    assert_eq!((held.report.ok, &held.report.errors), (64, &once(EXCESS, 6)));
    held.release();
    bed.at_rest();
}

#[test]
fn what_is_held_is_given_back_however_it_ends() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(1);
    let limits = json!({"connections": 5, "perClient": {"connections": 5, "requests": 5}});
    bed.start(&limited(Family::V6, &replicas, limits), &[]);
    let (place, to) = (bed.client.place(), Family::V6.vip(1));
    let full = || {
        let held = hold(&place, to, 6, &["--close", "rst"]);
        assert_eq!((held.report.ok, &held.report.errors), (5, &once(EXCESS, 1)));
        held
    };
    full().release();
    let five = hold(&place, to, 5, &[]);
    assert_eq!(five.report.ok, 5);
    five.release();
    full().kill();
    let over = |what: &str| eventually(what, || bed.counted().active, |active| *active == 0);
    over("the killed ones end");
    full().release();
    bed.assert_no_internal_error();
}

#[test]
fn a_connection_that_fails_holds_nothing() {
    let mut bed = Bed::new();
    // Nobody listens there, and nobody is there.
    let refused = SocketAddr::new(bed.server.v4(), 9100);
    let service = Service::new("echo", Family::V4.vip(1)).to([refused]);
    let policy = Policy::of("echo").set(
        "limits",
        json!({"connections": 2, "requests": 2, "perClient": {"connections": 2}, "perBackend": {"connections": 2}}),
    );
    let empty = Service::new("empty", Family::V4.vip(2));
    let of_empty = Policy::of("empty").set("limits", json!({"connections": 2, "requests": 2}));
    let manifest = Manifest::of([service, empty]).and(policy).and(of_empty);
    bed.start(&manifest, &[]);
    for number in [1, 2] {
        let report = connect(&bed.client.place(), Family::V4.vip(number), &["--count", "20"]);
        report.assert_all_failed(20, "ECONNREFUSED");
    }
    bed.at_rest();
}

#[test]
fn requests_are_capped_and_the_error_is_the_configured_one() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(2);
    let place = bed.client.place();
    let to = Family::V4.vip(1);
    bed.start(&limited(Family::V4, &replicas, json!({"requests": 8})), &[]);
    for (excess, error) in [("refuse", "ECONNREFUSED"), ("again", EXCESS)] {
        bed.apply(&limited(
            Family::V4,
            &replicas,
            json!({"requests": 8, "excess": excess}),
        ));
        let held = hold(&place, to, 10, &[]);
        assert_eq!((held.report.ok, &held.report.errors), (8, &once(error, 2)));
        held.release();
    }
    assert_eq!(refused(&bed, to, "requests"), 4);
}

#[test]
fn an_idle_connection_is_no_request_and_a_stream_is_one() {
    let scene = ModelScene::new(&[&["--prefill", "10ms", "--idle-timeout", "1h"]], &[]);
    let model = &scene.models[0];
    let policy = Policy::of("m1").set("limits", json!({"requests": 3}));
    let service = Service::new("m1", model.address).to([model.replica]);
    scene.bed.apply(&Manifest::of([service]).and(policy));
    let idle = scene.thinking(0, 3);
    scene.await_open(0, 3, 0);
    scene.await_room(0, 3);
    // Three streams that do not end.
    scene.control(0, &json!({"failure": "wedge"}));
    let streams = scene.client(
        0,
        &["--mode", "one-shot", "--concurrency", "3", "--timeout", "1h"],
    );
    eventually(
        "the streams",
        || scene.bed.backend(model.replica).requests_in_flight,
        |requests| *requests == Some(3),
    );
    let place = scene.bed.client.place();
    connect(&place, model.address, &["--timeout", "300ms"]).assert_all_failed(1, EXCESS);
    drop(streams);
    scene.await_open(0, 3, 0);
    scene.control(0, &json!({"failure": "none"}));
    scene.await_room(0, 3);
    drop(idle);
}

#[test]
fn each_client_has_caps_of_its_own() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(1);
    let [(_one, one), (_two, two), (_three, three)] =
        ["one", "two", "two-as-well"].map(|name| bed.nested(&bed.client, name));
    let stranger = bed.a.pod("stranger").unwrap();
    let spiffe = "spiffe://example.org/two";
    let manifest = limited(
        Family::V4,
        &replicas,
        json!({"connections": 20, "perClient": {"connections": 3}}),
    )
    .and(workload("apps", "one", &json!({"cgroup": "client/one"})))
    .and(workload(
        "apps",
        "two",
        &json!({"cgroup": "client/two", "identity": spiffe}),
    ))
    .and(workload(
        "apps",
        "three",
        &json!({"cgroup": "client/two-as-well"}),
    ));
    bed.start(&manifest, &[]);
    let to = Family::V4.vip(1);
    let held: Vec<_> = [&one, &two, &three, &bed.client.place()]
        .map(|place| hold(place, to, 5, &[]))
        .into();
    for held in &held {
        assert_eq!((held.report.ok, &held.report.errors), (3, &once(EXCESS, 2)));
    }
    // The unknown ones are one client.
    connect(&stranger.place(), to, &[]).assert_all_failed(1, EXCESS);
    for held in held {
        held.release();
    }
    connect(&stranger.place(), to, &["--count", "4"]).assert_all_ok(4);
}

#[test]
fn a_backend_that_is_full_passes_its_clients_on() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(3);
    let place = bed.client.place();
    let to = Family::V4.vip(1);
    for (limit, reason) in [("connections", "connections"), ("requests", "requests")] {
        for algorithm in ["least-request", "random", "maglev", "round-robin"] {
            let limits = json!({"perBackend": {limit: 4}});
            let service = Service::new("echo", to).to(replicas.iter().map(|replica| replica.at(Family::V4)));
            let policy = Policy::of("echo").algorithm(algorithm).set("limits", limits);
            let manifest = Manifest::of([service]).and(policy);
            if bed.agent.status().is_ok() {
                bed.apply(&manifest);
            } else {
                bed.start(&manifest, &[]);
            }
            let before = refused(&bed, to, reason);
            let held = hold(&place, to, 14, &[]);
            assert_eq!(
                (held.report.ok, &held.report.errors),
                (12, &once(EXCESS, 2)),
                "{algorithm}"
            );
            for replica in &replicas {
                assert_eq!(held.report.of(replica.name()), 4, "{algorithm} {limit}");
            }
            assert_eq!(refused(&bed, to, reason), before + 2, "{algorithm}");
            held.release();
        }
    }
}

#[test]
fn datagrams_are_limited_as_connections_and_flows() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(1);
    let to = Family::V4.vip(1);
    let service = Service::new("echo", to).udp().to([replicas[0].at(Family::V4)]);
    let with = |limits: Value| Manifest::of([service.clone()]).and(Policy::of("echo").set("limits", limits));
    bed.start(&with(json!({"connections": 3})), &[]);
    let place = bed.client.place();
    let report = udp(&place, to, &["--connected", "--sockets", "5", "--count", "6"]);
    assert_eq!((report.ok, &report.errors), (6, &once(EXCESS, 2)), "{report:?}");
    assert_eq!(report.failed_calls, once("connect", 2));
    // All are closed again.
    let report = udp(&place, to, &["--connected", "--sockets", "3", "--count", "3"]);
    assert_eq!((report.ok, report.errors.len()), (3, 0), "{report:?}");
    // The end of a flow is not seen: it holds nothing, but it needs a token.
    let report = udp(&place, to, &["--sockets", "5", "--count", "10"]);
    assert_eq!((report.ok, report.errors.len()), (10, 0), "{report:?}");
    bed.apply(&with(
        json!({"connectionsPerSecond": 1, "burst": 2, "excess": "refuse"}),
    ));
    let report = udp(&place, to, &["--sockets", "8", "--count", "8"]);
    assert!((2..=3).contains(&report.ok), "{report:?}");
    assert_eq!(report.errors, once("ECONNREFUSED", 8 - report.ok), "{report:?}");
}
