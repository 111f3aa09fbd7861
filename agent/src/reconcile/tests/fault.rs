// SPDX-License-Identifier: Apache-2.0
//! Writes that fail: the others are done, the next round repairs, and the end is that of a faultless run.

use nodemesh_abi::Algorithm;

use super::{
    Node,
    kernel::{Fault, Op},
    mesh::{Mesh, key, name, three},
};

/// Changes of [`three`] that together use every kind of write.
pub(super) fn changes() -> Vec<(&'static str, Mesh)> {
    let maglev = |frontend: &mut nodemesh_model::Frontend| {
        frontend.algorithm = Algorithm::Maglev;
        frontend.table_size = Some(11);
    };
    vec![
        (
            "weight",
            three().edit("a", |frontend| frontend.backends[0].weight = 5),
        ),
        ("backends", three().backends("a", &[2, 7, 8]).backends("c", &[9])),
        ("swap", three().moved("a", 2).moved("b", 1)),
        (
            "rename",
            three()
                .without("a")
                .without("c")
                .with("d", 1, &[1, 9])
                .with("e", 3, &[]),
        ),
        (
            "rotate",
            three()
                .moved("a", 3)
                .moved("b", 1)
                .moved("c", 2)
                .backends("b", &[1]),
        ),
        ("delete", three().without("a").without("c")),
        (
            "replace",
            Mesh::default()
                .with("x", 2, &[4])
                .with("y", 9, &[1, 2])
                .with("z", 1, &[]),
        ),
        ("maglev", three().edit("a", maglev).edit("c", maglev)),
    ]
}

/// A node that does [`three`], with a socket on each of two backends.
pub(super) fn busy_node() -> Node {
    let mut node = Node::with(&three().desired());
    node.kernel.connect(key(1), 0).unwrap();
    node.kernel.connect(key(2), u32::MAX).unwrap();
    node
}

#[test]
fn any_single_failure_is_repaired_by_the_next_round() {
    for (change, mesh) in changes() {
        let desired = mesh.desired();
        for nth in 0.. {
            let mut node = busy_node();
            node.kernel.fail(Fault::Nth(nth));
            let round = node.round(&desired);
            if node.kernel.tried() <= nth {
                assert!(nth > 0, "{change} writes nothing");
                break;
            }
            for frontend in desired
                .frontends
                .keys()
                .filter(|name| !round.failures.contains_key(name))
            {
                node.assert_frontend(&desired, frontend);
            }
            // A batch of tables that was refused was tried again, table by table: then there is nothing to repair.
            node.sweep();
            node.reconcile(&desired);
            node.assert_done(&desired);
            node.settle(&desired);
        }
    }
}

#[test]
fn a_failure_for_good_harms_only_its_own_frontend() {
    let desired = three().backends("a", &[1, 7]).backends("b", &[4, 8]).desired();
    let mut node = busy_node();
    node.kernel.fail(Fault::Each(|op| op == Op::SwapTable(0)));
    for _ in 0..3 {
        let round = node.round(&desired);
        assert_eq!(round.failures.keys().collect::<Vec<_>>(), [&name("a")]);
        node.assert_frontend(&desired, &name("b"));
        node.sweep();
        assert!(
            node.kernel.connect(key(1), 0).is_some(),
            "the former table of `a` is in use"
        );
    }
    node.settle(&desired);
}

#[test]
fn an_address_that_cannot_be_deleted_keeps_its_service_id() {
    let mut node = busy_node();
    node.kernel
        .fail(Fault::Each(|op| matches!(op, Op::DeleteService(_))));
    let without = three().without("c");
    assert_eq!(node.round(&without.desired()).left_over.len(), 1);
    // A new service must not get the id that the row of `c` still names.
    let mesh = without.with("d", 4, &[7]);
    assert_eq!(node.round(&mesh.desired()).left_over.len(), 1);
    assert!(
        node.kernel.connect(key(3), 0).is_none(),
        "the address of `c` leads to `d`"
    );
    node.kernel.fault = None;
    node.reconcile(&mesh.desired());
    node.assert_done(&mesh.desired());
    node.settle(&mesh.desired());
}

#[test]
fn an_address_whose_new_owner_cannot_be_written_stays_with_the_old_one() {
    let mut node = busy_node();
    // The new service gets the first free service id.
    node.kernel.fail(Fault::Each(|op| op == Op::SwapTable(3)));
    let mesh = three().without("a").with("d", 1, &[7]);
    assert_eq!(node.round(&mesh.desired()).failures.len(), 1);
    node.sweep();
    assert!(
        node.kernel.connect(key(1), 0).is_some_and(|id| id < 3),
        "the backends of `a` serve on"
    );
    node.settle(&mesh.desired());
}

#[test]
fn a_frontend_that_was_never_written_can_be_taken_back() {
    let mut node = Node::with(&three().desired());
    let more = three().with("d", 4, &[7, 8]);
    for nth in 0..6 {
        node.kernel.fail(Fault::Nth(nth));
        node.round(&more.desired());
        node.kernel.fault = None;
        node.round(&three().desired());
        node.settle(&three().desired());
    }
}
