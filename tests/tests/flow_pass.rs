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

/// A frame that passes: what is odd about it, its bytes, and under what it is counted, if it is.
type Case = (&'static str, Vec<u8>, Option<FlowEvent>);

fn syn(family: Family) -> Frame {
    Frame::tcp(family.client(4_000), family.service(), flag::SYN)
}

/// The bytes of a SYN of which some are others from `at` on.
fn spoilt(family: Family, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = syn(family).bytes();
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

/// The bytes of a SYN after a `change`.
fn changed(family: Family, change: impl FnOnce(&mut Frame)) -> Vec<u8> {
    let mut frame = syn(family);
    change(&mut frame);
    frame.bytes()
}

fn cases_of_both(family: Family) -> Vec<Case> {
    let (transport, length) = if family == Family::V4 { (34, 16) } else { (54, 18) };
    let malformed = Some(FlowEvent::Malformed);
    vec![
        (
            "another protocol",
            changed(family, |frame| frame.body = Body::Other(47)),
            None,
        ),
        ("another ethertype", spoilt(family, 13, &[6]), None),
        (
            "cut in the TCP header",
            syn(family).bytes()[..transport + 12].to_vec(),
            malformed,
        ),
        ("longer than it is", spoilt(family, length, &[4]), malformed),
        (
            "a short TCP header",
            spoilt(family, transport + 12, &[0x40]),
            malformed,
        ),
        (
            "a TCP header beyond the end",
            spoilt(family, transport + 12, &[0xf0]),
            malformed,
        ),
        (
            "SYN and FIN",
            changed(family, |frame| frame.body = Body::Tcp(3)),
            malformed,
        ),
        (
            "no flags at all",
            changed(family, |frame| frame.body = Body::Tcp(0)),
            malformed,
        ),
    ]
}

fn cases_of_v4() -> Vec<Case> {
    let (family, malformed, fragment) = (Family::V4, Some(FlowEvent::Malformed), Some(FlowEvent::Fragment));
    vec![
        ("another version", spoilt(family, 14, &[0x55]), malformed),
        ("a header of 16 bytes", spoilt(family, 14, &[0x44]), malformed),
        ("from the loopback network", spoilt(family, 26, &[127]), malformed),
        (
            "a first fragment",
            changed(family, |frame| frame.fragment = 0x2000),
            fragment,
        ),
        (
            "a later fragment",
            changed(family, |frame| frame.fragment = 100),
            fragment,
        ),
    ]
}

fn cases_of_v6() -> Vec<Case> {
    let (family, extension) = (Family::V6, Some(FlowEvent::Extension));
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    let with = |number, headers: &[u8]| {
        let headers = headers.to_vec();
        changed(family, |frame| frame.options = (number, headers))
    };
    vec![
        (
            "another version",
            spoilt(family, 14, &[0x50]),
            Some(FlowEvent::Malformed),
        ),
        (
            "a v4-mapped destination",
            spoilt(family, 38, &mapped),
            Some(FlowEvent::Malformed),
        ),
        (
            "a fragment",
            with(44, &[0, 0, 0, 1, 0, 0, 0, 9]),
            Some(FlowEvent::Fragment),
        ),
        (
            "a routing header with hops left",
            with(43, &[0, 0, 0, 1, 0, 0, 0, 0]),
            extension,
        ),
        ("an authentication header", with(51, &[0; 8]), extension),
        (
            "seven extension headers",
            with(60, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(7)),
            extension,
        ),
    ]
}

#[test]
fn odd_frames_pass_every_program_untouched() {
    for (family, own) in [(Family::V4, cases_of_v4()), (Family::V6, cases_of_v6())] {
        let mut bed = bed(family);
        for (what, bytes, event) in cases_of_both(family).into_iter().chain(own) {
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
