// SPDX-License-Identifier: Apache-2.0
//! The packet path on frames that it does not handle: they go on as they came, and are counted where they are odd. And what XDP takes over.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use nodemesh_abi::{BackendFlags, FlowEvent, FlowMode, FlowSettings, names::program};
use nodemesh_e2e::{
    flow_bed::{CLIENT_MAC, Family, FlowBed, NEXT, REMOTE_MAC, XDP_PASS, XDP_TX},
    frame::{Body, Frame, flag},
};

const TCP: u8 = 6;
/// Every program that sees packets, with what it says of one that goes on.
const PROGRAMS: [(&str, i32); 3] = [
    (program::FLOW_INGRESS, NEXT),
    (program::FLOW_EGRESS, NEXT),
    (program::FLOW_XDP, XDP_PASS),
];

fn bed(family: Family) -> FlowBed {
    let mut bed = FlowBed::start(64).unwrap();
    bed.backend(0, family.remote(11), 0).unwrap();
    bed.backend(1, family.pod(), BackendFlags::RETURNS).unwrap();
    bed.service(family.service(), TCP, FlowMode::Nat, &[0]).unwrap();
    bed
}

#[test]
fn odd_frames_pass_every_program_untouched() {
    for family in Family::BOTH {
        let mut bed = bed(family);
        let (client, service) = (family.client(4_000), family.service());
        let syn = Frame::tcp(client, service, flag::SYN);
        let with = |change: &dyn Fn(&mut Frame)| {
            let mut frame = syn.clone();
            change(&mut frame);
            frame.bytes()
        };
        let spoilt = |at: usize, byte: u8| {
            let mut bytes = syn.bytes();
            bytes[at] = byte;
            bytes
        };
        let transport = if family == Family::V4 { 34 } else { 54 };
        let length = if family == Family::V4 { 16 } else { 18 };
        let mut cases = vec![
            (
                "another protocol",
                Frame::new(client, service, Body::Other(47)).bytes(),
                None,
            ),
            ("another ethertype", spoilt(13, 6), None),
            (
                "cut in the TCP header",
                syn.bytes()[..transport + 12].to_vec(),
                Some(FlowEvent::Malformed),
            ),
            ("longer than it is", spoilt(length, 4), Some(FlowEvent::Malformed)),
            (
                "a short TCP header",
                spoilt(transport + 12, 0x40),
                Some(FlowEvent::Malformed),
            ),
            (
                "a TCP header beyond the end",
                spoilt(transport + 12, 0xf0),
                Some(FlowEvent::Malformed),
            ),
            (
                "SYN and FIN",
                with(&|frame| frame.body = Body::Tcp(3)),
                Some(FlowEvent::Malformed),
            ),
            (
                "no flags at all",
                with(&|frame| frame.body = Body::Tcp(0)),
                Some(FlowEvent::Malformed),
            ),
        ];
        match family {
            Family::V4 => cases.extend([
                ("another version", spoilt(14, 0x55), Some(FlowEvent::Malformed)),
                (
                    "a header of 16 bytes",
                    spoilt(14, 0x44),
                    Some(FlowEvent::Malformed),
                ),
                (
                    "a first fragment",
                    with(&|frame| frame.fragment = 0x2000),
                    Some(FlowEvent::Fragment),
                ),
                (
                    "a later fragment",
                    with(&|frame| frame.fragment = 100),
                    Some(FlowEvent::Fragment),
                ),
            ]),
            Family::V6 => cases.extend([
                (
                    "a v4-mapped destination",
                    {
                        let mut bytes = syn.bytes();
                        bytes[38..50].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
                        bytes
                    },
                    Some(FlowEvent::Malformed),
                ),
                ("another version", spoilt(14, 0x50), Some(FlowEvent::Malformed)),
                (
                    "a fragment",
                    with(&|frame| frame.options = (44, vec![0, 0, 0, 1, 0, 0, 0, 9])),
                    Some(FlowEvent::Fragment),
                ),
                (
                    "a routing header with hops left",
                    with(&|frame| frame.options = (43, vec![0, 0, 0, 1, 0, 0, 0, 0])),
                    Some(FlowEvent::Extension),
                ),
                (
                    "an authentication header",
                    with(&|frame| frame.options = (51, vec![0, 0, 0, 0, 0, 0, 0, 0])),
                    Some(FlowEvent::Extension),
                ),
                (
                    "seven extension headers",
                    with(&|frame| frame.options = (60, [60, 0, 1, 4, 0, 0, 0, 0].repeat(7))),
                    Some(FlowEvent::Extension),
                ),
            ]),
        }
        for (what, bytes, event) in cases {
            for (name, passes) in PROGRAMS {
                let before = event.map(|event| bed.count(event).unwrap());
                let ran = bed.run_bytes(name, &bytes, 1).unwrap();
                assert_eq!(
                    (ran.verdict, &ran.bytes),
                    (passes, &bytes),
                    "{name} {family:?} {what}"
                );
                let after = event.map(|event| bed.count(event).unwrap());
                assert_eq!(after, before.map(|count| count + 1), "{name} {family:?} {what}");
            }
        }
        assert_eq!(bed.tracks().unwrap().len(), 0);
    }
}

#[test]
fn what_is_for_no_service_passes() {
    for family in Family::BOTH {
        let bed = bed(family);
        for frame in [
            Frame::tcp(family.client(1), family.remote(11), flag::SYN),
            Frame::udp(family.client(1), family.service()),
            Frame::tcp(family.service(), family.client(1), flag::ACK),
        ] {
            for (name, passes) in PROGRAMS {
                let ran = bed.run_bytes(name, &frame.bytes(), 1).unwrap();
                assert_eq!(
                    (ran.verdict, ran.bytes),
                    (passes, frame.bytes()),
                    "{name} {frame:?}"
                );
            }
        }
    }
}

#[test]
fn a_reset_of_no_flow_opens_none() {
    for family in Family::BOTH {
        let mut bed = bed(family);
        let frame = Frame::tcp(family.client(4_000), family.service(), flag::RST | flag::ACK);
        let ran = bed.ingress(&frame);
        assert_eq!((ran.verdict, ran.bytes), (NEXT, frame.bytes()));
        assert_eq!(bed.count(FlowEvent::Stray).unwrap(), 1);
        assert_eq!(bed.tracks().unwrap().len(), 0);
    }
}

#[test]
fn a_path_that_is_off_passes_everything() {
    let family = Family::V4;
    let mut bed = bed(family);
    let frame = Frame::tcp(family.client(4_000), family.service(), flag::SYN);
    bed.ingress(&frame);
    bed.set_settings(&FlowSettings::OFF).unwrap();
    for (name, passes) in PROGRAMS {
        let ran = bed.run_bytes(name, &frame.bytes(), 1).unwrap();
        assert_eq!((ran.verdict, ran.bytes), (passes, frame.bytes()), "{name}");
    }
}

#[test]
fn frames_for_another_host_pass() {
    for family in Family::BOTH {
        let mut bed = bed(family);
        bed.register_receive_queue().unwrap();
        let frame = Frame::tcp(family.client(4_000), family.service(), flag::SYN);
        assert_ne!(bed.ingress(&frame).verdict, NEXT);
        let mut bytes = frame.bytes();
        bytes[5] = 9;
        for (name, passes) in PROGRAMS {
            let ran = bed.run_bytes(name, &bytes, 1).unwrap();
            assert_eq!((ran.verdict, &ran.bytes), (passes, &bytes), "{name} {family:?}");
        }
        assert_eq!(bed.tracks().unwrap()[0].packets_up, 1);
    }
}

#[test]
fn xdp_sends_what_leaves_where_it_came_in_and_defers_the_rest() {
    for family in Family::BOTH {
        let mut bed = bed(family);
        bed.register_receive_queue().unwrap();
        let (client, service, backend) = (family.client(4_000), family.service(), family.remote(11));
        let syn = Frame::tcp(client, service, flag::SYN);
        let ran = bed.xdp(&syn);
        assert_eq!(
            (ran.verdict, ran.bytes),
            (XDP_PASS, syn.bytes()),
            "a flow is opened by flow_ingress"
        );
        bed.ingress(&syn);
        let nat = family.node(bed.tracks().unwrap()[0].nat_port.get());
        let cases = [
            (Frame::tcp(client, service, flag::ACK), REMOTE_MAC, nat, backend),
            (
                Frame::tcp(backend, nat, flag::SYN | flag::ACK),
                CLIENT_MAC,
                service,
                client,
            ),
        ];
        for (frame, mac, src, dst) in cases {
            let ran = bed.xdp(&frame);
            let seen = ran.seen();
            assert_eq!(
                (ran.verdict, seen.dmac, seen.src, seen.dst),
                (XDP_TX, mac, src, dst)
            );
            assert_eq!((seen.ttl, seen.is_sound), (63, Some(true)));
        }
        let track = bed.tracks().unwrap()[0];
        assert_eq!((track.packets_up, track.packets_down), (2, 1));
        // To the pod: another interface.
        bed.service(family.service(), TCP, FlowMode::Nat, &[1]).unwrap();
        let local = family.client(4_001);
        bed.ingress(&Frame::tcp(local, service, flag::SYN));
        let frame = Frame::tcp(local, service, flag::ACK);
        let ran = bed.xdp(&frame);
        assert_eq!((ran.verdict, ran.bytes), (XDP_PASS, frame.bytes()));
        assert_eq!(bed.count(FlowEvent::Deferred).unwrap(), 1);
        // Counted once, by who sends it.
        let track = bed
            .tracks()
            .unwrap()
            .into_iter()
            .find(|track| track.client_port.get() == 4_001);
        assert_eq!(track.unwrap().packets_up, 1);
    }
}
