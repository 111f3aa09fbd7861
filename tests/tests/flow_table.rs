// SPDX-License-Identifier: Apache-2.0
//! The table of flows: ports that are never used twice, what makes room for what, when flows end, and that every count comes back to zero.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
};

use nodemesh_abi::{
    BackendFlags, FlowEvent, FlowMode, FlowSettings, Track,
    flow::{FlowState, Tuple},
};
use nodemesh_e2e::{
    eventually::eventually,
    flow_bed::{DROP, Family, FlowBed, REDIRECT},
    frame::{Frame, flag},
};

const TCP: u8 = 6;
const UDP: u8 = 17;

fn bed(family: Family, rows: u32) -> FlowBed {
    let mut bed = FlowBed::start(rows).unwrap();
    bed.backend(0, family.remote(11), 0).unwrap();
    bed.backend(1, family.pod(), BackendFlags::RETURNS).unwrap();
    for protocol in [TCP, UDP] {
        bed.service(family.service(), protocol, FlowMode::Nat, &[0])
            .unwrap();
    }
    bed
}

/// The `number`th of many clients.
fn client(family: Family, number: u32) -> SocketAddr {
    let [_, a, b, c] = number.to_be_bytes();
    let addr: IpAddr = match family {
        Family::V4 => [172, 16 + a, b, c].into(),
        Family::V6 => [
            0xfd00,
            0,
            0,
            0,
            0,
            0,
            (number >> 16) as u16,
            number as u16 | 0x8000,
        ]
        .into(),
    };
    SocketAddr::new(addr, 4_000)
}

fn syn(family: Family, number: u32) -> Frame {
    Frame::tcp(client(family, number), family.service(), flag::SYN)
}

/// Opens a flow of a client's and takes it to the end of its handshake.
fn establish(bed: &FlowBed, family: Family, number: u32) -> SocketAddr {
    let ran = bed.ingress(&syn(family, number));
    assert_eq!(ran.verdict, REDIRECT, "client {number}");
    let nat = ran.seen().src;
    bed.ingress(&Frame::tcp(family.remote(11), nat, flag::SYN | flag::ACK));
    bed.ingress(&Frame::tcp(client(family, number), family.service(), flag::ACK));
    nat
}

fn states(bed: &mut FlowBed) -> Vec<FlowState> {
    bed.tracks()
        .unwrap()
        .iter()
        .map(|track| track.life().state())
        .collect()
}

/// Sweeps, and says how many flows are left.
fn sweep(bed: &mut FlowBed) -> usize {
    bed.sweep().unwrap();
    bed.tracks().unwrap().len()
}

#[test]
fn a_connection_is_followed_from_syn_to_time_wait() {
    for family in Family::BOTH {
        let mut bed = bed(family, 64);
        let (client, service, backend) = (client(family, 1), family.service(), family.remote(11));
        let nat = establish(&bed, family, 1);
        assert_eq!(states(&mut bed), [FlowState::Established]);
        assert_eq!(
            bed.backend_state(0).unwrap().connect_buckets.iter().sum::<u64>(),
            1
        );
        bed.ingress(&Frame::tcp(client, service, flag::FIN | flag::ACK));
        assert_eq!(states(&mut bed), [FlowState::HalfClosed]);
        bed.ingress(&Frame::tcp(backend, nat, flag::ACK));
        bed.ingress(&Frame::tcp(backend, nat, flag::FIN | flag::ACK));
        assert_eq!(states(&mut bed), [FlowState::LastAck]);
        bed.ingress(&Frame::tcp(client, service, flag::ACK));
        assert_eq!(states(&mut bed), [FlowState::TimeWait]);
        let state = bed.backend_state(0).unwrap();
        assert_eq!(
            (state.active, state.load, state.closed),
            (0, 0, 1),
            "the backend is free of it"
        );
        // The client uses the port again.
        bed.ingress(&Frame::tcp(client, service, flag::SYN));
        assert_eq!(states(&mut bed), [FlowState::SynSent]);
        assert_eq!(bed.count(FlowEvent::Reopened).unwrap(), 1);
        bed.ingress(&Frame::tcp(client, service, flag::RST));
        assert_eq!(states(&mut bed), [FlowState::Reset]);
        let state = bed.backend_state(0).unwrap();
        assert_eq!((state.opened, state.active, state.closed), (2, 0, 1));
        let aborted = nodemesh_abi::ConnectFailure::Aborted as usize;
        assert_eq!((state.load, state.failed[aborted]), (0, 1));
    }
}

#[test]
fn a_port_that_only_rests_after_a_flow_is_used_when_none_is_free() {
    for family in Family::BOTH {
        let mut bed = bed(family, 64);
        let settings = bed.settings().unwrap();
        bed.set_settings(&FlowSettings {
            nat_first: 20_000,
            nat_last: 20_003,
            ..settings
        })
        .unwrap();
        for number in 0..4 {
            establish(&bed, family, number);
        }
        assert_eq!(bed.ingress(&syn(family, 4)).verdict, DROP, "all are in use");
        let reset = Frame::tcp(client(family, 0), family.service(), flag::RST);
        assert_eq!(bed.ingress(&reset).verdict, REDIRECT);
        establish(&bed, family, 4);
        assert_eq!(bed.ingress(&syn(family, 5)).verdict, DROP, "all are in use again");
        let ports: HashSet<u16> = bed
            .tracks()
            .unwrap()
            .iter()
            .map(|track| track.nat_port.get())
            .collect();
        assert_eq!(ports, (20_000..=20_003).collect());
        assert_eq!(bed.backend_state(0).unwrap().active, 4);
    }
}

#[test]
fn no_two_flows_have_the_same_port_toward_one_backend() {
    for (family, protocol) in [(Family::V4, TCP), (Family::V6, UDP)] {
        let mut bed = bed(family, 2_048);
        let settings = bed.settings().unwrap();
        bed.set_settings(&FlowSettings {
            nat_first: 20_000,
            nat_last: 20_999,
            ..settings
        })
        .unwrap();
        let mut refused = 0;
        for number in 0..1_100 {
            let frame = if protocol == TCP {
                syn(family, number)
            } else {
                Frame::udp(client(family, number), family.service())
            };
            refused += u32::from(bed.ingress(&frame).verdict == DROP);
        }
        let tracks = bed.tracks().unwrap();
        let replies: HashSet<Tuple> = tracks.iter().map(Track::reply).collect();
        assert_eq!(replies.len(), tracks.len());
        assert!(
            tracks
                .iter()
                .all(|track| (20_000..=20_999).contains(&track.nat_port.get()))
        );
        // Toward one backend there are a thousand; with few of them left, a try may miss those.
        assert!(tracks.len() <= 1_000 && tracks.len() > 900, "{}", tracks.len());
        assert_eq!(tracks.len() as u32 + refused, 1_100);
        assert_eq!(bed.count(FlowEvent::NoPort).unwrap(), u64::from(refused));
        let state = bed.backend_state(0).unwrap();
        assert_eq!(
            state.active,
            tracks.len() as u64,
            "what was refused is not counted"
        );
        // Another backend has all of its own.
        bed.backend(0, family.remote(12), 0).unwrap();
        let fresh = if protocol == TCP {
            syn(family, 5_000)
        } else {
            Frame::udp(client(family, 5_000), family.service())
        };
        assert_eq!(bed.ingress(&fresh).verdict, REDIRECT);
    }
}

#[test]
fn two_services_on_one_local_backend_do_not_mix_one_client_up() {
    for family in Family::BOTH {
        let mut bed = bed(family, 64);
        let other = SocketAddr::new(family.service().ip(), 81);
        for service in [family.service(), other] {
            bed.service(service, TCP, FlowMode::Nat, &[1]).unwrap();
        }
        let client = client(family, 1);
        let first = bed
            .ingress(&Frame::tcp(client, family.service(), flag::SYN))
            .seen();
        let second = bed.ingress(&Frame::tcp(client, other, flag::SYN)).seen();
        assert_eq!((first.src, second.src.ip()), (client, client.ip()));
        assert_ne!(second.src.port(), client.port());
        let answer = |seen_src| Frame::tcp(family.pod(), seen_src, flag::SYN | flag::ACK);
        let first = bed.egress(&answer(first.src)).seen();
        let second = bed.egress(&answer(second.src)).seen();
        assert_eq!((first.src, first.dst), (family.service(), client));
        assert_eq!((second.src, second.dst), (other, client));
    }
}

#[test]
fn a_flood_of_syns_makes_no_established_flow_go() {
    for family in Family::BOTH {
        const ROWS: u32 = 512;
        let mut bed = bed(family, ROWS);
        for number in 0..ROWS / 2 {
            establish(&bed, family, number);
        }
        for number in 1_000..1_000 + 4 * ROWS {
            let ran = bed.ingress(&syn(family, number));
            // A search that finds nothing to evict refuses the new one.
            assert!(ran.verdict == REDIRECT || ran.verdict == DROP);
        }
        let tracks = bed.tracks().unwrap();
        let kept = tracks
            .iter()
            .filter(|track| track.life().state() == FlowState::Established);
        assert_eq!(kept.count() as u32, ROWS / 2);
        assert_eq!(tracks.len() as u32, ROWS);
        assert_eq!(bed.state().unwrap().entries, u64::from(ROWS));
        let evicted = bed.count(FlowEvent::Evicted).unwrap();
        assert!(evicted > u64::from(3 * ROWS), "{evicted}");
        // A client that means it is let in all the same, and answers find their way.
        let number = (5_000..5_010).find(|number| bed.ingress(&syn(family, *number)).verdict == REDIRECT);
        establish(&bed, family, number.unwrap());
        assert_eq!(bed.backend_state(0).unwrap().active, u64::from(ROWS));
        assert!(bed.source(client(family, 1_001).ip()).unwrap().opened == 1);
    }
}

#[test]
fn a_table_full_of_established_flows_refuses_new_ones_and_cuts_none() {
    for family in Family::BOTH {
        const ROWS: u32 = 128;
        let mut bed = bed(family, ROWS);
        for number in 0..ROWS {
            establish(&bed, family, number);
        }
        assert_eq!(bed.ingress(&syn(family, 9_999)).verdict, DROP);
        assert_eq!(bed.count(FlowEvent::TableFull).unwrap(), 1);
        assert_eq!(bed.source(client(family, 9_999).ip()).unwrap().refused, 1);
        for number in 0..ROWS {
            let ran = bed.ingress(&Frame::tcp(client(family, number), family.service(), flag::ACK));
            assert_eq!(ran.verdict, REDIRECT);
        }
        assert_eq!(bed.backend_state(0).unwrap().active, u64::from(ROWS));
    }
}

#[test]
fn flows_end_when_nothing_comes_and_every_count_returns_to_zero() {
    for family in Family::BOTH {
        let mut bed = bed(family, 256);
        for number in 0..100 {
            establish(&bed, family, number);
            bed.ingress(&syn(family, 1_000 + number));
            bed.ingress(&Frame::udp(client(family, number), family.service()));
        }
        let settings = bed.settings().unwrap();
        assert_eq!(bed.tracks().unwrap().len(), 256, "the last had to make others go");
        bed.sweep().unwrap();
        assert_eq!(bed.state().unwrap().entries, 256, "nobody's time is over");
        // All but established flows.
        let mut timeouts_s = [0; 11];
        timeouts_s[FlowState::Established as usize] = 1_000;
        bed.set_settings(&FlowSettings {
            timeouts_s,
            ..settings
        })
        .unwrap();
        eventually("the others have ended", || sweep(&mut bed), |left| *left == 100);
        assert!(
            states(&mut bed)
                .iter()
                .all(|state| *state == FlowState::Established)
        );
        bed.set_settings(&FlowSettings {
            timeouts_s: [0; 11],
            ..settings
        })
        .unwrap();
        eventually("all have ended", || sweep(&mut bed), |left| *left == 0);
        bed.set_settings(&settings).unwrap();
        let state = bed.backend_state(0).unwrap();
        assert_eq!((state.active, state.load), (0, 0));
        assert_eq!(state.opened, state.closed + state.failed.iter().sum::<u64>());
        assert_eq!(bed.state().unwrap().entries, 0);
        let ended = [
            FlowEvent::Closed,
            FlowEvent::Expired,
            FlowEvent::Evicted,
            FlowEvent::Reopened,
        ];
        let ended: u64 = ended.map(|event| bed.count(event).unwrap()).iter().sum();
        assert_eq!(bed.count(FlowEvent::Opened).unwrap(), ended);
        // The rows serve again, and the index has forgotten what was there.
        let sets = bed.index().unwrap();
        assert!(sets.iter().all(|set| set.spilled == 0 && set.entries == [0; 7]));
        for number in 0..256 {
            let ran = bed.ingress(&syn(family, 20_000 + number));
            assert_eq!(ran.verdict, REDIRECT, "{number}");
        }
    }
}

#[test]
fn a_flow_whose_beginning_was_not_seen_is_picked_up() {
    for family in Family::BOTH {
        let mut bed = bed(family, 64);
        let ran = bed.ingress(&Frame::tcp(client(family, 1), family.service(), flag::ACK));
        assert_eq!(ran.verdict, REDIRECT);
        assert_eq!(states(&mut bed), [FlowState::PickedUp]);
        bed.ingress(&Frame::tcp(family.remote(11), ran.seen().src, flag::ACK));
        assert_eq!(states(&mut bed), [FlowState::Established]);
    }
}

#[test]
fn a_backend_that_refuses_is_ejected_by_what_the_path_sees() {
    for family in Family::BOTH {
        let mut bed = bed(family, 64);
        bed.backend(2, family.remote(12), 0).unwrap();
        bed.service(family.service(), TCP, FlowMode::Nat, &[0, 2])
            .unwrap();
        bed.rules(&nodemesh_abi::Rules {
            connect_failures: 3,
            eject_ns: 3_600_000_000_000,
            eject_max_ns: 3_600_000_000_000,
            eject_percent: 50,
            ..Default::default()
        })
        .unwrap();
        for number in 0..40 {
            let seen = bed.ingress(&syn(family, number)).seen();
            if seen.dst == family.remote(11) {
                bed.ingress(&Frame::tcp(family.remote(11), seen.src, flag::RST | flag::ACK));
            }
        }
        let state = bed.backend_state(0).unwrap();
        assert_ne!(state.ejected_until_ns, 0);
        let refused = nodemesh_abi::ConnectFailure::Refused as usize;
        assert_eq!((state.active, state.failed[refused]), (0, state.opened));
        for number in 100..140 {
            assert_eq!(bed.ingress(&syn(family, number)).seen().dst, family.remote(12));
        }
    }
}
