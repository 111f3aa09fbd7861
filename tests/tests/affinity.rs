// SPDX-License-Identifier: Apache-2.0
//! Session affinity: a client stays with its replica while it keeps coming back, and no longer.

use std::time::{Duration, Instant};

use nodemesh_e2e::{
    bed::{Bed, Family, Replica, Report, connect, probe, report_of},
    eventually::{PATIENCE, wait_until},
    manifest::{Manifest, Policy, Service},
    process::Process,
};

/// Under `round-robin`, where without affinity no two connections in a row go to one replica.
fn sticky<'r>(replicas: impl IntoIterator<Item = &'r Replica>, family: Family, timeout: &str) -> Manifest {
    let backends = replicas.into_iter().map(|replica| replica.at(family));
    Manifest::default()
        .and(Service::new("echo", family.vip(1)).to(backends))
        .and(Policy::of("echo").algorithm("round-robin").affinity(timeout))
}

#[test]
fn a_client_stays_with_its_replica_and_another_has_its_own() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(4);
    bed.start(&Manifest::default(), &[]);
    let neighbour = bed.a.pod("neighbour").unwrap();
    let (_cgroup, container) = bed.nested(&neighbour, "container");
    let places = [bed.client.place(), neighbour.place(), container];
    for family in Family::BOTH {
        bed.apply(&sticky(&replicas, family, "10m"));
        let address = family.vip(1).to_string();
        let mut chosen: Vec<String> = Vec::new();
        for place in &places {
            // One connection decides; those after it may come from several threads at once.
            let first = connect(place, family.vip(1), &[]).only_replica(1).to_owned();
            chosen.push(first);
        }
        let arguments = ["connect", &address, "--count", "500", "--concurrency", "4"];
        let probes: Vec<Process> = places.iter().map(|place| probe(place, &arguments)).collect();
        for (probe, chosen) in probes.into_iter().zip(&chosen) {
            let report: Report = report_of(probe);
            assert_eq!(report.only_replica(500), chosen, "{family:?}");
        }
        chosen.sort();
        chosen.dedup();
        assert_eq!(
            chosen.len(),
            3,
            "round-robin gave the clients different replicas: {chosen:?}"
        );
    }
}

#[test]
fn affinity_ends_when_the_client_stays_away() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(2);
    bed.start(&Manifest::default(), &[]);
    for family in Family::BOTH {
        bed.apply(&sticky(&replicas, family, "1s"));
        let place = bed.client.place();
        let visit = || connect(&place, family.vip(1), &[]).only_replica(1).to_owned();
        let first = visit();
        // Each visit extends it: the client is busy for longer than the timeout and stays.
        let (began, mut last) = (Instant::now(), Instant::now());
        while began.elapsed() < Duration::from_millis(1500) {
            let replica = visit();
            // A machine so busy that a visit takes a second proves nothing.
            assert!(
                replica == first || last.elapsed() > Duration::from_millis(900),
                "{family:?}"
            );
            if replica != first {
                break;
            }
            last = Instant::now();
        }
        let left = visit();
        let away = Instant::now();
        wait_until(PATIENCE, || away.elapsed() > Duration::from_millis(1050)).unwrap();
        assert_ne!(visit(), left, "{family:?}: two replicas in turn");
    }
}

#[test]
fn a_client_whose_replica_is_gone_is_placed_anew_and_stays_there() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(3);
    bed.start(&Manifest::default(), &[]);
    for family in Family::BOTH {
        bed.apply(&sticky(&replicas, family, "10m"));
        let place = bed.client.place();
        let visit = || {
            connect(&place, family.vip(1), &["--count", "50"])
                .only_replica(50)
                .to_owned()
        };
        let first = visit();

        let others: Vec<&Replica> = replicas
            .iter()
            .filter(|replica| replica.name() != first)
            .collect();
        bed.apply(&sticky(others.iter().copied(), family, "10m"));
        let second = visit();
        assert_ne!(second, first, "{family:?}");

        // It comes back, but the client has another one now.
        bed.apply(&sticky(&replicas, family, "10m"));
        assert_eq!(visit(), second, "{family:?}");

        let draining = replicas
            .iter()
            .fold(Service::new("echo", family.vip(1)), |service, replica| {
                let state = if replica.name() == second {
                    "draining"
                } else {
                    "active"
                };
                service.in_state(replica.at(family), state)
            });
        let policy = Policy::of("echo").algorithm("round-robin").affinity("10m");
        bed.apply(&Manifest::default().and(draining).and(policy));
        assert_ne!(visit(), second, "{family:?}");
    }
}
