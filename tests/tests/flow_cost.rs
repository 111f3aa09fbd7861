// SPDX-License-Identifier: Apache-2.0
//! What tracking costs: time per packet, and memory per flow.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{net::SocketAddr, time::Duration};

use nodemesh_abi::{
    FlowMode, Track,
    flow::IndexSet,
    limits,
    names::{map, program},
};
use nodemesh_e2e::{
    flow_bed::{Family, FlowBed},
    frame::{Body, Frame, flag},
};

/// How often the time of a packet that is not read a packet of a flow may take; 2 to 3 where it was measured.
const MAX_RATIO: u32 = 8;
/// Flows of the goal, and bytes that they may take.
const FLOWS: u32 = 1_000_000;
const MAX_BYTES: u64 = 200_000_000;
/// Runs of one measurement, and measurements of which the best counts: others use the machine too.
const RUNS: u32 = 200_000;
const ROUNDS: usize = 5;

/// The shortest time of `frame` at `flow_egress`.
fn time(bed: &FlowBed, frame: &Frame) -> Duration {
    let run = |_| {
        bed.run_bytes(program::FLOW_EGRESS, &frame.bytes(), RUNS)
            .unwrap()
            .duration
    };
    (0..ROUNDS).map(run).min().unwrap()
}

#[test]
fn a_packet_of_a_flow_costs_little_more_than_one_of_none() {
    for family in Family::BOTH {
        let mut bed = FlowBed::start(65_536).unwrap();
        // A direct flow's packets stay as they are, so that the same one can be sent over and over.
        let backend = SocketAddr::new(family.remote(11).ip(), family.service().port());
        bed.backend(0, backend, 0).unwrap();
        bed.service(family.service(), 6, FlowMode::Direct, &[0]).unwrap();
        bed.ingress(&Frame::tcp(family.client(4_000), family.service(), flag::SYN));
        let reply = Frame::tcp(family.service(), family.client(4_000), flag::ACK);
        let stranger = Frame::tcp(family.service(), family.client(4_001), flag::ACK);
        let unread = Frame::new(family.service(), family.client(4_000), Body::Other(47));
        let [hit, miss, base] = [&reply, &stranger, &unread].map(|frame| time(&bed, frame));
        let packets = bed.tracks().unwrap()[0].packets_down;
        assert_eq!(packets, RUNS * ROUNDS as u32, "each run was one of the flow");
        println!("{family:?}: found and counted {hit:?}, not found {miss:?}, not read {base:?}");
        assert!(hit <= MAX_RATIO * base, "{hit:?} beside {base:?}");
    }
}

#[test]
fn a_million_flows_take_less_than_two_hundred_megabytes() {
    let bed = FlowBed::start(FLOWS).unwrap();
    let maps = [
        map::TRACKS,
        map::TRACK_INDEX,
        map::TRACK_FREE,
        map::TRACK_STATE,
        map::TRACK_SOURCES,
    ];
    let bytes: u64 = maps.iter().map(|name| bed.memory(name).unwrap()).sum();
    println!(
        "{FLOWS} flows: {bytes} bytes, {} per flow",
        bytes / u64::from(FLOWS)
    );
    assert!(bytes <= MAX_BYTES, "{bytes}");
    let rows = (size_of::<Track>() + 4) as u64 * u64::from(FLOWS);
    let sets = size_of::<IndexSet>() as u64 * u64::from(limits::index_sets(FLOWS));
    assert!(
        bytes >= rows + sets,
        "the kernel tells less than there is: {bytes}"
    );
}
