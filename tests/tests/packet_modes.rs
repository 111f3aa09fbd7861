// SPDX-License-Identifier: Apache-2.0
//! The ways of the packet path that most nodes do not use: backends that answer the client themselves, and XDP.

use std::net::SocketAddr;

use nodemesh_e2e::{
    bed::Family,
    eventually::eventually,
    packet_bed::{Call, FarEnd, PORT, PacketBed, Raw, TARGET, ask, service},
    scrape::Scrape,
};
use serde_json::json;

#[test]
fn a_backend_that_has_the_service_address_answers_the_client_itself() {
    let mut bed = PacketBed::new();
    // The client has a link to the other node, which has the service's address and knows no other way back.
    bed.topology.attach(&bed.client, "second", 200).unwrap();
    let vips = Family::BOTH.map(|family| SocketAddr::new(family.vip(1).ip(), PORT));
    let mut lines: Vec<String> = vips
        .iter()
        .map(|vip| format!("addr add {} dev lo", vip.ip()))
        .collect();
    lines.extend(
        [
            "route replace 172.16.1.0/24 via 192.168.0.200",
            "route replace fd16:1::/64 via fd10:ff::c8",
        ]
        .map(str::to_owned),
    );
    bed.b.netns().configure(&lines).unwrap();
    let _end = FarEnd::at(bed.b.netns(), vips, "direct");
    let ports = json!([
        {"name": "tcp", "port": PORT},
        {"name": "udp", "port": PORT, "protocol": "UDP"},
    ]);
    let backends = json!([{"address": "192.168.0.2"}, {"address": "fd10:ff::2"}]);
    let fields = json!({"ports": ports, "backends": backends});
    bed.start(&service("dsr", &[], &fields), &[]);
    let data: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
    for (family, vip) in Family::BOTH.into_iter().zip(vips) {
        let mut call = Call::to(&bed.client, vip).unwrap();
        assert_eq!(call.replica, "direct");
        assert_eq!(call.seen_as, call.local(), "{family:?}: nothing is translated");
        call.echoes(&data).unwrap();
        let flows = bed.flows();
        let flow = flows
            .iter()
            .find(|flow| flow.client == Some(call.local().to_string()));
        let flow = flow.unwrap_or_else(|| panic!("{:?} is not in {flows:#?}", call.local()));
        assert_eq!(flow.state, "established");
        assert_eq!(flow.response_bytes, 0, "{family:?}: the answers go elsewhere");
        assert!(flow.request_bytes > 200_000, "{flow:#?}");
        assert_eq!(ask(&bed.client, vip, b"what").unwrap().0, "direct");
    }
    assert_eq!(bed.count("returned"), 0);
    let problems = bed.packet().problems;
    assert!(problems.is_empty(), "{problems:?}");
}

#[test]
fn xdp_forwards_what_leaves_where_it_came_in() {
    const ROUNDS: u32 = 200;
    let mut bed = PacketBed::new();
    bed.topology.attach(&bed.client, "second", 200).unwrap();
    let vip = SocketAddr::new(Family::V4.vip(1).ip(), PORT);
    let way = format!("route add {} via 192.168.0.1", vip.ip());
    bed.client.netns().configure(&[way]).unwrap();
    let flags = ["--packet-interface", "up0", "--packet-xdp", "generic"];
    bed.start(&service("snat", &[&bed.remote], &json!({})), &flags);
    let interfaces = bed.packet().interfaces;
    assert_eq!(interfaces[0].xdp.as_deref(), Some("generic"), "{interfaces:?}");
    // Without checksums, which a link between namespaces leaves for a device to complete that there is not.
    let server = SocketAddr::new(Family::V4.of(&bed.remote), TARGET);
    let _server = Raw::echo(&bed.remote, server);
    let client = Raw::new(&bed.client, "192.168.0.200:4000".parse().unwrap());
    for round in 0..ROUNDS {
        let answer = client.ask(vip, &round.to_be_bytes());
        let answer = answer.unwrap_or_else(|error| panic!("{round}: {error:#}: {:#?}", bed.packet()));
        assert_eq!(answer, round.to_be_bytes());
    }
    let runs = |program: &str| {
        let (_, text) = bed.agent.http(&bed.a, "/metrics").unwrap();
        let scrape = Scrape::parse(&text).unwrap();
        scrape.count("nodemesh_program_runs_total", &[("program", program)])
    };
    let least = u64::from(2 * ROUNDS - 2);
    eventually("XDP's part", || runs("flow_xdp"), |runs| *runs >= least);
    assert!(
        runs("flow_ingress") < least / 2,
        "the rest is for the first packets"
    );
    assert_eq!(bed.count("opened"), 1);
    assert_eq!(
        (bed.count("forwarded"), bed.count("returned")),
        (ROUNDS.into(), ROUNDS.into())
    );
}
