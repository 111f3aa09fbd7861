// SPDX-License-Identifier: Apache-2.0
//! `connect()`: a service's address leads to a replica, wherever that is and however the socket was made; every other
//! address is left alone.

use std::net::SocketAddr;

use nodemesh_e2e::{
    bed::{Bed, Family, Replica, connect, once},
    manifest::{Manifest, Policy, Service},
};
use serde_json::json;

/// The service `echo` at both first addresses, with a backend of each family per replica.
fn echo(replicas: &[Replica]) -> Manifest {
    Manifest::of(Family::BOTH.map(|family| {
        let backends = replicas.iter().map(|replica| replica.at(family));
        Service::new(name(family), family.vip(1)).to(backends)
    }))
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "echo4",
        Family::V6 => "echo6",
    }
}

#[test]
fn a_connection_is_placed_on_a_replica_wherever_it_is() {
    let mut bed = Bed::new();
    let neighbour = bed.a.pod("neighbour").unwrap();
    let places = [
        ("another node", &bed.server),
        ("the same node", &neighbour),
        ("the same pod", &bed.client),
    ];
    let replicas = places.map(|(place, pod)| Replica::start(pod, place, 9000));
    bed.start(&Manifest::default(), &[]);
    for replica in &replicas {
        bed.apply(&echo(std::slice::from_ref(replica)));
        for family in Family::BOTH {
            let report = connect(&bed.client.place(), family.vip(1), &["--count", "10"]);
            assert_eq!(report.only_replica(10), replica.name(), "{family:?} {report:?}");
            assert_eq!(report.peers, once(&family.vip(1), 10), "{family:?} {report:?}");
        }
    }
}

#[test]
fn every_way_to_connect_is_placed() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(1);
    bed.start(&echo(&replicas), &[]);
    let [v4, v6] = Family::BOTH.map(|family| family.vip(1));
    let mapped: SocketAddr = "[::ffff:10.96.0.1]:8000".parse().unwrap();
    let bind4 = ["--bind", &bed.client.v4().to_string()];
    let bind6 = ["--bind", &bed.client.v6().to_string()];
    let cases: [(SocketAddr, &[&str], SocketAddr); 10] = [
        (v4, &[], v4),
        (v6, &[], v6),
        (v4, &["--family", "v6-mapped"], mapped),
        (v4, &["--nonblocking"], v4),
        (v6, &["--nonblocking"], v6),
        (v4, &["--family", "v6-mapped", "--nonblocking"], mapped),
        (v4, &bind4, v4),
        (v6, &bind6, v6),
        (v4, &["--close", "rst"], v4),
        (v4, &["--concurrency", "4"], v4),
    ];
    for (to, flags, peer) in cases {
        let report = connect(&bed.client.place(), to, &[&["--count", "20"], flags].concat());
        assert_eq!(report.only_replica(20), "r0", "{to} {flags:?} {report:?}");
        assert_eq!(report.peers, once(&peer, 20), "{to} {flags:?} {report:?}");
    }
    let counted = bed.at_rest();
    assert_eq!((counted.opened, counted.failed), (200, 0), "{counted:?}");
    bed.assert_no_internal_error();
}

#[test]
fn addresses_that_are_no_service_are_left_alone() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(2);
    // The service has a pod's own address, so that what is left alone arrives somewhere.
    let services = Family::BOTH.map(|family| {
        let address = SocketAddr::new(family.of(&bed.server), 8000);
        Service::new(name(family), address).to([replicas[0].at(family)])
    });
    bed.start(&Manifest::of(services), &[]);
    for family in Family::BOTH {
        let server = family.of(&bed.server);
        let (service, other) = (SocketAddr::new(server, 8000), replicas[1].at(family));
        let placed = connect(&bed.client.place(), service, &[]);
        assert_eq!(placed.only_replica(1), "r0", "{family:?} {placed:?}");

        let direct = connect(&bed.client.place(), other, &["--count", "5"]);
        assert_eq!(direct.only_replica(5), "r1", "{family:?} {direct:?}");
        assert_eq!(direct.peers, once(&other, 5), "{family:?} {direct:?}");

        let closed = SocketAddr::new(server, 8001);
        let refused = connect(&bed.client.place(), closed, &["--count", "5"]);
        refused.assert_all_failed(5, "ECONNREFUSED");
    }
    let counted = bed.at_rest();
    assert_eq!((counted.opened, counted.failed), (2, 0), "{counted:?}");
}

#[test]
fn a_backend_dialled_by_its_own_address_is_not_counted() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(1);
    bed.start(&echo(&replicas), &[]);
    for family in Family::BOTH {
        let backend = replicas[0].at(family);
        let report = connect(&bed.client.place(), backend, &["--count", "3"]);
        assert_eq!(report.only_replica(3), "r0", "{report:?}");
        assert_eq!(report.peers, once(&backend, 3), "{report:?}");
        assert_eq!(bed.backend(backend).connections_total, 0, "{family:?}");
    }
}

#[test]
fn a_service_without_available_backends_refuses_at_once() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(2);
    bed.start(&Manifest::default(), &[]);
    let cases: [(&str, &[&str]); 4] = [
        ("none", &[]),
        ("draining", &["draining", "draining"]),
        ("unhealthy", &["unhealthy", "unhealthy"]),
        ("mixed", &["draining", "unhealthy"]),
    ];
    let mut expected = 0;
    for (case, states) in cases {
        bed.apply(&Manifest::of(Family::BOTH.map(|family| {
            let service = Service::new(name(family), family.vip(1));
            states
                .iter()
                .zip(&replicas)
                .fold(service, |service, (state, replica)| {
                    service.in_state(replica.at(family), state)
                })
        })));
        expected += 20;
        for family in Family::BOTH {
            for flags in [&[][..], &["--nonblocking"]] {
                let flags = [&["--count", "10"], flags].concat();
                let report = connect(&bed.client.place(), family.vip(1), &flags);
                report.assert_all_failed(10, "ECONNREFUSED");
                assert!(report.seconds < 1.0, "{case} {report:?}");
            }
            assert_eq!(bed.refused(family.vip(1)), expected, "{case} {family:?}");
        }
    }
    assert_eq!(bed.at_rest().opened, 0);
    bed.assert_no_internal_error();
}

/// A policy that goes on with replicas that fail.
fn persistent(service: &str) -> Policy {
    Policy::of(service)
        .algorithm("round-robin")
        .set("outlierDetection", json!({"connectFailures": 0}))
}

#[test]
fn a_socket_whose_connect_failed_may_try_again() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(1);
    let dead = |family: Family| SocketAddr::new(family.of(&bed.server), 9999);
    let manifest = Family::BOTH
        .into_iter()
        .fold(Manifest::default(), |manifest, family| {
            let service =
                Service::new(name(family), family.vip(1)).to([dead(family), replicas[0].at(family)]);
            manifest.and(service).and(persistent(name(family)))
        });
    let dead = Family::BOTH.map(dead);
    bed.start(&manifest, &[]);
    for (family, dead) in Family::BOTH.into_iter().zip(dead) {
        let mut failed = 0;
        // Linux answers the call after a non-blocking failure with ECONNABORTED, without dialling.
        let modes: [(&[&str], &str); 2] = [
            (&[], "ECONNREFUSED,ok"),
            (&["--nonblocking"], "ECONNREFUSED,ECONNABORTED,ok"),
        ];
        for (mode, outcomes) in modes {
            let flags = [&["--count", "10", "--retry-on-same-socket", "2"], mode].concat();
            let report = connect(&bed.client.place(), family.vip(1), &flags);
            assert_eq!(report.only_replica(10), "r0", "{report:?}");
            // In turn: a socket that met the dead one meets the other one next; only the very first may miss it.
            let attempts = report.attempts.get(outcomes).copied().unwrap_or_default();
            assert!(attempts >= 9 && report.attempts.len() == 1, "{report:?}");
            failed += attempts;
        }
        let (failing, working) = (bed.backend(dead), bed.backend(replicas[0].at(family)));
        assert_eq!(failing.connections_failed["refused"], failed, "{failing:?}");
        assert_eq!(failing.connections_total, failed, "{failing:?}");
        assert_eq!(working.connections_total, 20, "{working:?}");
        assert_eq!(working.connections_closed, 20, "{working:?}");
    }
    bed.at_rest();
}
