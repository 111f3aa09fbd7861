// SPDX-License-Identifier: Apache-2.0
//! The door of the packet path: policy, limits, the choice of a backend and what stands against it.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use nodemesh_abi::{
    AffinityKey, AffinityValue, Algorithm, BackendFlags, BackendState, Caps, ClientKey, FlowEvent, FlowMode,
    FlowSettings, Ip16, Rate, Refusal, Rules, ServiceState, names::map,
};
use nodemesh_e2e::{
    eventually::eventually,
    flow_bed::{DROP, Family, FlowBed, REDIRECT},
    frame::{Frame, flag},
};

const TCP: u8 = 6;

fn bed(family: Family, backends: u32) -> FlowBed {
    let mut bed = FlowBed::start(256).unwrap();
    let ids: Vec<u32> = (0..backends).collect();
    for id in &ids {
        bed.backend(*id, backend(family, *id), 0).unwrap();
    }
    bed.service(family.service(), TCP, FlowMode::Nat, &ids).unwrap();
    bed
}

fn backend(family: Family, id: u32) -> SocketAddr {
    family.remote(10 + id as u8)
}

fn syn(family: Family, port: u16) -> Frame {
    Frame::tcp(family.client(port), family.service(), flag::SYN)
}

/// Asserts that a frame is dropped for `event`, opens nothing and leaves nothing counted on backend 0.
#[track_caller]
fn assert_refused(bed: &mut FlowBed, frame: &Frame, event: FlowEvent) {
    let before = (
        bed.count(event).unwrap(),
        bed.state().unwrap().entries,
        bed.backend_state(0).unwrap().active,
    );
    assert_eq!(bed.ingress(frame).verdict, DROP, "{event:?}");
    let after = (
        bed.count(event).unwrap(),
        bed.state().unwrap().entries,
        bed.backend_state(0).unwrap().active,
    );
    assert_eq!(after, (before.0 + 1, before.1, before.2), "{event:?}");
}

#[test]
fn the_policy_decides_by_the_source_and_never_fails_open() {
    for family in Family::BOTH {
        let mut bed = bed(family, 1);
        let with_policy = |bed: &mut FlowBed, policy: u32| {
            let row = |service: &mut nodemesh_abi::Service| service.policy = policy;
            bed.service_with(family.service(), TCP, FlowMode::Nat, &[0], row)
                .unwrap();
        };
        // A policy whose table is missing, and a client that is unknown to the one that is there.
        with_policy(&mut bed, 7);
        assert_refused(&mut bed, &syn(family, 1), FlowEvent::Policy);
        bed.policy(7, &[3]).unwrap();
        assert_refused(&mut bed, &syn(family, 2), FlowEvent::Policy);
        bed.identity(family.client(0).ip(), 3).unwrap();
        assert_eq!(bed.ingress(&syn(family, 3)).verdict, REDIRECT);
        bed.policy(7, &[4]).unwrap();
        assert_refused(&mut bed, &syn(family, 4), FlowEvent::Policy);
        // What was let through stays.
        assert_eq!(
            bed.ingress(&Frame::tcp(family.client(3), family.service(), flag::ACK))
                .verdict,
            REDIRECT
        );
        let state: ServiceState = bed.array(map::SERVICE_STATES).unwrap().get(&1, 0).unwrap();
        assert_eq!(state.refused[Refusal::Policy as usize], 3);
    }
}

#[test]
fn limits_hold_and_are_given_back() {
    let family = Family::V4;
    let mut bed = bed(family, 1);
    bed.rules(&Rules {
        rate: Rate::new(1, 2),
        ..Rules::default()
    })
    .unwrap();
    assert_eq!(bed.ingress(&syn(family, 1)).verdict, REDIRECT);
    assert_eq!(bed.ingress(&syn(family, 2)).verdict, REDIRECT);
    assert_refused(&mut bed, &syn(family, 3), FlowEvent::Rate);
    for caps in [
        Rules {
            caps: Caps {
                connections: 3,
                requests: 0,
            },
            ..Rules::default()
        },
        Rules {
            client_caps: Caps {
                connections: 3,
                requests: 0,
            },
            ..Rules::default()
        },
        Rules {
            backend_caps: Caps {
                connections: 3,
                requests: 0,
            },
            ..Rules::default()
        },
    ] {
        let mut bed = self::bed(family, 1);
        bed.rules(&caps).unwrap();
        for round in 0..2 {
            for port in 0..3 {
                assert_eq!(
                    bed.ingress(&syn(family, 100 + port)).verdict,
                    REDIRECT,
                    "{round} {caps:?}"
                );
            }
            assert_refused(&mut bed, &syn(family, 200), FlowEvent::Connections);
            expire_everything(&mut bed);
            assert_eq!(bed.backend_state(0).unwrap().active, 0);
        }
    }
}

/// Ends every flow, as time would.
fn expire_everything(bed: &mut FlowBed) {
    let settings = bed.settings().unwrap();
    bed.set_settings(&FlowSettings {
        timeouts_s: [0; 11],
        ..settings
    })
    .unwrap();
    let sweep = || {
        bed.sweep().unwrap();
        bed.tracks().unwrap().len()
    };
    eventually("every flow has ended", sweep, |left| *left == 0);
    bed.set_settings(&settings).unwrap();
}

#[test]
fn without_a_backend_there_is_nowhere_to_go() {
    for family in Family::BOTH {
        let mut bed = bed(family, 1);
        bed.service(family.service(), TCP, FlowMode::Nat, &[]).unwrap();
        assert_refused(&mut bed, &syn(family, 1), FlowEvent::NoBackend);
        // A backend of the other family.
        let other = if family == Family::V4 {
            Family::V6
        } else {
            Family::V4
        };
        bed.backend(0, other.remote(11), 0).unwrap();
        bed.service(family.service(), TCP, FlowMode::Nat, &[0]).unwrap();
        assert_refused(&mut bed, &syn(family, 2), FlowEvent::Family);
        // No address to translate the source to.
        bed.backend(0, family.remote(11), 0).unwrap();
        let settings = bed.settings().unwrap();
        let (nat4, nat6) = (Ip16::UNSPECIFIED, Ip16::UNSPECIFIED);
        bed.set_settings(&FlowSettings {
            nat4,
            nat6,
            ..settings
        })
        .unwrap();
        assert_refused(&mut bed, &syn(family, 3), FlowEvent::NoNatAddress);
    }
}

/// The backend of each of the client's ports.
fn backends_of(bed: &FlowBed, family: Family, ports: impl Iterator<Item = u16>) -> BTreeMap<u16, IpAddr> {
    ports
        .map(|port| (port, bed.ingress(&syn(family, port)).seen().dst.ip()))
        .collect()
}

#[test]
fn every_node_sends_a_flow_to_the_same_backend() {
    for family in Family::BOTH {
        for algorithm in [Algorithm::Random, Algorithm::RoundRobin, Algorithm::LeastRequest] {
            let nodes = [0, 1].map(|_| {
                let mut bed = bed(family, 3);
                let row = |service: &mut nodemesh_abi::Service| service.algorithm = algorithm as u8;
                bed.service_with(family.service(), TCP, FlowMode::Nat, &[0, 1, 2], row)
                    .unwrap();
                bed.slots(map::FLOW_TABLES, 1, &[0, 1, 2, 0, 1, 2, 2]).unwrap();
                // Seeds are those of each node's table alone.
                let settings = bed.settings().unwrap();
                bed.set_settings(&FlowSettings {
                    seed: std::ptr::from_ref(&bed) as u64 | 1,
                    ..settings
                })
                .unwrap();
                backends_of(&bed, family, 1_000..1_060)
            });
            assert_eq!(nodes[0], nodes[1]);
            let mut distinct: Vec<&IpAddr> = nodes[0].values().collect();
            distinct.sort();
            distinct.dedup();
            assert_eq!(distinct.len(), 3, "flows of one client are spread");
        }
        // A service that gives each client its backend does so here too.
        let bed = bed(family, 3);
        let backends = backends_of(&bed, family, 1_000..1_020);
        assert!(
            backends.values().all(|backend| *backend == backends[&1_000]),
            "{backends:?}"
        );
    }
}

#[test]
fn a_draining_or_ejected_backend_keeps_its_flows_and_gets_no_more() {
    for family in Family::BOTH {
        for ejected in [true, false] {
            let mut bed = bed(family, 2);
            bed.service(family.service(), TCP, FlowMode::Nat, &[0]).unwrap();
            let ran = bed.ingress(&syn(family, 1));
            assert_eq!(ran.seen().dst, backend(family, 0));
            if ejected {
                let state = bed.backend_state(0).unwrap();
                let state = BackendState {
                    ejected_until_ns: u64::MAX - 1,
                    ..state
                };
                bed.array(map::BACKEND_STATES).unwrap().set(0, state, 0).unwrap();
                bed.service(family.service(), TCP, FlowMode::Nat, &[0, 1])
                    .unwrap();
            } else {
                bed.service(family.service(), TCP, FlowMode::Nat, &[1]).unwrap();
            }
            for port in 2..12 {
                assert_eq!(bed.ingress(&syn(family, port)).seen().dst, backend(family, 1));
            }
            let ran = bed.ingress(&Frame::tcp(family.client(1), family.service(), flag::ACK));
            assert_eq!(ran.seen().dst, backend(family, 0));
        }
    }
}

#[test]
fn affinity_outlives_the_flow() {
    for family in Family::BOTH {
        let mut bed = bed(family, 3);
        let row = |service: &mut nodemesh_abi::Service| {
            service.algorithm = Algorithm::Random as u8;
            service.affinity_timeout_s = 60;
        };
        bed.service_with(family.service(), TCP, FlowMode::Nat, &[0, 1, 2], row)
            .unwrap();
        let first = bed.ingress(&syn(family, 1)).seen().dst;
        let id = (0..3).find(|id| backend(family, *id) == first).unwrap();
        // The table is another one by now, but the backend is available still.
        let other = [(id + 1) % 3];
        bed.service_with(family.service(), TCP, FlowMode::Nat, &other, row)
            .unwrap();
        assert_eq!(bed.ingress(&syn(family, 2)).seen().dst, first);
        let key = AffinityKey {
            client: ClientKey::address(Ip16::from(family.client(0).ip())),
            service: 1,
            pad: 0,
        };
        let value: AffinityValue = bed.hash(map::AFFINITY).unwrap().get(&key, 0).unwrap();
        assert_eq!(value.backend, id);
    }
}

#[test]
fn the_path_s_own_table_goes_before_the_service_s() {
    let family = Family::V4;
    let mut bed = bed(family, 3);
    bed.service(family.service(), TCP, FlowMode::Nat, &[0]).unwrap();
    bed.slots(map::FLOW_TABLES, 1, &[1, 2]).unwrap();
    let state = bed.backend_state(1).unwrap();
    let ejected = BackendState {
        ejected_until_ns: u64::MAX - 1,
        ..state
    };
    bed.array(map::BACKEND_STATES)
        .unwrap()
        .set(1, ejected, 0)
        .unwrap();
    assert_eq!(bed.ingress(&syn(family, 1)).seen().dst, backend(family, 2));
    // Better an ejected one than none.
    bed.slots(map::FLOW_TABLES, 1, &[1]).unwrap();
    assert_eq!(bed.ingress(&syn(family, 2)).seen().dst, backend(family, 1));
    bed.slots(map::FLOW_TABLES, 1, &[]).unwrap();
    assert_refused(&mut bed, &syn(family, 3), FlowEvent::NoBackend);
}

#[test]
fn a_local_backend_of_a_tier_is_taken_when_the_first_has_none() {
    let family = Family::V4;
    let mut bed = bed(family, 1);
    bed.backend(1, family.pod(), BackendFlags::RETURNS).unwrap();
    let row = |service: &mut nodemesh_abi::Service| service.tiers = 1;
    bed.service_with(family.service(), TCP, FlowMode::Nat, &[], row)
        .unwrap();
    bed.slots(map::TIER_TABLES, nodemesh_abi::service::tier_table(1, 1), &[1])
        .unwrap();
    assert_eq!(bed.ingress(&syn(family, 1)).seen().dst, family.pod());
}
