// SPDX-License-Identifier: Apache-2.0
//! The packet path with more flows than there is room for: those that are established stay, and newcomers find a place.

use std::net::{SocketAddr, SocketAddrV4};

use nodemesh_e2e::{
    bed::Family,
    eventually::eventually,
    packet_bed::{Call, FarEnd, PORT, PacketBed, flood, service},
};
use serde_json::json;

/// Calls that are held while the table is flooded.
const CALLS: usize = 40;

fn vip() -> SocketAddrV4 {
    match Family::V4.vip(1) {
        SocketAddr::V4(address) => SocketAddrV4::new(*address.ip(), PORT),
        SocketAddr::V6(_) => unreachable!("an IPv4 address"),
    }
}

/// Floods a table of 4,096 flows and checks that nobody who talks is hurt.
fn survives(protocol: u8, flows: u32) {
    let mut bed = PacketBed::new();
    // Nobody answers datagrams: an answered flow is one that stays.
    let _ends = [
        FarEnd::tcp(&bed.local, "local"),
        FarEnd::tcp(&bed.remote, "remote"),
    ];
    bed.start(&service("snat", &[&bed.local, &bed.remote], &json!({})), &[]);
    let mut calls: Vec<Call> = (0..CALLS)
        .map(|_| Call::to(&bed.client, vip().into()).expect("a call"))
        .collect();
    for part in 0..4 {
        flood(&bed.client, vip(), protocol, flows / 4 * (part + 1)).expect("a flood");
        for call in &mut calls {
            call.echoes(b"still here").expect("the call goes on");
        }
    }
    assert!(bed.count("evicted") > u64::from(flows) / 2, "{:?}", bed.packet());
    let status = eventually("pressure", || bed.packet(), |status| status.under_pressure);
    assert!(status.flows <= status.flow_limit, "{status:?}");
    assert!(
        status
            .sources
            .first()
            .is_some_and(|source| source.address.starts_with("198.18.")),
        "{status:?}"
    );
    // A newcomer finds a place in the full table.
    let mut newcomer = Call::to(&bed.client, vip().into()).expect("a place for a newcomer");
    newcomer.echoes(b"hello").expect("an echo");
    assert!(calls.iter_mut().all(|call| call.echoes(b"and still").is_ok()));
}

#[test]
fn sixty_four_thousand_flows_evict_only_what_nobody_answered() {
    const UDP: u8 = 17;
    survives(UDP, 64_000);
}

#[test]
fn a_flood_of_syns_cuts_no_flow() {
    const TCP: u8 = 6;
    survives(TCP, 40_000);
}
