// SPDX-License-Identifier: Apache-2.0
//! The life of a connection: counted while it is open, and once when it ends, however it ends.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use nodemesh_e2e::{
    bed::{Bed, Counted, Family, Held, Replica, Talk, connect, hold, talk, udp},
    eventually::eventually,
    manifest::{Manifest, Policy, Service},
    proc_net::established,
    topology::Pod,
};
use socket2::SockRef;

/// One service per family, `echo4` and `echo6`, in turn over `replicas` and further `backends`.
fn echo(replicas: &[Replica], backends: &[SocketAddr]) -> Manifest {
    Family::BOTH
        .into_iter()
        .fold(Manifest::default(), |manifest, family| {
            let own = backends
                .iter()
                .copied()
                .filter(|backend| backend.is_ipv4() == (family == Family::V4));
            let all = replicas.iter().map(|replica| replica.at(family)).chain(own);
            manifest
                .and(Service::new(name(family), family.vip(1)).to(all))
                .and(Policy::of(name(family)).algorithm("round-robin"))
        })
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "echo4",
        Family::V6 => "echo6",
    }
}

#[test]
fn connections_are_counted_while_they_are_open() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(2);
    bed.start(&echo(&replicas, &[]), &[]);
    let place = bed.client.place();
    let mut held = Vec::new();
    for (round, family) in Family::BOTH.into_iter().enumerate() {
        held.push(hold(&place, family.vip(1), 500, &["--concurrency", "4"]));
        let expected = 500 * (round as u64 + 1);
        let counted = bed.counted();
        assert_eq!(
            (counted.active, counted.opened),
            (expected, expected),
            "{counted:?}"
        );
        for replica in &replicas {
            assert_eq!(bed.backend(replica.at(family)).active_connections, 250);
        }
        let services = bed.agent.services().unwrap();
        let service = services
            .iter()
            .find(|service| service.address == family.vip(1).to_string());
        assert_eq!(service.unwrap().active_connections, 500, "{services:?}");
    }
    // One process closes in order, the other one is killed.
    held.pop().unwrap().release();
    let counted = eventually("500 closed", || bed.counted(), |counted| counted.active == 500);
    assert_eq!((counted.closed, counted.failed), (500, 0), "{counted:?}");
    held.pop().unwrap().kill();
    let counted = bed.at_rest();
    assert_eq!((counted.opened, counted.closed), (1000, 1000), "{counted:?}");
    bed.assert_no_internal_error();
}

/// Listens in a pod, from within this process.
fn listen(pod: &Pod, family: Family, port: u16) -> TcpListener {
    let address = SocketAddr::new(family.of(pod), port);
    let listener = pod.netns().run(|| TcpListener::bind(address));
    listener.expect("enter the pod").expect("listen in the pod")
}

#[test]
fn a_connection_that_the_server_resets_is_closed() {
    const COUNT: usize = 50;
    let mut bed = Bed::new();
    let listeners = Family::BOTH.map(|family| listen(&bed.server, family, 9000));
    let backends = listeners
        .each_ref()
        .map(|listener| listener.local_addr().unwrap());
    bed.start(&echo(&[], &backends), &[]);
    for (family, listener) in Family::BOTH.into_iter().zip(listeners) {
        let address = family.vip(1).to_string();
        let count = COUNT.to_string();
        let arguments = ["connect", &address, "--hold", "--count", &count];
        let client = bed.client.spawn("socket-probe", &arguments).unwrap();
        let accepted: Vec<TcpStream> = (0..COUNT)
            .map(|_| {
                let (stream, _) = listener.accept().unwrap();
                (&stream).write_all(b"one\n").unwrap();
                stream
            })
            .collect();
        client.wait_for_line(|line| line.starts_with('{')).unwrap();
        let backend = || bed.backend(listener.local_addr().unwrap());
        assert_eq!(backend().active_connections, COUNT as u64);
        for stream in accepted {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        // The client has not closed a single one, and never will.
        let after = eventually("all reset", backend, |backend| backend.active_connections == 0);
        assert_eq!(after.connections_closed, COUNT as u64, "{after:?}");
        assert!(
            after.connections_failed.values().all(|count| *count == 0),
            "{after:?}"
        );
        drop(client);
        assert_eq!(backend().connections_closed, COUNT as u64);
    }
    bed.at_rest();
}

#[test]
fn a_connection_that_the_server_closes_lasts_until_the_client_closes_it() {
    let mut bed = Bed::new();
    let mut replicas = bed.replicas(2);
    bed.start(&echo(&replicas, &[]), &[]);
    let held = Family::BOTH.map(|family| hold(&bed.client.place(), family.vip(1), 20, &[]));
    let gone = replicas.remove(0);
    drop(gone);
    // The kernel has closed the server's ends in order: 10 of each family are half closed.
    eventually(
        "half closed",
        || established(bed.client.netns()).unwrap().len(),
        |count| *count == 20,
    );
    let counted = bed.counted();
    assert_eq!((counted.active, counted.closed), (40, 0), "{counted:?}");
    held.into_iter().for_each(Held::release);
    assert_eq!(bed.at_rest().closed, 40);
}

#[test]
fn a_connected_udp_socket_is_a_connection_until_it_is_closed() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(1);
    bed.start(&Manifest::default(), &[]);
    for family in Family::BOTH {
        bed.apply(&Manifest::of([Service::new("echo", family.vip(1))
            .udp()
            .to([replicas[0].at(family)])]));
        let address = family.vip(1).to_string();
        let arguments = [
            "udp",
            &address,
            "--connected",
            "--interval",
            "5",
            "--count",
            "200",
        ];
        let socket = bed.client.spawn("socket-probe", &arguments).unwrap();
        let listed = eventually(
            "a connection",
            || bed.agent.connections().unwrap(),
            |all| all.len() == 1,
        );
        assert_eq!(
            (&*listed[0].protocol, &*listed[0].state),
            ("UDP", "established"),
            "{listed:?}"
        );
        assert_eq!(listed[0].client_pid, socket.pid());
        drop(socket);
        eventually(
            "no connection",
            || bed.agent.connections().unwrap(),
            Vec::is_empty,
        );
        let backend = bed.backend(replicas[0].at(family));
        assert_eq!(
            (backend.active_connections, backend.connections_closed),
            (0, 1),
            "{backend:?}"
        );
        // An unconnected one is none: nobody sees its end.
        udp(&bed.client.place(), family.vip(1), &[]);
        let backend = bed.backend(replicas[0].at(family));
        assert_eq!(
            (backend.active_connections, backend.connections_total),
            (0, 2),
            "{backend:?}"
        );
    }
}

#[test]
fn connections_go_on_without_the_agent_and_stay_counted() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(2);
    bed.start(&echo(&replicas, &[]), &[]);
    let place = bed.client.place();
    let mut talks = Family::BOTH.map(|family| talk(&place, family.vip(1)));
    let (kept, ended) = (
        hold(&place, Family::V4.vip(1), 30, &[]),
        hold(&place, Family::V6.vip(1), 20, &[]),
    );
    bed.agent.kill().unwrap();

    talks.iter_mut().for_each(Talk::goes_on);
    let mut late = Vec::new();
    for family in Family::BOTH {
        connect(&place, family.vip(1), &["--count", "100"]).assert_all_ok(100);
        late.push(hold(&place, family.vip(1), 5, &[]));
        assert_eq!(late.last().unwrap().report.replicas.len(), 2);
    }
    ended.kill();

    bed.agent.start(&[]).unwrap();
    talks.iter_mut().for_each(Talk::goes_on);
    let expected = Counted {
        active: 2 + 30 + 10,
        opened: 2 + 50 + 210,
        closed: 20 + 200,
        failed: 0,
    };
    eventually("exact counters", || bed.counted(), |counted| *counted == expected);
    let listed = bed.agent.connections().unwrap();
    assert_eq!(listed.len(), 42, "{listed:#?}");
    let before = listed.iter().filter(|one| one.client_pid == kept.pid()).count();
    assert_eq!(before, 30, "{listed:#?}");
    drop((talks, kept, late));
    bed.at_rest();
    bed.assert_no_internal_error();
}
