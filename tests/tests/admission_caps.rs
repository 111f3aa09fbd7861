// SPDX-License-Identifier: Apache-2.0
//! Caps that are configured while connections are open: these count towards them, exactly, whoever comes and goes meanwhile.

use std::net::SocketAddr;

use nodemesh_e2e::{
    bed::{Bed, Family, Report, connect, hold, once, probe, report_of, udp},
    eventually::eventually,
    manifest::{Manifest, Policy, Service, workload},
    model_scene::ModelScene,
};
use serde_json::{Value, json};

const EXCESS: &str = "EAGAIN";

/// The service `echo` with one replica, and limits if there are any.
fn service(backend: SocketAddr, limits: Option<&Value>) -> Manifest {
    let manifest = Manifest::of([Service::new("echo", Family::V4.vip(1)).to([backend])]);
    match limits {
        Some(limits) => manifest.and(Policy::of("echo").set("limits", limits.clone())),
        None => manifest,
    }
}

#[test]
fn connections_that_were_open_before_count_towards_a_new_cap() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(1);
    let backend = replicas[0].at(Family::V4);
    bed.start(&service(backend, None), &[]);
    let (place, to) = (bed.client.place(), Family::V4.vip(1));
    for limits in [
        json!({"connections": 64}),
        json!({"requests": 64}),
        json!({"perClient": {"connections": 64}}),
        json!({"perClient": {"requests": 64}}),
        json!({"perBackend": {"connections": 64}}),
        json!({"perBackend": {"requests": 64}}),
        json!({"connections": 90, "requests": 64, "perClient": {"connections": 80}, "perBackend": {"requests": 70}}),
    ] {
        bed.apply(&service(backend, None));
        let before = hold(&place, to, 40, &[]);
        assert_eq!(before.report.ok, 40, "{limits}");
        bed.apply(&service(backend, Some(&limits)));
        let more = hold(&place, to, 30, &[]);
        assert_eq!(
            (more.report.ok, &more.report.errors),
            (24, &once(EXCESS, 6)),
            "{limits}"
        );
        // Each of them is given back once, whenever it was opened.
        before.release();
        eventually("their end", || bed.counted().active, |active| *active == 24);
        let rest = hold(&place, to, 41, &[]);
        assert_eq!(
            (rest.report.ok, &rest.report.errors),
            (40, &once(EXCESS, 1)),
            "{limits}"
        );
        rest.release();
        more.release();
        bed.at_rest();
        let all = hold(&place, to, 65, &[]);
        assert_eq!(
            (all.report.ok, &all.report.errors),
            (64, &once(EXCESS, 1)),
            "{limits}"
        );
        all.release();
        bed.at_rest();
    }
    bed.assert_no_internal_error();
}

#[test]
fn more_than_a_new_cap_may_be_open_and_nobody_comes_until_there_is_room() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(1);
    let backend = replicas[0].at(Family::V4);
    bed.start(&service(backend, None), &[]);
    let (place, to) = (bed.client.place(), Family::V4.vip(1));
    let (first, second) = (hold(&place, to, 10, &[]), hold(&place, to, 5, &[]));
    bed.apply(&service(backend, Some(&json!({"connections": 8}))));
    connect(&place, to, &["--count", "3"]).assert_all_failed(3, EXCESS);
    second.release();
    eventually("their end", || bed.counted().active, |active| *active == 10);
    connect(&place, to, &["--count", "3"]).assert_all_failed(3, EXCESS);
    first.release();
    bed.at_rest();
    let full = hold(&place, to, 9, &[]);
    assert_eq!((full.report.ok, &full.report.errors), (8, &once(EXCESS, 1)));
    full.release();
}

#[test]
fn caps_that_come_and_go_under_load_leave_the_counts_right() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(1);
    let backend = replicas[0].at(Family::V4);
    let (_one, one) = bed.nested(&bed.client, "one");
    let workloads =
        |manifest: Manifest| manifest.and(workload("apps", "one", &json!({"cgroup": "client/one"})));
    let limits = json!({"connections": 40, "requests": 50, "perClient": {"connections": 24, "requests": 24}});
    bed.start(&workloads(service(backend, None)), &[]);
    let to = Family::V4.vip(1);
    let held = hold(&one, to, 10, &[]);
    let address = to.to_string();
    let flags = [
        "--count",
        "100000000",
        "--for",
        "4s",
        "--concurrency",
        "8",
        "--close",
        "agreed",
    ];
    let clients: Vec<_> = [&one, &bed.client.place(), &one, &bed.client.place()]
        .map(|place| probe(place, &[&["connect", &address], &flags[..]].concat()))
        .into();
    for _ in 0..8 {
        bed.apply(&workloads(service(backend, Some(&limits))));
        bed.apply(&workloads(service(backend, None)));
    }
    bed.apply(&workloads(service(backend, Some(&limits))));
    for client in clients {
        let report: Report = report_of(client);
        assert!(report.ok > 0, "{report:?}");
        assert!(report.errors.keys().all(|error| error == EXCESS), "{report:?}");
    }
    eventually(
        "the held ones alone",
        || bed.counted().active,
        |active| *active == 10,
    );
    // 14 more of the client that holds 10, then what is left of the service's 40.
    let own = hold(&one, to, 20, &[]);
    assert_eq!((own.report.ok, &own.report.errors), (14, &once(EXCESS, 6)));
    let others = hold(&bed.client.place(), to, 20, &[]);
    assert_eq!((others.report.ok, &others.report.errors), (16, &once(EXCESS, 4)));
    for held in [held, own, others] {
        held.release();
    }
    bed.at_rest();
    bed.assert_no_internal_error();
}

#[test]
fn sockets_of_datagrams_count_towards_a_new_cap_too() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(1);
    let to = Family::V4.vip(1);
    let service = Service::new("echo", to).udp().to([replicas[0].at(Family::V4)]);
    let with = |limits: Value| Manifest::of([service.clone()]).and(Policy::of("echo").set("limits", limits));
    bed.start(&Manifest::of([service.clone()]), &[]);
    let place = bed.client.place();
    // Three sockets that are kept for longer than the test needs.
    let address = to.to_string();
    let flags = [
        "--connected",
        "--sockets",
        "3",
        "--count",
        "3000000",
        "--interval",
        "20",
    ];
    let open = probe(&place, &[&["udp", &address], &flags[..]].concat());
    eventually("three sockets", || bed.counted().active, |active| *active == 3);
    bed.apply(&with(json!({"connections": 4})));
    let report = udp(&place, to, &["--connected", "--sockets", "3", "--count", "3"]);
    assert_eq!((report.ok, &report.errors), (3, &once(EXCESS, 2)), "{report:?}");
    drop(open);
    eventually("no socket", || bed.counted().active, |active| *active == 0);
    let report = udp(&place, to, &["--connected", "--sockets", "5", "--count", "5"]);
    assert_eq!((report.ok, &report.errors), (5, &once(EXCESS, 1)), "{report:?}");
}

#[test]
fn requests_that_were_in_flight_before_count_and_idle_connections_do_not() {
    let scene = ModelScene::new(&[&["--prefill", "10ms", "--idle-timeout", "1h"]], &[]);
    let model = &scene.models[0];
    let bare = || Manifest::of([Service::new("m1", model.address).to([model.replica])]);
    scene.bed.apply(&bare());
    let idle = scene.thinking(0, 3);
    let open = |connections, requests| scene.await_open(0, connections, requests);
    open(3, 0);
    scene.control(0, &json!({"failure": "wedge"}));
    let streams = scene.client(
        0,
        &["--mode", "one-shot", "--concurrency", "2", "--timeout", "1h"],
    );
    open(5, 2);
    let limits = json!({"requests": 4, "perClient": {"requests": 4}});
    scene
        .bed
        .apply(&bare().and(Policy::of("m1").set("limits", limits)));
    let place = scene.bed.client.place();
    let address = model.address;
    let flags = ["--timeout", "1h"];
    // Two streams, and two connections that have not said what they want.
    let pending = [0, 1].map(|_| {
        let address = address.to_string();
        probe(&place, &[&["connect", &address], &flags[..]].concat())
    });
    open(7, 2);
    connect(&place, address, &["--timeout", "300ms"]).assert_all_failed(1, EXCESS);
    drop(pending);
    open(5, 2);
    drop(streams);
    scene.control(0, &json!({"failure": "none"}));
    open(3, 0);
    scene.await_room(0, 4);
    drop(idle);
}
