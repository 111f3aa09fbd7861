// SPDX-License-Identifier: Apache-2.0
//! Which replicas come first: the near ones, and none that has only just begun.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::net::SocketAddr;

use nodemesh_e2e::{
    bed::{Bed, Counts, Family, Replica, Report, connect, hold, once},
    eventually::eventually,
    manifest::{Manifest, Policy, Service, workload},
    process::Process,
};
use serde_json::{Value, json};

/// Where the client's node is; its name is `a`.
const HERE: [&str; 2] = ["--locality", "eu/west"];
/// Where the replicas are, by how near that is. The last two share the names of zones with others, but not their region.
const PLACES: [&str; 5] = ["eu/west/a", "eu/west/b", "eu/east/c", "us/west/e", "us/east/f"];
const REFUSED: &str = "ECONNREFUSED";

/// The policy of the service `echo`, in which a single failure ejects for as long as the test lasts, whatever share that is.
fn tiers(tiers: &[&str]) -> Policy {
    let detection = json!({"baseEjectionTime": "1h", "maxEjectionTime": "1h", "maxEjectionPercent": 100});
    Policy::of("echo")
        .set("locality", json!({"tiers": tiers}))
        .set("outlierDetection", detection)
}

/// The service `echo` of these replicas, at [`PLACES`] in this order.
fn placed(family: Family, replicas: &[Replica]) -> Service {
    let service = Service::new("echo", family.vip(1));
    replicas
        .iter()
        .zip(PLACES)
        .fold(service, |service, (replica, place)| {
            service.located(replica.at(family), place)
        })
}

fn names(report: &Report) -> Vec<&str> {
    report.replicas.keys().map(String::as_str).collect()
}

#[test]
fn the_nearest_tier_serves_until_it_is_ejected_and_then_the_next() {
    for family in Family::BOTH {
        let mut bed = Bed::new();
        let mut replicas = bed.replicas(5);
        let manifest = Manifest::of([placed(family, &replicas)]).and(tiers(&["node", "zone", "region"]));
        bed.start(&manifest, &HERE);
        let (place, to) = (bed.client.place(), family.vip(1));
        for near in ["r0", "r1", "r2"] {
            let report = connect(&place, to, &["--count", "20"]);
            assert_eq!((report.ok, names(&report)), (20, vec![near]));
            replicas.remove(0);
            let report = connect(&place, to, &["--count", "1"]);
            report.assert_all_failed(1, REFUSED);
        }
        let report = connect(&place, to, &["--count", "100"]);
        assert_eq!((report.ok, names(&report)), (100, vec!["r3", "r4"]));
        replicas.clear();
        connect(&place, to, &["--count", "6"]).assert_all_failed(6, REFUSED);
        // All are ejected: they are tried in turn of their tiers, and one that is back serves.
        let _back = Replica::start(&bed.server, "r1", 9001);
        let served = || connect(&place, to, &["--count", "5"]);
        let report = eventually("r1 serves", served, |report| report.ok == 5);
        assert_eq!(names(&report), ["r1"]);
        bed.assert_no_internal_error();
    }
}

#[test]
fn a_tier_that_drains_or_is_gone_passes_on() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(3);
    let at = |index: usize| replicas[index].at(Family::V4);
    let states = |states: [Option<&str>; 3]| {
        let mut service: Value = placed(Family::V4, &replicas).into();
        let backends = service["spec"]["backends"].as_array_mut().unwrap();
        for (backend, state) in backends.iter_mut().zip(states) {
            if let Some(state) = state {
                backend["state"] = json!(state);
            }
        }
        backends.retain(|backend| backend["state"] != "gone");
        Manifest::of([service]).and(tiers(&["node", "zone"]))
    };
    let draining = Some("draining");
    let gone = Some("gone");
    bed.start(&states([None; 3]), &HERE);
    let (place, to) = (bed.client.place(), Family::V4.vip(1));
    let held = hold(&place, to, 3, &[]);
    assert_eq!(held.report.of("r0"), 3);
    let cases = [
        ([draining, None, None], "r1"),
        ([draining, draining, None], "r2"),
        ([None, draining, None], "r0"),
        ([gone, draining, None], "r2"),
        ([gone, None, None], "r1"),
        ([None, None, None], "r0"),
    ];
    for (case, expected) in cases {
        bed.apply(&states(case));
        let report = connect(&place, to, &["--count", "10"]);
        assert_eq!((report.ok, names(&report)), (10, vec![expected]), "{case:?}");
    }
    bed.apply(&states([draining, draining, gone]));
    connect(&place, to, &["--count", "3"]).assert_all_failed(3, REFUSED);
    assert_eq!(bed.refused(to), 3);
    assert_eq!(bed.backend(at(0)).active_connections, 3, "its streams run on");
    held.release();
    bed.assert_no_internal_error();
}

#[test]
fn the_place_of_a_replica_may_come_from_its_workload() {
    let mut bed = Bed::new();
    let far = bed.b.pod("far").unwrap();
    let _servers = [(&bed.server, "near"), (&far, "far")].map(|(pod, name)| Replica::start(pod, name, 8000));
    let replica = |name: &str, pod: &nodemesh_e2e::topology::Pod, zone: &str| {
        let locality = json!({"region": "eu", "zone": zone});
        let mut workload = workload(
            "models",
            name,
            &json!({"addresses": [pod.v4()], "locality": locality}),
        );
        workload["metadata"]["labels"] = json!({"app": "echo"});
        workload
    };
    let mut service: Value = Service::new("echo", Family::V4.vip(1)).into();
    service["spec"].as_object_mut().unwrap().remove("backends");
    service["spec"]["selector"] = json!({"app": "echo"});
    let to = Family::V4.vip(1);
    let with = |zones: [&str; 2]| {
        Manifest::of([
            service.clone(),
            replica("near", &bed.server, zones[0]),
            replica("far", &far, zones[1]),
        ])
        .and(tiers(&["zone"]))
    };
    let cases = [
        (["west", "east"], vec!["near"]),
        (["east", "west"], vec!["far"]),
        (["west", "west"], vec!["far", "near"]),
        (["east", "north"], vec!["far", "near"]),
    ];
    let manifests = cases.clone().map(|(zones, _)| with(zones));
    bed.start(&manifests[0], &HERE);
    for (manifest, (zones, expected)) in manifests.iter().zip(cases) {
        bed.apply(manifest);
        let report = connect(&bed.client.place(), to, &["--count", "40"]);
        assert_eq!((report.ok, names(&report)), (40, expected), "{zones:?}");
    }
}

#[test]
fn a_loaded_tier_spills_into_the_next() {
    for algorithm in ["least-request", "random", "maglev", "round-robin"] {
        let mut bed = Bed::new();
        let replicas = bed.replicas(3);
        let policy = Policy::of("echo")
            .algorithm(algorithm)
            .set("locality", json!({"tiers": ["node", "zone"], "spillRequests": 2}));
        bed.start(&Manifest::of([placed(Family::V4, &replicas)]).and(policy), &HERE);
        let (place, to) = (bed.client.place(), Family::V4.vip(1));
        let few = hold(&place, to, 3, &[]);
        let expected = Counts::from([("r0".into(), 2), ("r1".into(), 1)]);
        assert_eq!(few.report.replicas, expected, "{algorithm}");
        // The last tier takes whatever comes.
        let more = hold(&place, to, 9, &[]);
        let expected = Counts::from([("r1".into(), 1), ("r2".into(), 8)]);
        assert_eq!(
            (more.report.ok, more.report.replicas.clone()),
            (9, expected),
            "{algorithm}"
        );
        few.release();
        bed_is_near(&bed, &place, to);
        more.release();
    }
}

/// Waits until a connection goes to the nearest replica again.
fn bed_is_near(bed: &Bed, place: &nodemesh_e2e::process::Place, to: SocketAddr) {
    eventually(
        "the first tier has room",
        || connect(place, to, &[]),
        |report| report.of("r0") == 1,
    );
    bed.assert_no_internal_error();
}

#[test]
fn caps_of_a_tier_spill_and_the_last_one_refuses() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(3);
    let policy = tiers(&["node", "zone"]).set("limits", json!({"perBackend": {"connections": 2}}));
    bed.start(&Manifest::of([placed(Family::V4, &replicas)]).and(policy), &HERE);
    let held = hold(&bed.client.place(), Family::V4.vip(1), 8, &[]);
    let each = Counts::from(["r0", "r1", "r2"].map(|name| (name.to_owned(), 2)));
    assert_eq!(
        (&held.report.replicas, &held.report.errors),
        (&each, &once("EAGAIN", 2))
    );
}

#[test]
fn the_share_of_a_new_replica_grows_from_a_tenth_to_the_whole() {
    for algorithm in ["random", "round-robin"] {
        let mut bed = Bed::new();
        let replicas = bed.replicas(2);
        let (place, to) = (bed.client.place(), Family::V4.vip(1));
        let with = |count: usize| {
            let backends = replicas[..count].iter().map(|replica| replica.at(Family::V4));
            let policy = Policy::of("echo").algorithm(algorithm);
            let policy = policy.set("slowStart", json!({"window": "3s"}));
            Manifest::of([Service::new("echo", to).to(backends)]).and(policy)
        };
        bed.start(&with(1), &[]);
        let flags = ["--count", "1000000", "--for", "3200ms", "--close", "rst"];
        let alone = connect(&place, to, &flags);
        alone.assert_all_ok(alone.of("r0"));
        bed.apply(&with(2));
        let share = || {
            let report = connect(&place, to, &["--count", "400", "--close", "rst"]);
            report.assert_all_ok(400);
            report.of("r1") as f64 / 400.0
        };
        let first = share();
        assert!((0.01..0.2).contains(&first), "{algorithm}: {first}");
        eventually("the whole share", share, |share| (0.45..0.55).contains(share));
        bed.assert_no_internal_error();
    }
}

/// A model server with this time to its first token.
fn model(bed: &Bed, port: u16, prefill: &str) -> (SocketAddr, Process) {
    let address = SocketAddr::new(bed.server.v4(), port);
    let listen = address.to_string();
    let flags = [
        "--listen",
        &listen,
        "--prefill",
        prefill,
        "--tokens",
        "4",
        "--inter-token",
        "1ms",
    ];
    (address, bed.server.serve("model-server", &flags).unwrap())
}

fn requests(bed: &Bed, flags: &[&str]) -> Process {
    let url = format!("http://{}", Family::V4.vip(1));
    let arguments = [&["--url", &url, "--mode", "one-shot"], flags].concat();
    bed.client.spawn("load-client", &arguments).unwrap()
}

fn all_ok(client: Process, count: u64) {
    let (report, _) = client.report::<Value>().unwrap();
    assert_eq!(report["requests"]["ok"], count, "{report:#}");
}

#[test]
fn a_cold_replica_gets_one_connection_until_its_first_token() {
    let mut bed = Bed::new();
    let (warm, _server) = model(&bed, 9000, "1ms");
    let (cold, _slow) = model(&bed, 9001, "3s");
    let with = |backends: &[SocketAddr]| {
        let policy = Policy::of("echo").algorithm("round-robin");
        Manifest::of([Service::new("echo", Family::V4.vip(1)).to(backends.to_vec())])
            .and(policy.set("slowStart", json!({"untilFirstToken": true})))
    };
    bed.start(&with(&[warm]), &[]);
    all_ok(requests(&bed, &["--requests", "4"]), 4);
    bed.apply(&with(&[warm, cold]));
    // While one request waits for the first token, all others go to the other replica.
    let client = requests(&bed, &["--requests", "400", "--concurrency", "8"]);
    let during = eventually(
        "many requests",
        || bed.backends(),
        |backends| backends[&warm.to_string()].connections_total >= 300,
    );
    let cold_row = &during[&cold.to_string()];
    assert_eq!((cold_row.active_connections, cold_row.connections_total), (1, 1));
    all_ok(client, 400);
    assert_eq!(bed.backend(cold).connections_total, 1);
    // Then it has its share.
    all_ok(requests(&bed, &["--requests", "8", "--concurrency", "8"]), 8);
    assert_eq!(bed.backend(cold).connections_total, 5);
    bed.assert_no_internal_error();
}
