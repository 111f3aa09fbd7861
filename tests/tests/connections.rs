// SPDX-License-Identifier: Apache-2.0
//! `nodemesh connections`: exactly the open connections, each with the truth about it.

use std::{collections::BTreeSet, net::SocketAddr};

use nodemesh_agent::api::Connection;
use nodemesh_e2e::{
    bed::{Bed, Family, Held, connect, hold},
    eventually::eventually,
    manifest::{Manifest, Service, client_workload},
    proc_net::established,
    process::Place,
};

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "echo4",
        Family::V6 => "echo6",
    }
}

#[test]
fn connections_lists_the_open_ones_of_every_network_namespace() {
    let mut bed = Bed::new();
    let replica = [Replica::start(&bed.server, "r0", 9000)];
    let neighbour = bed.a.pod("neighbour").unwrap();
    let manifest = echo(&replica, &[]).and(client_workload("trainer", "client", None));
    bed.start(&manifest, &[]);
    // A process of the node itself, as with host networking.
    let on_node = Place {
        netns: bed.a.netns().path(),
        cgroup: neighbour.cgroup().into(),
    };
    let mapped: SocketAddr = "[::ffff:10.96.0.1]:8000".parse().unwrap();
    let [v4, v6] = Family::BOTH.map(|family| family.vip(1));
    let held = [
        (
            hold(&bed.client.place(), v4, 7, &["--concurrency", "3"]),
            7,
            v4,
            Some("models/trainer"),
        ),
        (
            hold(&bed.client.place(), v6, 5, &[]),
            5,
            v6,
            Some("models/trainer"),
        ),
        (
            hold(&bed.client.place(), mapped, 2, &[]),
            2,
            v4,
            Some("models/trainer"),
        ),
        (hold(&neighbour.place(), v4, 3, &[]), 3, v4, None),
        (hold(&on_node, v6, 4, &[]), 4, v6, None),
    ];
    // None of these is open any more.
    connect(&bed.client.place(), v4, &["--count", "20"]).assert_all_ok(20);
    let listed = eventually(
        "21 connections",
        || bed.agent.connections().unwrap(),
        |all| all.len() == 21,
    );

    for (held, count, service, workload) in &held {
        let own: Vec<&Connection> = listed.iter().filter(|one| one.client_pid == held.pid()).collect();
        assert_eq!(own.len(), *count, "{listed:#?}");
        for connection in own {
            let family = if service.is_ipv4() { Family::V4 } else { Family::V6 };
            assert_eq!(connection.service, format!("models/{}", name(family)));
            assert_eq!(connection.service_address, service.to_string());
            assert_eq!(connection.backend, replica[0].at(family).to_string());
            assert_eq!(
                (&*connection.protocol, &*connection.state),
                ("TCP", "established")
            );
            assert_eq!(connection.client_workload.as_deref(), *workload, "{connection:?}");
        }
    }
    let clients = |pids: &[u32]| -> BTreeSet<SocketAddr> {
        let own = listed.iter().filter(|one| pids.contains(&one.client_pid));
        own.map(|one| one.client.as_ref().unwrap().parse().unwrap()).collect()
    };
    let pids: Vec<u32> = held[..3].iter().map(|(held, ..)| held.pid()).collect();
    assert_eq!(clients(&pids), established(bed.client.netns()).unwrap());
    assert_eq!(clients(&[held[3].0.pid()]), established(neighbour.netns()).unwrap());

    drop(held);
    bed.at_rest();
}

