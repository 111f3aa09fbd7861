// SPDX-License-Identifier: Apache-2.0
//! The life of ids: they stay with a backend until its last socket is closed.

use nodemesh_model::{BackendState, Frontend};

use super::{
    Node,
    kernel::{Fault, Op},
    mesh::{Mesh, key, name},
};
use crate::reconcile::{admission::Assigned, round};

fn one() -> Mesh {
    Mesh::default().with("a", 1, &[1, 2])
}

/// Ids of the backends of `a`.
fn ids(node: &Node) -> Vec<u32> {
    node.ledger.programmed[&name("a")]
        .backends
        .iter()
        .map(|backend| backend.id)
        .collect()
}

#[test]
fn a_backend_with_sockets_stays_retired_until_the_last_is_closed() {
    let mut node = Node::with(&one().desired());
    assert_eq!(node.kernel.connect(key(1), 0), Some(0));
    assert_eq!(node.kernel.connect(key(1), 0), Some(0));
    node.reconcile(&one().backends("a", &[2]).desired());
    node.kernel.close(0);
    assert_eq!(node.sweep(), 0);
    // More backends than there were: the retired one's id must not be among theirs.
    node.reconcile(&one().backends("a", &[2, 3, 4]).desired());
    assert_eq!(ids(&node), [1, 2, 3]);
    node.kernel.close(0);
    assert_eq!(node.sweep(), 1);
    node.reconcile(&one().backends("a", &[2, 3, 4, 5]).desired());
    assert_eq!(ids(&node), [1, 2, 3, 0]);
}

#[test]
fn a_backend_that_comes_back_keeps_id_and_counters() {
    let mut node = Node::with(&one().desired());
    node.kernel.connect(key(1), 0).unwrap();
    node.reconcile(&one().backends("a", &[2]).desired());
    assert_eq!(
        node.kernel.backends[0].flags, 0,
        "affinity still leads to the retired backend"
    );
    let generation = node.kernel.backends[0].generation;
    node.sweep();
    node.reconcile(&one().desired());
    assert_eq!(ids(&node), [0, 1]);
    assert_eq!(
        (node.kernel.opened[0], node.kernel.backends[0].generation),
        (1, generation)
    );
    assert!(node.ledger.retired().is_empty());
    node.settle(&one().desired());
}

#[test]
fn a_backend_that_comes_back_starts_anew() {
    let mut node = Node::with(&one().desired());
    let at = |node: &mut Node, now_ns: u64, mesh: Mesh| {
        let mut assigned = Assigned::default();
        assigned.now_ns = now_ns;
        let round = round::run(&mut node.ledger, &mesh.desired(), &assigned, &mut node.kernel);
        assert!(!round.is_unfinished(), "{round:?}");
        [0, 1].map(|id| node.kernel.backends[id].since_ns)
    };
    node.kernel.connect(key(1), 0).unwrap();
    at(&mut node, 5, one().backends("a", &[2]));
    assert_eq!(
        at(&mut node, 7, one()),
        [7, 0],
        "it was retired, the other one was not"
    );
    assert_eq!(at(&mut node, 9, one()), [7, 0]);
    let drains = |frontend: &mut Frontend| frontend.backends[1].state = BackendState::Draining;
    assert_eq!(at(&mut node, 11, one().edit("a", drains)), [7, 0]);
    assert_eq!(at(&mut node, 13, one()), [7, 13], "it drained");
}

#[test]
fn an_id_that_is_used_anew_has_another_generation_and_counts_from_zero() {
    let mut node = Node::with(&one().desired());
    node.kernel.connect(key(1), 0).unwrap();
    let generation = node.kernel.backends[0].generation;
    node.kernel.close_all();
    node.reconcile(&one().backends("a", &[2]).desired());
    assert_eq!(node.sweep(), 1);
    node.reconcile(&one().backends("a", &[2, 9]).desired());
    assert_eq!(ids(&node), [1, 0]);
    assert_ne!(node.kernel.backends[0].generation, generation);
    assert_eq!(node.kernel.opened[0], 0);
}

#[test]
fn counters_start_from_zero_also_when_the_first_attempt_failed() {
    let mut node = Node::with(&one().desired());
    node.kernel.connect(key(1), 0).unwrap();
    node.settle(&Mesh::default().desired());
    assert_eq!((node.kernel.opened[0], node.kernel.picks[&0]), (1, 1));
    for failing in [
        (|op| matches!(op, Op::ResetBackend(_))) as fn(Op) -> bool,
        |op| matches!(op, Op::PutBackend(_)),
        |op| matches!(op, Op::ResetService(_)),
        |op| matches!(op, Op::SwapTable(_)),
    ] {
        node.kernel.fail(Fault::Each(failing));
        assert_eq!(node.round(&one().desired()).failures.len(), 1);
    }
    node.kernel.fault = None;
    node.reconcile(&one().desired());
    assert_eq!((node.kernel.opened[0], node.kernel.picks.get(&0)), (0, None));
}

#[test]
fn a_service_id_waits_for_the_sockets_of_its_backends() {
    let mut node = Node::with(&one().desired());
    node.kernel.connect(key(1), 0).unwrap();
    node.reconcile(&Mesh::default().desired());
    node.sweep();
    assert_eq!(node.ledger.usage().map(|(used, _)| used), [1, 1]);
    node.kernel.close_all();
    assert_eq!(node.sweep(), 2, "a backend and its service");
    assert_eq!(node.ledger.usage().map(|(used, _)| used), [0, 0]);
}

#[test]
fn a_backend_that_the_table_still_names_is_not_freed() {
    let mut node = Node::with(&one().desired());
    node.kernel.fail(Fault::Each(|op| matches!(op, Op::SwapTable(_))));
    let wanted = one().backends("a", &[2]).desired();
    assert_eq!(node.round(&wanted).failures.len(), 1);
    assert_eq!(node.sweep(), 0);
    assert_eq!(
        node.kernel.connect(key(1), 0),
        Some(0),
        "the former table is still in use"
    );
    node.settle(&wanted);
}

#[test]
fn a_backend_whose_row_could_not_be_changed_is_tried_again() {
    let mut node = Node::with(&one().desired());
    node.kernel.fail(Fault::Each(|op| op == Op::PutBackend(0)));
    let wanted = one().backends("a", &[2]).desired();
    assert_eq!(node.round(&wanted).failures.len(), 1);
    node.kernel.fault = None;
    node.kernel.connect(key(1), 0).unwrap();
    node.reconcile(&wanted);
    assert_eq!(node.kernel.backends[0].flags, 0);
    node.settle(&wanted);
}

#[test]
fn affinity_is_turned_away_from_a_service_that_is_gone_also_at_the_second_attempt() {
    let mut node = Node::with(&one().desired());
    node.kernel.connect(key(1), 0).unwrap();
    node.kernel.fail(Fault::Each(|op| op == Op::PutBackend(0)));
    let empty = Mesh::default().desired();
    assert_eq!(node.round(&empty).left_over.len(), 1);
    node.kernel.fault = None;
    node.reconcile(&empty);
    assert_eq!(node.kernel.backends[0].flags, 0);
    node.settle(&empty);
}

#[test]
fn a_retired_backend_is_written_once() {
    let mut node = Node::with(&Mesh::default().with("a", 1, &[1, 2, 3]).desired());
    node.kernel.connect(key(1), 0).unwrap();
    node.reconcile(&one().backends("a", &[2, 3]).desired());
    node.kernel.take_log();
    node.reconcile(&one().backends("a", &[3]).desired());
    let log = node.kernel.take_log();
    assert!(
        matches!(
            log[..],
            [Op::PutBackend(1), Op::DeleteEndpoint(_), Op::SwapTable(0)]
        ),
        "{log:?}"
    );
}
