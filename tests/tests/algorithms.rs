// SPDX-License-Identifier: Apache-2.0
//! How a replica is chosen: the share that each gets, and what a change of the replicas does to it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use nodemesh_e2e::{
    bed::{Bed, Counts, Family, Held, Replica, Report, connect, hold, probe, report_of, talk},
    eventually::eventually,
    manifest::{Manifest, Policy, Service},
};

/// Weights of `r0`, `r1`, `r2` in these tests.
const WEIGHTS: [u32; 3] = [1, 2, 5];
/// Connections of a distribution: 2 % of it are more than five standard deviations.
const MANY: u64 = 20_000;

/// The service `echo` of `family` with weighted replicas, under `algorithm`.
fn weighted(family: Family, algorithm: &str, replicas: &[Replica], weights: &[u32]) -> Manifest {
    let service = replicas.iter().zip(weights).fold(
        Service::new("echo", family.vip(1)),
        |service, (replica, weight)| service.weighted(replica.at(family), *weight),
    );
    Manifest::default()
        .and(service)
        .and(Policy::of("echo").algorithm(algorithm))
}

fn equal<'r>(family: Family, algorithm: &str, replicas: impl IntoIterator<Item = &'r Replica>) -> Manifest {
    let backends = replicas.into_iter().map(|replica| replica.at(family));
    Manifest::default()
        .and(Service::new("echo", family.vip(1)).to(backends))
        .and(Policy::of("echo").algorithm(algorithm))
}

fn connect_many(bed: &Bed, family: Family, count: u64, concurrency: &str) -> Report {
    let count_flag = count.to_string();
    // Without TIME_WAIT there are ports enough.
    let flags = [
        "--close",
        "rst",
        "--concurrency",
        concurrency,
        "--count",
        &count_flag,
    ];
    let report = connect(&bed.client.place(), family.vip(1), &flags);
    report.assert_all_ok(count);
    report
}

/// Panics unless the share of each replica is that of its weight, give or take `tolerance`.
fn assert_shares(report: &Report, weights: &[u32], tolerance: f64) {
    let total = f64::from(weights.iter().sum::<u32>());
    for (number, weight) in weights.iter().enumerate() {
        let share = report.of(&format!("r{number}")) as f64 / report.ok as f64;
        let expected = f64::from(*weight) / total;
        assert!(
            (share - expected).abs() <= tolerance,
            "r{number}: {share}, not {expected}: {report:?}"
        );
    }
}

#[test]
fn random_gives_each_replica_its_weight() {
    let family = Family::V4;
    let mut bed = Bed::new();
    let replicas = bed.replicas(3);
    bed.start(&weighted(family, "random", &replicas, &WEIGHTS), &[]);
    assert_shares(&connect_many(&bed, family, MANY, "4"), &WEIGHTS, 0.02);
    bed.at_rest();
}

#[test]
fn least_request_gives_idle_replicas_their_weight() {
    let family = Family::V6;
    let mut bed = Bed::new();
    let replicas = bed.replicas(3);
    bed.start(&weighted(family, "least-request", &replicas, &WEIGHTS), &[]);
    // One at a time: no replica is ever loaded when the next connection is placed.
    assert_shares(&connect_many(&bed, family, MANY, "1"), &WEIGHTS, 0.02);
    bed.at_rest();
}

#[test]
fn round_robin_gives_each_replica_its_weight_to_a_few_connections() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(3);
    bed.start(&Manifest::default(), &[]);
    for family in Family::BOTH {
        bed.apply(&weighted(family, "round-robin", &replicas, &WEIGHTS));
        // The turns of a replica are spread evenly: its count is right to a few connections after any number of them.
        for count in [8, 80, 800, 8000] {
            let report = connect_many(&bed, family, count, "4");
            assert_shares(&report, &WEIGHTS, 3.0 / count as f64);
        }
    }
}

#[test]
fn round_robin_takes_equal_replicas_in_turn() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(3);
    bed.start(&Manifest::default(), &[]);
    for family in Family::BOTH {
        bed.apply(&equal(family, "round-robin", &replicas));
        for count in [1, 2, 500, 1000] {
            let counted: Counts = connect_many(&bed, family, count, "4").replicas;
            let most = counted.values().max().copied().unwrap_or_default();
            let least = counted.values().min().copied().unwrap_or_default();
            assert!(
                most - least <= 1 && (count < 3 || counted.len() == 3),
                "{family:?} {counted:?}"
            );
        }
    }
}

#[test]
fn least_request_prefers_the_less_loaded_replica() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(2);
    bed.start(&Manifest::default(), &[]);
    for family in Family::BOTH {
        let place = bed.client.place();
        bed.apply(&equal(family, "least-request", &replicas[..1]));
        let first: Held = hold(&place, family.vip(1), 30, &[]);
        assert_eq!(first.report.only_replica(30), "r0");
        bed.apply(&equal(family, "least-request", &replicas));
        // Two draws of two find the new one three times in four; at equal load they are even.
        let second = hold(&place, family.vip(1), 90, &[]);
        second.report.assert_all_ok(90);
        let [old, new] = [&replicas[0], &replicas[1]].map(|replica| bed.backend(replica.at(family)));
        let gap = old.active_connections.abs_diff(new.active_connections);
        assert!(gap <= 12, "{family:?} {old:?} {new:?}");
        assert_eq!(old.active_connections + new.active_connections, 120);
        drop((first, second));
        bed.at_rest();
    }
}

#[test]
fn a_draining_replica_keeps_its_connections_and_gets_no_new_one() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(2);
    bed.start(&Manifest::default(), &[]);
    for family in Family::BOTH {
        for algorithm in ["random", "round-robin", "least-request", "maglev"] {
            bed.apply(&equal(family, algorithm, &replicas[..1]));
            let mut talk = talk(&bed.client.place(), family.vip(1));
            assert_eq!(talk.replica, "r0");
            for state in ["draining", "unhealthy"] {
                let service = Service::new("echo", family.vip(1))
                    .in_state(replicas[0].at(family), state)
                    .in_state(replicas[1].at(family), "active");
                let policy = Policy::of("echo").algorithm(algorithm);
                bed.apply(&Manifest::default().and(service).and(policy));
                let report = connect_many(&bed, family, 50, "1");
                assert_eq!(report.only_replica(50), "r1", "{algorithm} {state}");
                talk.goes_on();
            }
            let old = bed.backend(replicas[0].at(family));
            assert_eq!(old.active_connections, 1, "{old:?}");
        }
    }
}

#[test]
fn a_swap_of_all_replicas_is_atomic() {
    const SWAPS: usize = 20;
    let mut bed = Bed::new();
    let replicas = bed.replicas(4);
    let sets = [&replicas[..2], &replicas[2..]];
    for (family, algorithm) in Family::BOTH.into_iter().zip(["random", "maglev"]) {
        let manifests = sets.map(|set| equal(family, algorithm, set));
        if family == Family::V4 {
            bed.start(&manifests[1], &[]);
        } else {
            bed.apply(&manifests[1]);
        }
        let (place, address) = (bed.client.place(), family.vip(1).to_string());
        let arguments = [
            "connect",
            &address,
            "--close",
            "rst",
            "--concurrency",
            "4",
            "--count",
            "500",
        ];
        let done = AtomicBool::new(false);
        let hammered: Vec<Report> = thread::scope(|scope| {
            let hammer = scope.spawn(|| {
                let mut reports = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    reports.push(report_of(probe(&place, &arguments)));
                }
                reports
            });
            for swap in 0..SWAPS / 2 {
                bed.apply(&manifests[swap % 2]);
                let report = connect_many(&bed, family, 40, "1");
                let names = sets[swap % 2].iter().map(Replica::name);
                assert_eq!(
                    names.map(|name| report.of(name)).sum::<u64>(),
                    40,
                    "{swap} {report:?}"
                );
            }
            done.store(true, Ordering::Relaxed);
            hammer.join().expect("the hammer does not panic")
        });
        for report in &hammered {
            report.assert_all_ok(500);
        }
        let met = |report: &Report, set: &[Replica]| set.iter().any(|replica| report.of(replica.name()) > 0);
        let swapped = hammered
            .iter()
            .filter(|report| sets.iter().all(|set| met(report, set)));
        assert!(swapped.count() > 0, "no swap happened under load: {hammered:?}");
        bed.at_rest();
    }
    eventually(
        "the retired backends are gone",
        || bed.backends().len(),
        |count| *count == 2,
    );
}
