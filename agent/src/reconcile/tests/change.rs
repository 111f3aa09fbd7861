// SPDX-License-Identifier: Apache-2.0
//! What a change of the configuration costs and comes to, without faults.

use nodemesh_abi::Algorithm;
use nodemesh_model::BackendState;

use super::{
    Assigned, Node,
    kernel::Op,
    mesh::{Mesh, key, name, three},
};

#[test]
fn a_first_configuration_fills_an_empty_kernel() {
    let desired = three().desired();
    let node = Node::with(&desired);
    node.assert_nothing_else(&desired);
}

#[test]
fn what_has_not_changed_is_not_written() {
    let mesh = three();
    let mut node = Node::with(&mesh.desired());
    assert!(node.ledger.plan(&mesh.desired(), &Assigned::default()).is_empty());
    node.kernel.take_log();
    assert_eq!(node.reconcile(&mesh.desired()).writes, 0);
    assert_eq!(node.kernel.take_log(), []);
}

#[test]
fn an_equal_configuration_of_other_allocations_is_not_written() {
    let mut node = Node::with(&three().desired());
    node.kernel.take_log();
    node.reconcile(&three().desired());
    assert_eq!(node.kernel.take_log(), []);
}

#[test]
fn a_new_weight_is_one_backend_and_one_table() {
    let mesh = three();
    let mut node = Node::with(&mesh.desired());
    node.kernel.take_log();
    let mesh = mesh.edit("b", |frontend| frontend.backends[1].weight = 7);
    node.reconcile(&mesh.desired());
    assert_eq!(node.kernel.take_log(), [Op::PutBackend(4), Op::SwapTable(1)]);
    node.assert_done(&mesh.desired());
}

#[test]
fn a_backend_that_drains_keeps_its_row_and_leaves_the_table() {
    let mesh = three();
    let mut node = Node::with(&mesh.desired());
    let mesh = mesh.edit("a", |frontend| {
        frontend.backends[0].state = BackendState::Draining;
    });
    node.reconcile(&mesh.desired());
    node.assert_done(&mesh.desired());
    let table = &node.kernel.tables[&0];
    assert!(table.iter().all(|slot| slot.backend != 0 && slot.alias != 0));
    assert!(
        node.ledger.retired().is_empty(),
        "a draining backend is configured"
    );
}

#[test]
fn new_settings_are_one_table_and_one_service() {
    let mesh = three();
    let mut node = Node::with(&mesh.desired());
    node.kernel.take_log();
    let mesh = mesh.edit("a", |frontend| {
        frontend.algorithm = Algorithm::Maglev;
        frontend.table_size = Some(7);
    });
    node.reconcile(&mesh.desired());
    assert_eq!(node.kernel.take_log(), [Op::SwapTable(0), Op::PutService(key(1))]);
    node.assert_done(&mesh.desired());
    assert_eq!(node.kernel.tables[&0].len(), 7);
}

#[test]
fn services_that_swap_addresses_swap_them() {
    let mesh = three();
    let mut node = Node::with(&mesh.desired());
    node.kernel.take_log();
    let mesh = mesh.moved("a", 2).moved("b", 1);
    node.reconcile(&mesh.desired());
    let log = node.kernel.take_log();
    assert!(
        !log.iter()
            .any(|op| matches!(op, Op::DeleteService(_) | Op::PutBackend(_))),
        "{log:?}"
    );
    node.assert_done(&mesh.desired());
}

#[test]
fn addresses_rotate_among_three_services_and_a_new_one() {
    let mesh = three();
    let mut node = Node::with(&mesh.desired());
    let mesh = mesh.moved("a", 2).moved("b", 3).moved("c", 4).with("d", 1, &[9]);
    node.reconcile(&mesh.desired());
    node.assert_done(&mesh.desired());
}

#[test]
fn a_service_moves_and_leaves_no_address_behind() {
    let mesh = three();
    let mut node = Node::with(&mesh.desired());
    let mesh = mesh.moved("a", 9);
    node.reconcile(&mesh.desired());
    node.assert_done(&mesh.desired());
    assert!(node.kernel.connect(key(1), 0).is_none());
}

/// The one that goes and the one that comes have no backends: nothing but the order of writes keeps their ids apart.
#[test]
fn a_renamed_service_without_backends_gets_a_table_of_its_own() {
    let mesh = Mesh::default().with("b", 1, &[]);
    let mut node = Node::with(&mesh.desired());
    let mesh = mesh.without("b").with("a", 1, &[1]);
    node.reconcile(&mesh.desired());
    node.assert_done(&mesh.desired());
    assert!(node.kernel.connect(key(1), 0).is_some());
    node.settle(&mesh.desired());
}

#[test]
fn a_service_that_is_deleted_leaves_nothing() {
    let mesh = three();
    let mut node = Node::with(&mesh.desired());
    let mesh = mesh.without("a");
    node.reconcile(&mesh.desired());
    node.assert_done(&mesh.desired());
    assert!(!node.ledger.programmed.contains_key(&name("a")));
    node.settle(&mesh.desired());
    node.settle(&Mesh::default().desired());
}

#[test]
fn a_service_that_comes_back_is_new() {
    let (with, without) = (three(), three().without("a"));
    let mut node = Node::with(&with.desired());
    let socket = node.kernel.connect(key(1), 0).unwrap();
    node.reconcile(&without.desired());
    node.reconcile(&with.desired());
    node.assert_done(&with.desired());
    let ids: Vec<u32> = node.ledger.programmed[&name("a")]
        .backends
        .iter()
        .map(|backend| backend.id)
        .collect();
    assert!(
        !ids.contains(&socket),
        "the id of a socket's backend was given to a backend of another service id"
    );
    node.settle(&with.desired());
}
