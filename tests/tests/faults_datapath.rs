// SPDX-License-Identifier: Apache-2.0
//! Faults under load: backends that refuse, vanish or stay silent, clients and agents that are killed. Whatever happens,
//! clients get the error that the network gave, and every connection is counted once.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use nodemesh_agent::api::Backend;
use nodemesh_e2e::{
    bed::{Bed, Family, Replica, Report, connect, probe, report_of},
    eventually::eventually,
    manifest::{Manifest, Policy, Service},
    netns::NetNs,
    process::{Place, Process},
};

/// One service per family over `backends`, under `algorithm`.
fn services(algorithm: &str, backends: &[SocketAddr]) -> Manifest {
    Family::BOTH
        .into_iter()
        .fold(Manifest::default(), |manifest, family| {
            let name = format!("echo-{family:?}").to_lowercase();
            let own = backends
                .iter()
                .copied()
                .filter(|backend| backend.is_ipv4() == (family == Family::V4));
            manifest
                .and(Service::new(&name, family.vip(1)).to(own))
                .and(Policy::of(&name).algorithm(algorithm))
        })
}

/// A backend of each family that is nowhere.
fn nowhere() -> [SocketAddr; 2] {
    Family::BOTH.map(|family| SocketAddr::new(family.nobody(), 9000))
}

/// Adds a route of `kind` (unreachable, blackhole) for each address.
fn route(netns: &NetNs, kind: &str, addresses: [IpAddr; 2]) {
    netns
        .configure(&addresses.map(|address| format!("route add {kind} {address}")))
        .expect("add routes");
}

/// Panics unless all of `count` connections failed, for the same reason.
#[track_caller]
fn assert_failed(backend: &Backend, reason: &str, count: u64) {
    let failed: u64 = backend.connections_failed.values().sum();
    assert_eq!(
        (backend.connections_failed[reason], failed),
        (count, count),
        "{backend:?}"
    );
    assert_eq!(
        (backend.active_connections, backend.connections_total),
        (0, count),
        "{backend:?}"
    );
    assert_eq!(backend.connections_closed, 0, "{backend:?}");
}

#[test]
fn a_backend_without_a_listener_refuses() {
    let mut bed = Bed::new();
    let backends = Family::BOTH.map(|family| SocketAddr::new(family.of(&bed.server), 9999));
    bed.start(&services("random", &backends), &[]);
    for (family, backend) in Family::BOTH.into_iter().zip(backends) {
        for mode in [&[][..], &["--nonblocking"]] {
            let flags = [&["--count", "20"], mode].concat();
            connect(&bed.client.place(), family.vip(1), &flags).assert_all_failed(20, "ECONNREFUSED");
        }
        assert_failed(&bed.backend(backend), "refused", 40);
    }
    bed.at_rest();
}

#[test]
fn a_backend_that_a_router_cannot_reach_is_unreachable() {
    let mut bed = Bed::new();
    let backends = nowhere();
    route(bed.b.netns(), "unreachable", backends.map(|backend| backend.ip()));
    bed.start(&services("random", &backends), &[]);
    for (family, backend) in Family::BOTH.into_iter().zip(backends) {
        // Only one: a router limits how often it says so.
        let report = connect(&bed.client.place(), family.vip(1), &[]);
        let error = report.errors.keys().next().cloned().unwrap_or_default();
        assert!(["EHOSTUNREACH", "ENETUNREACH"].contains(&&*error), "{report:?}");
        assert_failed(&bed.backend(backend), "unreachable", 1);
    }
    bed.at_rest();
}

#[test]
fn a_connection_that_fails_before_its_first_packet_has_aborted() {
    let mut bed = Bed::new();
    let backends = nowhere();
    route(
        bed.client.netns(),
        "unreachable",
        backends.map(|backend| backend.ip()),
    );
    bed.start(&services("random", &backends), &[]);
    for (family, backend) in Family::BOTH.into_iter().zip(backends) {
        let report = connect(&bed.client.place(), family.vip(1), &["--count", "10"]);
        report.assert_all_failed(10, "EHOSTUNREACH");
        // The socket never left its initial state, and is ended by the client's close.
        assert_failed(&bed.backend(backend), "aborted", 10);
    }
    bed.at_rest();
}

#[test]
fn a_client_that_gives_up_or_dies_has_aborted() {
    let mut bed = Bed::new();
    let backends = nowhere();
    route(bed.b.netns(), "blackhole", backends.map(|backend| backend.ip()));
    bed.start(&services("random", &backends), &[]);
    for (family, backend) in Family::BOTH.into_iter().zip(backends) {
        let report = connect(
            &bed.client.place(),
            family.vip(1),
            &["--count", "4", "--concurrency", "4", "--timeout", "200"],
        );
        report.assert_all_failed(4, "TIMEOUT");
        assert_failed(&bed.backend(backend), "aborted", 4);

        let address = family.vip(1).to_string();
        let arguments = [
            "connect",
            &address,
            "--count",
            "8",
            "--concurrency",
            "8",
            "--timeout",
            "60s",
        ];
        let patient = probe(&bed.client.place(), &arguments);
        let listed = eventually(
            "8 attempts",
            || bed.agent.connections().unwrap(),
            |all| all.len() == 8,
        );
        for connection in &listed {
            assert_eq!(
                (&*connection.state, &connection.client),
                ("connecting", &None),
                "{listed:?}"
            );
            assert_eq!(connection.client_pid, patient.pid(), "{listed:?}");
        }
        assert_eq!(bed.backend(backend).active_connections, 8);
        drop(patient);
        eventually(
            "no attempt",
            || bed.backend(backend).active_connections,
            |active| *active == 0,
        );
        assert_failed(&bed.backend(backend), "aborted", 12);
    }
    bed.at_rest();
}

#[test]
fn a_silent_backend_times_out() {
    let mut bed = Bed::new();
    let backends = nowhere();
    route(bed.b.netns(), "blackhole", backends.map(|backend| backend.ip()));
    // One retransmission: the kernel gives up after some three seconds.
    bed.client
        .netns()
        .run(|| fs::write("/proc/sys/net/ipv4/tcp_syn_retries", "1"))
        .unwrap()
        .unwrap();
    bed.start(&services("random", &backends), &[]);
    let flags = ["--count", "5", "--concurrency", "5", "--timeout", "60s"];
    let probes: Vec<Process> = Family::BOTH
        .into_iter()
        .map(|family| {
            let address = family.vip(1).to_string();
            probe(
                &bed.client.place(),
                &[&["connect", &address], &flags[..]].concat(),
            )
        })
        .collect();
    for (probe, backend) in probes.into_iter().zip(backends) {
        report_of::<Report>(probe).assert_all_failed(5, "ETIMEDOUT");
        assert_failed(&bed.backend(backend), "timeout", 5);
    }
    bed.at_rest();
}

/// Runs `work` on this thread while another one connects to both families again and again; gives the reports of the probes.
fn under_load(place: &Place, flags: &[&str], work: impl FnOnce()) -> Vec<Report> {
    let addresses = Family::BOTH.map(|family| family.vip(1).to_string());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut reports = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let probes = addresses
                    .each_ref()
                    .map(|address| probe(place, &[&["connect", address], flags].concat()));
                reports.extend(probes.map(report_of::<Report>));
            }
            reports
        });
        // Even if the work panics, the thread must end.
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        let reports = load.join().expect("the load does not panic");
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        reports
    })
}

#[test]
fn a_storm_of_connections_and_kills_is_counted_exactly() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(3);
    let dead = Family::BOTH.map(|family| SocketAddr::new(family.of(&bed.server), 9999));
    let alive = replicas
        .iter()
        .flat_map(|replica| Family::BOTH.map(|family| replica.at(family)));
    let backends: Vec<SocketAddr> = alive.chain(dead).collect();
    bed.start(&services("least-request", &backends), &[]);
    let mut replicas = replicas;
    let reports = under_load(
        &bed.client.place(),
        &["--count", "100", "--concurrency", "4"],
        || {
            for round in 0..10 {
                // Clients that are killed at any moment of their connections' lives.
                let victims: Vec<Process> = Family::BOTH
                    .into_iter()
                    .map(|family| {
                        let address = family.vip(1).to_string();
                        let flags = ["--hold", "--count", "100", "--concurrency", "2", "--close", "rst"];
                        probe(
                            &bed.client.place(),
                            &[&["connect", &address], &flags[..]].concat(),
                        )
                    })
                    .collect();
                eventually(
                    "connections of the victims",
                    || bed.counted().active,
                    |active| *active > 20,
                );
                // A replica dies and comes back.
                drop(replicas.remove(0));
                drop(victims);
                let number = round % 3;
                replicas.push(Replica::start(&bed.server, &format!("r{number}"), 9000 + number));
            }
        },
    );
    let [mut ok, mut failed] = [0, 0];
    for report in &reports {
        let expected = ["ECONNREFUSED", "ECONNRESET", "EOF"];
        assert!(
            report
                .errors
                .keys()
                .all(|error| expected.contains(&error.as_str())),
            "{report:?}"
        );
        ok += report.ok;
        failed += report.errors.values().sum::<u64>();
    }
    let counted = bed.at_rest();
    assert!(counted.opened >= ok + failed, "{counted:?} {ok} {failed}");
    assert!(
        counted.closed >= ok && counted.opened > 2000,
        "{counted:?} {ok} {failed}"
    );
    bed.assert_no_internal_error();
}

#[test]
fn an_agent_that_is_killed_again_and_again_costs_no_connection() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(2);
    let backends: Vec<SocketAddr> = replicas
        .iter()
        .flat_map(|replica| Family::BOTH.map(|family| replica.at(family)))
        .collect();
    bed.start(&services("round-robin", &backends), &[]);
    let place = bed.client.place();
    let reports = under_load(&place, &["--count", "200", "--concurrency", "2"], || {
        for _ in 0..5 {
            bed.agent.kill().unwrap();
            bed.agent.start(&[]).unwrap();
        }
    });
    let placed = 200 * reports.len() as u64;
    for report in &reports {
        report.assert_all_ok(200);
        assert_eq!(report.replicas.len(), 2, "{report:?}");
    }
    let counted = bed.at_rest();
    assert_eq!(
        (counted.opened, counted.closed, counted.failed),
        (placed, placed, 0),
        "{counted:?}"
    );
    bed.assert_no_internal_error();
}
