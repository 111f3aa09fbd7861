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

/// Connections of one process, and what is to be listed about them.
struct Expected {
    held: Held,
    count: usize,
    family: Family,
    workload: Option<&'static str>,
}

impl Expected {
    fn open(place: &Place, to: SocketAddr, count: usize, workload: Option<&'static str>) -> Self {
        let held = hold(place, to, count as u64, &["--concurrency", "2"]);
        let family = if to.ip().to_canonical().is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        Self {
            held,
            count,
            family,
            workload,
        }
    }

    /// Panics unless `listed` has each of them, with `backend`.
    fn assert_listed(&self, listed: &[Connection], backend: SocketAddr) {
        let pid = self.held.pid();
        let own: Vec<&Connection> = listed.iter().filter(|one| one.client_pid == pid).collect();
        assert_eq!(own.len(), self.count, "{listed:#?}");
        let ends: BTreeSet<&Option<String>> = own.iter().map(|one| &one.client).collect();
        assert_eq!(ends.len(), self.count, "a client's end is listed twice: {own:#?}");
        for one in own {
            assert_eq!(
                one.service,
                format!("models/echo-{:?}", self.family).to_lowercase()
            );
            assert_eq!(one.service_address, self.family.vip(1).to_string());
            assert_eq!(one.backend, backend.to_string());
            assert_eq!((&*one.protocol, &*one.state), ("TCP", "established"), "{one:?}");
            assert_eq!(one.client_workload.as_deref(), self.workload, "{one:?}");
            assert!((0.0..60.0).contains(&one.age_seconds), "{one:?}");
        }
    }
}

/// Where the listed connections of these processes come from.
fn clients(listed: &[Connection], of: &[Expected]) -> BTreeSet<SocketAddr> {
    let pids: Vec<u32> = of.iter().map(|expected| expected.held.pid()).collect();
    let own = listed.iter().filter(|one| pids.contains(&one.client_pid));
    own.map(|one| {
        one.client
            .as_deref()
            .unwrap_or_default()
            .parse()
            .expect("an address")
    })
    .collect()
}

#[test]
fn the_open_ones_of_every_network_namespace_are_listed() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(1);
    let neighbour = bed.a.pod("neighbour").unwrap();
    let services = Family::BOTH.map(|family| {
        let name = format!("echo-{family:?}").to_lowercase();
        Service::new(&name, family.vip(1)).to([replicas[0].at(family)])
    });
    let trainer = client_workload("trainer", "client", None);
    bed.start(&Manifest::of(services).and(trainer), &[]);
    // A process of the node itself, as with host networking.
    let on_node = Place {
        netns: bed.a.netns().path(),
        cgroup: neighbour.cgroup().into(),
    };
    let mapped: SocketAddr = "[::ffff:10.96.0.1]:8000".parse().unwrap();
    let [v4, v6] = Family::BOTH.map(|family| family.vip(1));
    let client = bed.client.place();
    let workload = Some("models/trainer");
    let in_client = [
        Expected::open(&client, v4, 7, workload),
        Expected::open(&client, v6, 5, workload),
        Expected::open(&client, mapped, 2, workload),
    ];
    let in_neighbour = [Expected::open(&neighbour.place(), v4, 3, None)];
    let in_node = [Expected::open(&on_node, v6, 4, None)];
    // None of these is open any more.
    connect(&client, v4, &["--count", "20"]).assert_all_ok(20);

    let listed = || bed.agent.connections().unwrap();
    let listed = eventually("21 connections", listed, |listed| listed.len() == 21);
    for expected in in_client.iter().chain(&in_neighbour).chain(&in_node) {
        expected.assert_listed(&listed, replicas[0].at(expected.family));
    }
    let truth = established(bed.client.netns()).unwrap();
    assert_eq!(clients(&listed, &in_client), truth);
    let truth = established(neighbour.netns()).unwrap();
    assert_eq!(clients(&listed, &in_neighbour), truth);

    drop((in_client, in_neighbour, in_node));
    bed.at_rest();
}
