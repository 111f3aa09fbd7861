// SPDX-License-Identifier: Apache-2.0
//! UDP services: datagrams are placed with and without `connect()`, and answers come from the address that was asked.

use std::{collections::BTreeMap, net::SocketAddr};

use nodemesh_e2e::{
    bed::{Bed, Family, Replica, UdpReport, connect, once, probe, report_of, udp},
    eventually::eventually,
    manifest::{Manifest, Policy, Service},
};

fn name(number: u8) -> String {
    format!("echo{number}")
}

/// UDP service `number` of `family`, under `random`.
fn service<'r>(
    manifest: Manifest,
    number: u8,
    family: Family,
    replicas: impl IntoIterator<Item = &'r Replica>,
) -> Manifest {
    let backends = replicas.into_iter().map(|replica| replica.at(family));
    manifest
        .and(Service::new(&name(number), family.vip(number)).udp().to(backends))
        .and(Policy::of(&name(number)).algorithm("random"))
}

#[track_caller]
fn assert_all_answered(report: &UdpReport, count: u64) {
    assert!(report.ok == count && report.errors.is_empty(), "{report:?}");
    assert_eq!(report.foreign_sources, 0, "{report:?}");
}

#[test]
fn answers_come_from_the_service_and_a_socket_keeps_its_replica() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(4);
    let [v4, v6] = Family::BOTH;
    bed.start(
        &service(service(Manifest::default(), 1, v4, &replicas), 2, v6, &replicas),
        &[],
    );
    for to in [v4.vip(1), v6.vip(2)] {
        for mode in [&[][..], &["--connected"]] {
            let one = udp(&bed.client.place(), to, &[&["--count", "100"], mode].concat());
            assert_all_answered(&one, 100);
            assert_eq!(one.replicas.len(), 1, "{one:?}");
            assert_eq!(one.sources, once(&to, 100), "{one:?}");

            let flags = [&["--count", "120", "--sockets", "60"], mode].concat();
            let many = udp(&bed.client.place(), to, &flags);
            assert_all_answered(&many, 120);
            assert_eq!(many.replicas.len(), 4, "{many:?}");
            assert_eq!(many.sources, once(&to, 120), "{many:?}");
            if !mode.is_empty() {
                assert_eq!(many.peers, once(&to, 60), "{many:?}");
            }
        }
    }
    // Per family 61 flows, whose end nobody can see, and as many connected sockets, all closed.
    let counted = eventually("closed sockets", || bed.counted(), |counted| counted.active == 0);
    assert_eq!(
        (counted.opened, counted.closed, counted.failed),
        (244, 122, 0),
        "{counted:?}"
    );
    bed.assert_no_internal_error();
}

#[test]
fn an_ipv6_socket_reaches_an_ipv4_service_by_its_mapped_address() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(2);
    bed.start(&service(Manifest::default(), 1, Family::V4, &replicas), &[]);
    let mapped: SocketAddr = "[::ffff:10.96.0.1]:8000".parse().unwrap();
    for mode in [&[][..], &["--connected"]] {
        let report = udp(&bed.client.place(), mapped, &[&["--count", "20"], mode].concat());
        assert_all_answered(&report, 20);
        assert_eq!(report.replicas.len(), 1, "{report:?}");
        assert_eq!(report.sources, once(&mapped, 20), "{report:?}");
    }
}

#[test]
fn one_socket_talks_to_two_services_at_once() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(4);
    bed.start(&Manifest::default(), &[]);
    for family in Family::BOTH {
        let first = service(Manifest::default(), 1, family, &replicas[..2]);
        bed.apply(&service(first, 2, family, &replicas[2..]));
        // Also one that is no service.
        let targets = [family.vip(1), family.vip(2), replicas[0].at(family)];
        let list = targets.map(|target| target.to_string()).join(",");
        let arguments = ["udp", "--targets", &list, "--count", "90"];
        let report: UdpReport = report_of(probe(&bed.client.place(), &arguments));
        assert!(report.ok == 90 && report.errors.is_empty(), "{report:?}");
        let chosen: BTreeMap<SocketAddr, &str> = report
            .targets
            .iter()
            .map(|(target, part)| {
                assert_eq!((part.ok, part.replicas.len()), (30, 1), "{target} {report:?}");
                (*target, part.replicas.keys().next().unwrap().as_str())
            })
            .collect();
        assert!(["r0", "r1"].contains(&chosen[&targets[0]]), "{report:?}");
        assert!(["r2", "r3"].contains(&chosen[&targets[1]]), "{report:?}");
        assert_eq!(chosen[&targets[2]], "r0", "{report:?}");
        assert_eq!(
            report.targets[&targets[1]].sources,
            once(&targets[1], 30),
            "{report:?}"
        );
        if chosen[&targets[0]] == "r1" {
            assert_eq!(report.foreign_sources, 0, "{report:?}");
        }
    }
}

#[test]
fn one_socket_tells_two_services_with_one_replica_apart() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(1);
    bed.start(&Manifest::default(), &[]);
    for family in Family::BOTH {
        let first = service(Manifest::default(), 1, family, &replicas);
        bed.apply(&service(first, 2, family, &replicas));
        let list = format!("{},{}", family.vip(1), family.vip(2));
        let arguments = ["udp", "--targets", &list, "--count", "40"];
        let report: UdpReport = report_of(probe(&bed.client.place(), &arguments));
        assert_all_answered(&report, 40);
    }
}

#[test]
fn a_service_without_backends_refuses_datagrams_at_once() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(1);
    bed.start(&Manifest::default(), &[]);
    for family in Family::BOTH {
        let draining = Service::new("echo2", family.vip(2))
            .udp()
            .in_state(replicas[0].at(family), "draining");
        bed.apply(&service(Manifest::default(), 1, family, []).and(draining));
        for number in [1, 2] {
            let to = family.vip(number);
            let sent = udp(&bed.client.place(), to, &["--count", "10"]);
            assert_eq!(sent.errors, once("ECONNREFUSED", 10), "{sent:?}");
            assert_eq!(sent.failed_calls, once("send", 10), "{sent:?}");
            let connected = udp(&bed.client.place(), to, &["--connected"]);
            assert_eq!(connected.errors, once("ECONNREFUSED", 1), "{connected:?}");
            assert_eq!(connected.failed_calls, once("connect", 1), "{connected:?}");
            assert_eq!(bed.refused(to), 11, "{family:?}");
        }
        // What is no service is left alone, while there are UDP services.
        for mode in [&[][..], &["--connected"]] {
            let to = replicas[0].at(family);
            let report = udp(&bed.client.place(), to, &[&["--count", "10"], mode].concat());
            assert_all_answered(&report, 10);
            assert_eq!(report.sources, once(&to, 10), "{report:?}");
        }
    }
}

#[test]
fn tcp_and_udp_of_one_address_are_different_services() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(2);
    bed.start(&Manifest::default(), &[]);
    for family in Family::BOTH {
        let tcp = Service::new("tcp", family.vip(1)).to([replicas[0].at(family)]);
        bed.apply(&service(Manifest::default(), 1, family, &replicas[1..]).and(tcp));
        let report = connect(&bed.client.place(), family.vip(1), &["--count", "5"]);
        assert_eq!(report.only_replica(5), "r0");
        let report = udp(&bed.client.place(), family.vip(1), &["--count", "5"]);
        assert_all_answered(&report, 5);
        assert_eq!(report.replicas, once("r1", 5), "{report:?}");
    }
}

#[test]
fn a_flow_moves_when_its_replica_goes() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(2);
    bed.start(&Manifest::default(), &[]);
    for family in Family::BOTH {
        bed.apply(&service(Manifest::default(), 1, family, &replicas[..1]));
        let address = family.vip(1).to_string();
        let arguments = ["udp", &address, "--interval", "5", "--count", "400"];
        let flow = probe(&bed.client.place(), &arguments);
        let flows = || bed.backend(replicas[0].at(family)).connections_total;
        eventually("the flow", flows, |flows| *flows == 1);
        bed.apply(&service(Manifest::default(), 1, family, &replicas[1..]));
        let report: UdpReport = report_of(flow);
        assert_all_answered(&report, 400);
        assert_eq!(report.replicas.len(), 2, "{report:?}");
        assert_eq!(bed.backend(replicas[1].at(family)).connections_total, 1);
    }
}
