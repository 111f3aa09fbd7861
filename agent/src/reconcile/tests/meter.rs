// SPDX-License-Identifier: Apache-2.0
//! Pairs of rows in `traffic` and the endpoints of servers: whose they are, from when to when, and after a restart.

use nodemesh_abi::{Backend, Endpoint, EndpointKey, Protocol, ServiceKey, traffic::SHARED_PAIR};

use super::{
    Node,
    kernel::{Fault, Op},
    mesh::{Mesh, backend, key, name, three},
};
use crate::reconcile::ledger::{Ledger, Room};

/// A node with room for so many metered backends.
fn node(metered: u32) -> Node {
    Node::with_room(Room {
        services: 8,
        backends: 16,
        traffic_pairs: metered + 1,
    })
}

fn one(backends: &[u8]) -> Mesh {
    Mesh::default().with("a", 1, backends)
}

/// Pairs of the backends of a service.
fn pairs(node: &Node, service: &str) -> Vec<u32> {
    let programmed = &node.ledger.programmed[&name(service)];
    programmed.backends.iter().map(|place| place.traffic).collect()
}

fn accept(node: &mut Node, number: u8) -> Option<Endpoint> {
    let backend = backend(number);
    node.kernel.accept(backend.addr, backend.port)
}

fn endpoint(number: u8) -> EndpointKey {
    let backend = backend(number);
    EndpointKey::new(backend.addr, backend.port)
}

#[test]
fn every_backend_has_a_pair_of_its_own_that_starts_from_zero() {
    let mut node = Node::with(&three().desired());
    assert_eq!(
        (pairs(&node, "a"), pairs(&node, "b")),
        (vec![1, 2, 3], vec![4, 5])
    );
    for (id, pair) in (0..5).zip(1..) {
        let log = node.kernel.take_log();
        let reset = log.iter().position(|op| *op == Op::ResetTraffic(pair));
        let put = log.iter().position(|op| *op == Op::PutBackend(id));
        assert!(reset.is_some() && reset < put, "{log:?}");
        node = Node::with(&three().desired());
    }
    assert_eq!(
        accept(&mut node, 4),
        Some(Endpoint {
            service: 1,
            backend: 3,
            traffic: 4,
            policy: 0,
        })
    );
    assert_eq!(accept(&mut node, 9), None);
}

#[test]
fn udp_backends_share_a_pair_and_are_no_endpoints() {
    let udp = one(&[1, 2]).edit("a", |frontend| {
        frontend.key = ServiceKey::new(frontend.key.addr, frontend.key.port, Protocol::Udp as u8);
    });
    let mut node = Node::with(&udp.desired());
    assert!(
        node.kernel
            .backend_rows()
            .iter()
            .all(|(_, row)| row.traffic == SHARED_PAIR)
    );
    assert!(node.kernel.endpoints.is_empty());
    node.settle(&Mesh::default().desired());
}

#[test]
fn backends_beyond_the_limit_share_until_a_pair_is_free() {
    let mut node = node(2);
    node.reconcile(&one(&[1, 2, 3, 4]).desired());
    assert_eq!(pairs(&node, "a"), [1, 2, SHARED_PAIR, SHARED_PAIR]);
    assert_eq!(accept(&mut node, 4).unwrap().traffic, SHARED_PAIR);
    node.reconcile(&one(&[2, 3, 4]).desired());
    assert_eq!(node.sweep(), 1);
    // The next change of the service gives the pair to the first that has none.
    node.reconcile(
        &one(&[2, 3, 4])
            .edit("a", |frontend| frontend.backends[0].weight = 7)
            .desired(),
    );
    assert_eq!(pairs(&node, "a"), [2, 1, SHARED_PAIR]);
    assert_eq!(accept(&mut node, 3).unwrap().traffic, 1);
    node.settle(&one(&[4]).desired());
}

#[test]
fn with_no_pairs_at_all_everyone_shares() {
    let mut node = node(0);
    node.reconcile(&three().desired());
    node.assert_done(&three().desired());
    assert_eq!(pairs(&node, "a"), [SHARED_PAIR; 3]);
    node.settle(&Mesh::default().desired());
}

#[test]
fn a_pair_waits_for_the_connections_that_its_backend_accepted() {
    let mut node = node(3);
    node.reconcile(&one(&[1, 2]).desired());
    accept(&mut node, 1).unwrap();
    node.reconcile(&one(&[2, 3]).desired());
    assert_eq!(accept(&mut node, 1), None, "it is none of the mesh any more");
    assert_eq!(node.sweep(), 0);
    assert_eq!(pairs(&node, "a"), [2, 3]);
    node.kernel.close_all();
    assert_eq!(node.sweep(), 1);
    assert_eq!(node.kernel.metered[&1], 1);
    node.reconcile(&one(&[2, 3, 4]).desired());
    assert_eq!(pairs(&node, "a"), [2, 3, 1]);
    assert_eq!(node.kernel.metered.get(&1), None, "it starts from zero");
    node.settle(&one(&[2]).desired());
}

#[test]
fn a_backend_that_comes_back_keeps_its_pair() {
    let mut node = Node::with(&one(&[1, 2]).desired());
    node.kernel.connect(key(1), 0).unwrap();
    node.reconcile(&one(&[2]).desired());
    node.reconcile(&one(&[1, 2]).desired());
    assert_eq!(pairs(&node, "a"), [1, 2]);
    assert_eq!(node.kernel.metered[&1], 1);
    node.settle(&one(&[1, 2]).desired());
}

#[test]
fn a_rejected_frontend_takes_no_pair() {
    let mut node = Node::with_room(Room {
        services: 4,
        backends: 3,
        traffic_pairs: 8,
    });
    node.reconcile(&one(&[1, 2]).desired());
    let used = node.ledger.meter_usage();
    let round = node.round(&one(&[1, 2]).with("b", 2, &[3, 4]).desired());
    assert_eq!(round.rejected.len(), 1);
    assert_eq!(node.ledger.meter_usage(), used);
    node.settle(&one(&[1]).desired());
}

#[test]
fn an_address_of_several_services_belongs_to_the_first_by_name() {
    let service = |node: &mut Node, number| accept(node, number).unwrap().service;
    let mut node = Node::with(&Mesh::default().with("b", 2, &[1]).with("c", 3, &[1]).desired());
    assert_eq!(service(&mut node, 1), 0);
    let with_a = Mesh::default()
        .with("b", 2, &[1])
        .with("c", 3, &[1])
        .with("a", 1, &[1]);
    node.reconcile(&with_a.desired());
    assert_eq!(service(&mut node, 1), 2);
    node.reconcile(&with_a.clone().without("a").without("b").desired());
    assert_eq!(service(&mut node, 1), 1);
    node.settle(&with_a.desired());
    node.settle(&Mesh::default().desired());
    assert!(node.kernel.endpoints.is_empty());
}

#[test]
fn a_restart_keeps_pairs_counters_and_endpoints() {
    let mut node = Node::with(&three().desired());
    node.kernel.connect(key(1), 0).unwrap();
    accept(&mut node, 5).unwrap();
    let before = (node.kernel.metered.clone(), pairs(&node, "b"));
    node.restart();
    node.kernel.take_log();
    node.reconcile(&three().desired());
    let log = node.kernel.take_log();
    assert!(log.iter().all(|op| matches!(op, Op::SwapTable(_))), "{log:?}");
    assert_eq!((node.kernel.metered.clone(), pairs(&node, "b")), before);
    // What the former agent had handed out is not handed out again.
    let more = three().with("d", 4, &[7]);
    node.reconcile(&more.desired());
    assert_eq!(pairs(&node, "d"), [6]);
    node.settle(&more.desired());
}

#[test]
fn a_pair_of_a_retired_backend_stays_out_over_a_restart() {
    let mut node = node(2);
    node.reconcile(&one(&[1, 2]).desired());
    accept(&mut node, 1).unwrap();
    node.reconcile(&one(&[2]).desired());
    node.restart();
    let mesh = one(&[2, 3]);
    node.reconcile(&mesh.desired());
    assert_eq!(pairs(&node, "a"), [2, SHARED_PAIR]);
    node.settle(&mesh.desired());
    let changed = mesh.edit("a", |frontend| frontend.backends[0].weight = 7);
    node.reconcile(&changed.desired());
    assert_eq!(pairs(&node, "a"), [2, 1]);
}

#[test]
fn a_pair_that_two_rows_name_is_the_first_ones() {
    let mut node = Node::with(&one(&[1, 2]).desired());
    node.kernel.backends[1].traffic = SHARED_PAIR;
    node.kernel.endpoints.get_mut(&endpoint(2)).unwrap().traffic = SHARED_PAIR;
    let rows = node.kernel.backend_rows().into_iter();
    node.ledger = Ledger::adopt(
        node.room,
        node.kernel.service_rows(),
        rows.map(|(id, row)| (id, Backend { traffic: 1, ..row })),
        node.kernel.endpoint_rows(),
    );
    node.reconcile(&one(&[1, 2]).desired());
    node.assert_done(&one(&[1, 2]).desired());
    assert_eq!(pairs(&node, "a"), [1, 2]);
}

#[test]
fn a_pair_is_zeroed_also_when_the_first_attempt_failed() {
    let mut node = node(1);
    node.reconcile(&one(&[1]).desired());
    accept(&mut node, 1).unwrap();
    node.settle(&Mesh::default().desired());
    assert_eq!(node.kernel.metered[&1], 1);
    for failing in [(|op| matches!(op, Op::ResetTraffic(_))) as fn(Op) -> bool, |op| {
        matches!(op, Op::PutBackend(_))
    }] {
        node.kernel.fail(Fault::Each(failing));
        assert_eq!(node.round(&one(&[2]).desired()).failures.len(), 1);
        assert!(
            node.kernel.endpoints.is_empty(),
            "an endpoint must not lead to what is not written"
        );
    }
    node.kernel.fault = None;
    node.reconcile(&one(&[2]).desired());
    assert_eq!((pairs(&node, "a"), node.kernel.metered.get(&1)), (vec![1], None));
    node.assert_done(&one(&[2]).desired());
}

#[test]
fn an_endpoint_that_cannot_be_written_keeps_nobody_from_being_served() {
    let mut node = node(4);
    node.kernel
        .fail(Fault::Each(|op| op == Op::PutEndpoint(endpoint(1))));
    let round = node.round(&one(&[1, 2]).desired());
    assert_eq!((round.failures.len(), round.left_over.len()), (0, 1));
    assert!(round.is_unfinished());
    assert!(node.kernel.connect(key(1), 0).is_some());
    assert!(accept(&mut node, 1).is_none() && accept(&mut node, 2).is_some());
    node.kernel.fault = None;
    node.reconcile(&one(&[1, 2]).desired());
    node.assert_done(&one(&[1, 2]).desired());
}

#[test]
fn a_backend_that_an_endpoint_still_names_is_not_freed() {
    let mut node = Node::with(&one(&[1, 2]).desired());
    node.kernel
        .fail(Fault::Each(|op| matches!(op, Op::DeleteEndpoint(_))));
    assert_eq!(node.round(&one(&[2]).desired()).left_over.len(), 1);
    assert_eq!(node.sweep(), 0);
    assert_eq!(accept(&mut node, 1).map(|endpoint| endpoint.backend), Some(0));
    node.settle(&one(&[2]).desired());
}
