// SPDX-License-Identifier: Apache-2.0
//! Too little room: who does not fit is named and keeps its backends, everybody else is served.

use nodemesh_abi::names::map;

use super::{
    Node,
    kernel::{Fault, Op},
    mesh::{Mesh, key, name},
};
use crate::reconcile::plan::Rejected;

fn rejected(service: &str, map: &'static str, capacity: u32) -> Rejected {
    Rejected {
        frontend: name(service),
        map,
        capacity,
    }
}

#[test]
fn a_service_too_many_is_named_and_comes_when_another_goes() {
    let mut node = Node::new(2, 8);
    let mesh = Mesh::default()
        .with("a", 1, &[1])
        .with("b", 2, &[2])
        .with("c", 3, &[3]);
    let round = node.round(&mesh.desired());
    assert_eq!(round.rejected, [rejected("c", map::SERVICES, 2)]);
    node.assert_done(&mesh.clone().without("c").desired());
    // Nothing keeps the ids of `a`: the round in which it goes has room for `c`.
    let mesh = mesh.without("a");
    node.reconcile(&mesh.desired());
    node.settle(&mesh.desired());
}

#[test]
fn a_service_waits_while_sockets_keep_the_id_that_it_needs() {
    let mut node = Node::new(1, 8);
    node.reconcile(&Mesh::default().with("a", 1, &[1]).desired());
    node.kernel.connect(key(1), 0).unwrap();
    let mesh = Mesh::default().with("b", 1, &[2]);
    assert_eq!(
        node.round(&mesh.desired()).rejected,
        [rejected("b", map::SERVICES, 1)]
    );
    assert!(
        node.kernel.services.is_empty(),
        "an address that nobody serves is not left behind"
    );
    node.kernel.close_all();
    node.reconcile(&mesh.desired());
    node.settle(&mesh.desired());
}

#[test]
fn a_backend_too_many_leaves_its_service_the_backends_it_had() {
    let mut node = Node::new(4, 4);
    let mesh = Mesh::default().with("a", 1, &[1, 2]).with("b", 2, &[3]);
    node.reconcile(&mesh.desired());
    let grown = mesh
        .clone()
        .backends("a", &[1, 4, 5, 6])
        .edit("b", |frontend| frontend.backends[0].weight = 9);
    let round = node.round(&grown.desired());
    assert_eq!(round.rejected, [rejected("a", map::BACKENDS, 4)]);
    node.assert_done(
        &mesh
            .edit("b", |frontend| frontend.backends[0].weight = 9)
            .desired(),
    );
    let shrunk = grown.without("b").backends("a", &[1, 4, 5]);
    node.reconcile(&shrunk.desired());
    node.settle(&shrunk.desired());
}

#[test]
fn a_rejected_frontend_takes_no_id_and_wakes_no_retired_backend() {
    let mut node = Node::new(2, 3);
    let mesh = Mesh::default().with("a", 1, &[1, 2]);
    node.reconcile(&mesh.desired());
    node.kernel.connect(key(1), 0).unwrap();
    let mesh = mesh.backends("a", &[2]);
    node.reconcile(&mesh.desired());
    let used = node.ledger.usage();
    // 1 would be revived and 3 gets the last id before 4 finds none.
    let round = node.round(
        &mesh
            .clone()
            .backends("a", &[1, 2, 3, 4])
            .with("b", 2, &[5, 6])
            .desired(),
    );
    assert_eq!(round.rejected.len(), 2);
    assert_eq!(node.ledger.usage(), used);
    assert_eq!(node.ledger.retired().len(), 1);
    node.assert_done(&mesh.desired());
    node.settle(&mesh.desired());
}

#[test]
fn a_rejected_service_moves_with_the_backends_it_had() {
    let mut node = Node::new(2, 3);
    let mesh = Mesh::default().with("a", 1, &[1]).with("b", 2, &[2]);
    node.reconcile(&mesh.desired());
    let swapped = mesh.moved("a", 2).moved("b", 1);
    let grown = swapped.clone().backends("a", &[1, 3, 4, 5]);
    assert_eq!(
        node.round(&grown.desired()).rejected,
        [rejected("a", map::BACKENDS, 3)]
    );
    node.assert_done(&swapped.desired());
    node.kernel.take_log();
    assert_eq!(
        node.round(&grown.desired()).writes,
        0,
        "nothing has changed since"
    );
    let fitting = grown.without("b").backends("a", &[1, 3]);
    node.round(&fitting.desired());
    node.settle(&fitting.desired());
}

#[test]
fn backends_that_fit_in_the_end_replace_all_of_a_full_kernel() {
    let mut node = Node::new(2, 4);
    node.reconcile(
        &Mesh::default()
            .with("a", 1, &[1, 2])
            .with("b", 2, &[3, 4])
            .desired(),
    );
    node.kernel.connect(key(1), 0).unwrap();
    let mesh = Mesh::default().with("a", 1, &[5]).with("b", 2, &[6, 7]);
    node.reconcile(&mesh.desired());
    node.assert_done(&mesh.desired());
    assert_eq!(node.ledger.retired().len(), 1, "the socket's backend");
    node.settle(&mesh.desired());
}

#[test]
fn a_fallback_that_could_not_be_written_is_tried_again() {
    let mut node = Node::new(2, 3);
    node.reconcile(&Mesh::default().with("a", 1, &[1, 2, 3]).desired());
    for _ in 0..2 {
        node.kernel.connect(key(1), 0).unwrap();
        node.kernel.connect(key(1), u32::MAX).unwrap();
    }
    let mesh = Mesh::default().with("a", 1, &[2, 4, 5]);
    node.kernel.fail(Fault::Each(|op| matches!(op, Op::SwapTable(_))));
    assert_eq!(node.round(&mesh.desired()).failures.len(), 1);
    node.kernel.fault = None;
    node.kernel.close_all();
    node.reconcile(&mesh.desired());
    node.settle(&mesh.desired());
}
