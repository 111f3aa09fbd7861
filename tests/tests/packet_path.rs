// SPDX-License-Identifier: Apache-2.0
//! The packet path: a client outside the mesh reaches replicas on this node and on another, by virtual, external and node addresses.

use std::net::SocketAddr;

use nodemesh_e2e::{
    bed::Family,
    eventually::eventually,
    packet_bed::{Call, FarEnd, NODE_PORT, PORT, PacketBed, TARGET, ask, node_ports, service},
};
use serde_json::json;

/// More than a segment, so that offloads and windows take part.
fn large() -> Vec<u8> {
    (0..300_000_u32)
        .map(|number| number.wrapping_mul(31) as u8)
        .collect()
}

#[test]
fn a_client_outside_reaches_replicas_on_this_node_and_on_another() {
    let mut bed = PacketBed::new();
    let _ends = [
        FarEnd::start(&bed.local, "local"),
        FarEnd::start(&bed.remote, "remote"),
    ];
    bed.start(&service("snat", &[&bed.local], &json!({})), &[]);
    for (pod, name) in [(&bed.local, "local"), (&bed.remote, "remote")] {
        bed.agent
            .reconfigure(&service("snat", &[pod], &json!({})).to_string())
            .unwrap();
        for family in Family::BOTH {
            let to = SocketAddr::new(family.vip(1).ip(), PORT);
            let mut call = Call::to(&bed.client, to).unwrap();
            assert_eq!(call.replica, name, "{family:?}");
            assert_ne!(
                call.seen_as.ip(),
                family.of(&bed.client),
                "{family:?}: translated"
            );
            call.echoes(&large()).unwrap();
            let flows = bed.flows();
            let flow = flows
                .iter()
                .find(|flow| flow.client == Some(call.local().to_string()));
            let flow = flow.unwrap_or_else(|| panic!("{:?} is not in {flows:#?}", call.local()));
            assert_eq!(flow.service, "models/llama");
            assert_eq!(flow.service_address, to.to_string());
            assert_eq!(flow.backend, SocketAddr::new(family.of(pod), TARGET).to_string());
            assert_eq!(flow.seen_as, Some(call.seen_as.to_string()));
            assert_eq!(flow.state, "established");
            assert!(
                flow.request_bytes > 300_000 && flow.response_bytes > 300_000,
                "{flow:#?}"
            );

            let (replica, seen_as) = ask(&bed.client, to, b"what").unwrap();
            assert_eq!(replica, name, "{family:?}");
            assert_ne!(seen_as.ip(), family.of(&bed.client));
        }
    }
    // A call that has ended leaves the table when its time is over.
    let states = eventually(
        "closed flows",
        || bed.packet().states,
        |states| states["established"] == 0 && states["time_wait"] > 0,
    );
    assert!(states["conversation"] > 0, "{states:?}");
    let problems = bed.packet().problems;
    assert!(problems.is_empty(), "{problems:?}");
}

#[test]
fn node_ports_and_external_addresses_lead_to_the_service() {
    let mut bed = PacketBed::new();
    let _ends = [FarEnd::start(&bed.remote, "remote")];
    let external = ["203.0.113.7", "2001:db8:7::7"];
    let fields = json!({"ports": node_ports(), "externalAddresses": external});
    bed.start(&service("snat", &[&bed.remote], &fields), &[]);
    for (family, external) in Family::BOTH.into_iter().zip(external) {
        let node_port = SocketAddr::new(bed.node_address(family), NODE_PORT);
        let external = SocketAddr::new(external.parse().unwrap(), PORT);
        for to in [node_port, external] {
            let mut call = Call::to(&bed.client, to).unwrap();
            assert_eq!(call.replica, "remote", "{to}");
            call.echoes(&large()).unwrap();
            let (replica, _) = ask(&bed.client, to, b"what").unwrap();
            assert_eq!(replica, "remote", "{to}");
        }
    }
    // Off the packet path again, nobody answers there.
    let off = json!({"packetPath": null});
    bed.agent
        .reconfigure(&service("snat", &[&bed.remote], &off).to_string())
        .unwrap();
    let gone = SocketAddr::new(bed.node_address(Family::V4), NODE_PORT);
    let error = Call::to(&bed.client, gone).unwrap_err();
    assert!(format!("{error:#}").contains("refused"), "{error:#}");
}

#[test]
fn a_replica_on_this_node_sees_the_client_where_that_is_asked_for() {
    let mut bed = PacketBed::new();
    let _ends = [
        FarEnd::start(&bed.local, "local"),
        FarEnd::start(&bed.remote, "remote"),
    ];
    // Replies of the local replica pass the interface to the client, so the bridge to the pods need not be served.
    let flags = ["--packet-interface", "ext0,up0", "--node-name", "a"];
    bed.start(
        &service("preserve", &[&bed.local, &bed.remote], &json!({})),
        &flags,
    );
    for family in Family::BOTH {
        let to = SocketAddr::new(family.vip(1).ip(), PORT);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..64 {
            let mut call = Call::to(&bed.client, to).unwrap();
            call.echoes(b"hello").unwrap();
            let is_kept = call.seen_as.ip() == family.of(&bed.client);
            assert_eq!(is_kept, call.replica == "local", "{family:?} {call:?}");
            seen.insert(call.replica);
        }
        assert_eq!(seen.len(), 2, "{family:?}: both replicas are reached");
    }
}

#[test]
fn a_flow_that_is_over_is_forgotten_and_given_back() {
    let mut bed = PacketBed::new();
    let _end = FarEnd::start(&bed.remote, "remote");
    let flags = ["--flow-timeout", "time_wait=1s,last_ack=1s,conversation=1s"];
    bed.start(&service("snat", &[&bed.remote], &json!({})), &flags);
    for family in Family::BOTH {
        let to = SocketAddr::new(family.vip(1).ip(), PORT);
        Call::to(&bed.client, to).unwrap().echoes(b"hello").unwrap();
        ask(&bed.client, to, b"what").unwrap();
    }
    eventually("no flow", || bed.flows(), Vec::is_empty);
    let backends = bed.agent.backends().unwrap();
    let active: u64 = backends.iter().map(|backend| backend.active_connections).sum();
    let placed: u64 = backends.iter().map(|backend| backend.connections_total).sum();
    assert_eq!((active, placed), (0, 4), "{backends:#?}");
    let status = bed.packet();
    assert!(status.problems.is_empty() && status.flows == 0, "{status:?}");
}
