// SPDX-License-Identifier: Apache-2.0
//! The packet path on single frames: what each program makes of a packet of each kind, in every mode, both families.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::net::SocketAddr;

use nodemesh_abi::{BackendFlags, FlowEvent, FlowMode, Track, flow::TrackMode};
use nodemesh_e2e::{
    flow_bed::{CLIENT_MAC, DROP, Family, FlowBed, NARROW, NEXT, POD_MAC, REDIRECT, REMOTE_MAC, Ran},
    frame::{Body, Frame, MACS, flag},
};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A bed with one service in `mode`, of one remote backend (0) or one on this node (1).
fn bed(family: Family, protocol: u8, mode: FlowMode, is_local: bool) -> FlowBed {
    let mut bed = FlowBed::start(64).unwrap();
    bed.backend(0, family.remote(11), 0).unwrap();
    bed.backend(1, family.pod(), BackendFlags::RETURNS).unwrap();
    bed.service(family.service(), protocol, mode, &[u32::from(is_local)])
        .unwrap();
    bed
}

/// A first packet of `protocol`.
fn first(protocol: u8, src: SocketAddr, dst: SocketAddr) -> Frame {
    if protocol == TCP {
        Frame::tcp(src, dst, flag::SYN)
    } else {
        Frame::udp(src, dst)
    }
}

/// An answer to it.
fn answer(protocol: u8, src: SocketAddr, dst: SocketAddr) -> Frame {
    if protocol == TCP {
        Frame::tcp(src, dst, flag::SYN | flag::ACK)
    } else {
        Frame::udp(src, dst)
    }
}

/// Asserts that a frame left for `mac`, from `src` to `dst`, sound and one hop older.
#[track_caller]
fn assert_sent(ran: &Ran, mac: [u8; 6], src: SocketAddr, dst: SocketAddr) {
    let seen = ran.seen();
    assert_eq!(ran.verdict, REDIRECT, "{seen:?}");
    assert_eq!((seen.dmac, seen.src, seen.dst), (mac, src, dst));
    assert_eq!((seen.ttl, seen.is_sound), (63, Some(true)));
}

/// Asserts that a frame went on to the stack as it came.
#[track_caller]
fn assert_untouched(ran: &Ran, frame: &Frame) {
    assert_eq!((ran.verdict, &ran.bytes), (NEXT, &frame.bytes()));
}

fn only_track(bed: &mut FlowBed) -> Track {
    let tracks = bed.tracks().unwrap();
    assert_eq!(tracks.len(), 1, "{tracks:?}");
    tracks[0]
}

#[test]
fn a_remote_backend_sees_this_node_and_the_client_sees_the_service() {
    for family in Family::BOTH {
        for protocol in [TCP, UDP] {
            let mut bed = bed(family, protocol, FlowMode::Nat, false);
            let (client, service, backend) = (family.client(4_000), family.service(), family.remote(11));
            let ran = bed.ingress(&first(protocol, client, service));
            let track = only_track(&mut bed);
            let nat = family.node(track.nat_port.get());
            assert!((10_240..=32_767).contains(&nat.port()), "{nat}");
            assert_sent(&ran, REMOTE_MAC, nat, backend);
            let ran = bed.ingress(&answer(protocol, backend, nat));
            assert_sent(&ran, CLIENT_MAC, service, client);
            let track = only_track(&mut bed);
            assert_eq!((track.packets_up, track.packets_down), (1, 1));
            assert!(
                track.bytes_up > 20 && track.bytes_up == track.bytes_down,
                "{track:?}"
            );
            assert_eq!(bed.count(FlowEvent::Forwarded).unwrap(), 1);
            assert_eq!(bed.count(FlowEvent::Returned).unwrap(), 1);
        }
    }
}

#[test]
fn a_local_backend_sees_the_client_and_its_answer_is_translated_where_it_leaves() {
    for family in Family::BOTH {
        for protocol in [TCP, UDP] {
            let mut bed = bed(family, protocol, FlowMode::Nat, true);
            let (client, service, pod) = (family.client(4_000), family.service(), family.pod());
            assert_sent(
                &bed.ingress(&first(protocol, client, service)),
                POD_MAC,
                client,
                pod,
            );
            // Seen on the host's end of the pod's veth.
            assert_sent(
                &bed.ingress(&answer(protocol, pod, client)),
                CLIENT_MAC,
                service,
                client,
            );
            // Seen where the stack has forwarded it to.
            let ran = bed.egress(&answer(protocol, pod, client));
            let seen = ran.seen();
            assert_eq!((ran.verdict, seen.src, seen.dst), (NEXT, service, client));
            assert_eq!((seen.ttl, seen.is_sound), (64, Some(true)));
            assert_eq!(only_track(&mut bed).mode, TrackMode::Keep as u8);
        }
    }
}

#[test]
fn the_client_is_kept_where_the_operator_says_that_replies_come_back() {
    for family in Family::BOTH {
        let bed = bed(family, TCP, FlowMode::Keep, false);
        let ran = bed.ingress(&Frame::tcp(family.client(4_000), family.service(), flag::SYN));
        assert_sent(&ran, REMOTE_MAC, family.client(4_000), family.remote(11));
    }
}

#[test]
fn a_backend_that_dials_its_own_service_sees_this_node() {
    for family in Family::BOTH {
        let bed = bed(family, TCP, FlowMode::Nat, true);
        let client = SocketAddr::new(family.pod().ip(), 4_000);
        let seen = bed
            .ingress(&Frame::tcp(client, family.service(), flag::SYN))
            .seen();
        assert_eq!((seen.src.ip(), seen.dst), (family.node(0).ip(), family.pod()));
    }
}

#[test]
fn a_direct_backend_gets_the_packet_as_it_is() {
    for family in Family::BOTH {
        for protocol in [TCP, UDP] {
            let mut bed = FlowBed::start(64).unwrap();
            let backend = SocketAddr::new(family.remote(11).ip(), family.service().port());
            bed.backend(0, backend, 0).unwrap();
            bed.service(family.service(), protocol, FlowMode::Direct, &[0])
                .unwrap();
            let frame = first(protocol, family.client(4_000), family.service());
            let ran = bed.ingress(&frame);
            assert_eq!((ran.verdict, &ran.bytes[..6]), (REDIRECT, &REMOTE_MAC[..]));
            assert_eq!(
                &ran.bytes[14..],
                &frame.bytes()[14..],
                "nothing but link-layer addresses changes"
            );
            assert_eq!(only_track(&mut bed).mode, TrackMode::Direct as u8);
        }
        // The backend listens elsewhere: that takes translation.
        let bed = bed(family, TCP, FlowMode::Direct, false);
        let seen = bed
            .ingress(&Frame::tcp(family.client(4_000), family.service(), flag::SYN))
            .seen();
        assert_eq!(
            (seen.src.ip(), seen.dst),
            (family.node(0).ip(), family.remote(11))
        );
    }
}

#[test]
fn a_node_port_is_one_row_for_every_address_of_a_family() {
    for family in Family::BOTH {
        let mut bed = bed(family, TCP, FlowMode::Nat, false);
        bed.service(family.any(30_080), TCP, FlowMode::Nat, &[0]).unwrap();
        let node = family.node(30_080);
        let ran = bed.ingress(&Frame::tcp(family.client(4_000), node, flag::SYN));
        let nat = family.node(only_track(&mut bed).nat_port.get());
        assert_sent(&ran, REMOTE_MAC, nat, family.remote(11));
        // From this node's own address, which the stack would not take from outside: it never sees the packet.
        let ran = bed.ingress(&answer(TCP, family.remote(11), nat));
        assert_sent(&ran, CLIENT_MAC, node, family.client(4_000));
        // Through this node to another one's port.
        let other = SocketAddr::new(family.remote(12).ip(), 30_080);
        let frame = Frame::tcp(family.client(4_000), other, flag::SYN);
        assert_untouched(&bed.ingress(&frame), &frame);
    }
}

#[test]
fn a_datagram_without_a_checksum_stays_without() {
    let mut bed = bed(Family::V4, UDP, FlowMode::Nat, false);
    let (client, service) = (Family::V4.client(4_000), Family::V4.service());
    let ran = bed.ingress(&Frame::new(client, service, Body::Udp(false)));
    assert_eq!(ran.verdict, REDIRECT);
    assert_eq!((&ran.bytes[40..42], ran.seen().is_sound), (&[0, 0][..], None));
    assert_eq!(only_track(&mut bed).packets_up, 1);
}

#[test]
fn errors_about_a_flow_reach_the_end_that_they_are_for() {
    for family in Family::BOTH {
        let (unreachable, too_big) = if family == Family::V4 { (3, 3) } else { (1, 2) };
        let mut bed = bed(family, TCP, FlowMode::Nat, false);
        let (client, service, backend) = (family.client(4_000), family.service(), family.remote(11));
        bed.ingress(&Frame::tcp(client, service, flag::SYN));
        let nat = family.node(only_track(&mut bed).nat_port.get());
        // A router on the way to the backend: the client learns of it, about the packet that it sent.
        let about = Frame::tcp(nat, backend, flag::ACK);
        let ran = bed.ingress(&Frame::error(family.router(), nat.ip(), too_big, about.clone()));
        let seen = ran.seen();
        assert_eq!(ran.verdict, REDIRECT);
        assert_eq!((seen.src.ip(), seen.dst.ip()), (family.router(), client.ip()));
        assert_eq!(
            (seen.quoted, seen.is_sound),
            (Some((client, service, true)), Some(true))
        );
        // The backend itself: the client knows it as the service.
        let seen = bed
            .ingress(&Frame::error(backend.ip(), nat.ip(), unreachable, about))
            .seen();
        assert_eq!((seen.src.ip(), seen.dst.ip()), (service.ip(), client.ip()));
        // A router on the way to the client: the backend learns of it, about the packet that it sent.
        let about = Frame::tcp(service, client, flag::ACK);
        let ran = bed.ingress(&Frame::error(
            family.router(),
            service.ip(),
            too_big,
            about.clone(),
        ));
        let seen = ran.seen();
        assert_eq!((ran.verdict, seen.dmac), (REDIRECT, REMOTE_MAC));
        assert_eq!((seen.src.ip(), seen.dst.ip()), (family.router(), backend.ip()));
        assert_eq!(
            (seen.quoted, seen.is_sound),
            (Some((backend, nat, true)), Some(true))
        );
        // The client itself: the backend knows it as this node.
        let seen = bed
            .ingress(&Frame::error(client.ip(), service.ip(), unreachable, about))
            .seen();
        assert_eq!((seen.src.ip(), seen.dst.ip()), (nat.ip(), backend.ip()));
        assert_eq!(bed.count(FlowEvent::Related).unwrap(), 4);
        let track = only_track(&mut bed);
        assert_eq!(
            (track.packets_up, track.packets_down),
            (1, 0),
            "an error is about a flow, not of it"
        );
        // About no flow.
        let stranger = Frame::error(
            family.router(),
            nat.ip(),
            too_big,
            Frame::tcp(family.node(9), backend, flag::ACK),
        );
        assert_untouched(&bed.ingress(&stranger), &stranger);
    }
}

#[test]
fn an_error_of_a_local_backend_is_translated_where_it_leaves() {
    for family in Family::BOTH {
        let unreachable = if family == Family::V4 { 3 } else { 1 };
        let bed = bed(family, UDP, FlowMode::Nat, true);
        let (client, service, pod) = (family.client(4_000), family.service(), family.pod());
        bed.ingress(&Frame::udp(client, service));
        let about = Frame::udp(client, pod);
        let ran = bed.egress(&Frame::error(pod.ip(), client.ip(), unreachable, about));
        let seen = ran.seen();
        assert_eq!(
            (ran.verdict, seen.src.ip(), seen.dst.ip()),
            (NEXT, service.ip(), client.ip())
        );
        assert_eq!(
            (seen.quoted, seen.is_sound),
            (Some((client, service, true)), Some(true))
        );
    }
}

#[test]
fn options_and_extension_headers_are_walked_over() {
    for family in Family::BOTH {
        let bed = bed(family, TCP, FlowMode::Nat, false);
        let mut frame = Frame::tcp(family.client(4_000), family.service(), flag::SYN);
        frame.options = match family {
            Family::V4 => (0, vec![1; 12]),
            // Hop-by-hop options, then destination options.
            Family::V6 => (0, [[60, 0, 1, 4, 0, 0, 0, 0], [0, 0, 1, 4, 0, 0, 0, 0]].concat()),
        };
        let ran = bed.ingress(&frame);
        let seen = ran.seen();
        assert_eq!((ran.verdict, seen.dst), (REDIRECT, family.remote(11)));
        assert_eq!(seen.is_sound, Some(true));
    }
}

#[test]
fn a_packet_at_its_last_hop_is_left_to_the_stack() {
    for family in Family::BOTH {
        let bed = bed(family, TCP, FlowMode::Nat, false);
        let mut frame = Frame::tcp(family.client(4_000), family.service(), flag::SYN);
        frame.ttl = 1;
        assert_untouched(&bed.ingress(&frame), &frame);
    }
}

#[test]
fn an_unknown_neighbour_is_left_to_the_kernel_to_find() {
    for family in Family::BOTH {
        let mut bed = bed(family, TCP, FlowMode::Nat, false);
        bed.backend(0, family.remote(99), 0).unwrap();
        let ran = bed.ingress(&Frame::tcp(family.client(4_000), family.service(), flag::SYN));
        assert_eq!((ran.verdict, ran.seen().dst), (REDIRECT, family.remote(99)));
        assert_eq!(
            ran.bytes[..12],
            MACS,
            "its link-layer addresses are the kernel's to write"
        );
    }
}

#[test]
fn a_backend_on_the_host_itself_is_delivered_here() {
    for family in Family::BOTH {
        let mut bed = bed(family, TCP, FlowMode::Nat, false);
        bed.backend(0, family.node(8_000), BackendFlags::RETURNS).unwrap();
        let ran = bed.ingress(&Frame::tcp(family.client(4_000), family.service(), flag::SYN));
        let seen = ran.seen();
        assert_eq!(
            (ran.verdict, seen.src, seen.dst),
            (NEXT, family.client(4_000), family.node(8_000))
        );
        assert_eq!((seen.ttl, seen.is_sound), (64, Some(true)));
        assert_ne!(ran.verdict, DROP);
    }
}

#[test]
fn what_the_way_to_the_backend_does_not_take_is_told_or_counted() {
    for family in Family::BOTH {
        let mut bed = bed(family, TCP, FlowMode::Nat, false);
        let cases = [(13, NARROW + 1, FlowEvent::TooBig), (14, 100, FlowEvent::NoRoute)];
        for (host, length, event) in cases {
            bed.backend(0, family.remote(host), 0).unwrap();
            let header = if family == Family::V4 { 40 } else { 60 };
            let frame = |port, length| {
                let frame = Frame::tcp(family.client(port), family.service(), flag::ACK);
                frame.with(&vec![7; length - header])
            };
            let port = u16::from(host) * 100;
            assert_eq!(bed.ingress(&frame(port, length)).verdict, DROP, "{event:?}");
            assert_eq!(bed.count(event).unwrap(), 1);
            if event == FlowEvent::TooBig {
                assert_eq!(
                    bed.ingress(&frame(port, length - 1)).verdict,
                    REDIRECT,
                    "as long as the way takes"
                );
            }
            // The client's own packet the stack answers, and flow_egress translates what it says.
            bed.service(family.service(), TCP, FlowMode::Keep, &[0]).unwrap();
            let ran = bed.ingress(&frame(port + 1, length));
            let seen = ran.seen();
            assert_eq!(
                (ran.verdict, seen.src, seen.ttl),
                (NEXT, family.client(port + 1), 64)
            );
            assert_eq!((seen.dst, seen.is_sound), (family.remote(host), Some(true)));
            bed.service(family.service(), TCP, FlowMode::Nat, &[0]).unwrap();
        }
    }
}
