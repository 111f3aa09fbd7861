// SPDX-License-Identifier: Apache-2.0
//! The agent dies, at any moment; its successor finds rows, sockets and perhaps half a change.

use nodemesh_abi::{Backend, Endpoint, EndpointKey, Ip16, Port, Service};

use super::{
    Node,
    fault::{busy_node, changes},
    kernel::{Fault, Op},
    mesh::{Mesh, key, name, three},
};
use crate::reconcile::ledger::Ledger;

#[test]
fn a_successor_with_the_same_configuration_keeps_ids_and_counters() {
    let mut node = busy_node();
    let before = node.kernel.backend_rows();
    node.restart();
    node.kernel.take_log();
    node.reconcile(&three().desired());
    let log = node.kernel.take_log();
    assert!(log.iter().all(|op| matches!(op, Op::SwapTable(_))), "{log:?}");
    assert_eq!(node.kernel.backend_rows(), before);
    assert_eq!(node.kernel.opened.iter().sum::<u64>(), 2);
    node.assert_done(&three().desired());
    node.assert_nothing_else(&three().desired());
}

#[test]
fn a_successor_with_another_configuration_cleans_up() {
    for (_, mesh) in changes() {
        let mut node = busy_node();
        node.restart();
        node.reconcile(&mesh.desired());
        node.assert_done(&mesh.desired());
        node.settle(&mesh.desired());
    }
}

#[test]
fn a_crash_after_any_write_is_recovered_from() {
    for (change, mesh) in changes() {
        for writes in 0.. {
            let mut node = busy_node();
            node.kernel.fail(Fault::From(writes));
            node.round(&mesh.desired());
            node.sweep();
            let complete = node.kernel.tried() <= writes;
            node.restart();
            node.reconcile(&mesh.desired());
            node.assert_done(&mesh.desired());
            let open = node.ledger.retired().len();
            assert!(open <= node.kernel.backend_rows().len(), "{change}");
            node.settle(&mesh.desired());
            if complete {
                break;
            }
        }
    }
}

#[test]
fn a_crash_during_the_recovery_is_recovered_from() {
    let mesh = three()
        .moved("a", 3)
        .moved("b", 1)
        .moved("c", 2)
        .backends("b", &[1])
        .with("d", 7, &[1]);
    for first in 0..20 {
        for second in 0.. {
            let mut node = busy_node();
            node.kernel.fail(Fault::From(first));
            node.round(&mesh.desired());
            node.restart();
            node.kernel.fail(Fault::From(second));
            node.round(&mesh.desired());
            let complete = node.kernel.tried() <= second;
            node.restart();
            node.reconcile(&mesh.desired());
            node.settle(&mesh.desired());
            if complete {
                break;
            }
        }
    }
}

#[test]
fn a_crash_and_a_change_of_mind_leave_nothing_behind() {
    for (_, mesh) in changes() {
        for writes in 0..24 {
            let mut node = busy_node();
            node.kernel.fail(Fault::From(writes));
            node.round(&mesh.desired());
            node.restart();
            node.reconcile(&three().desired());
            node.settle(&three().desired());
            node.restart();
            node.settle(&Mesh::default().desired());
        }
    }
}

#[test]
fn sockets_on_retired_backends_survive_a_restart() {
    let mut node = busy_node();
    let mesh = three().backends("a", &[2]).without("b");
    node.reconcile(&mesh.desired());
    node.restart();
    node.reconcile(&mesh.desired());
    node.sweep();
    assert_eq!(
        node.ledger.retired().len(),
        2,
        "one backend of each service has a socket"
    );
    node.assert_done(&mesh.desired());
    node.settle(&mesh.desired());
}

#[test]
fn a_service_that_no_longer_fits_keeps_what_the_former_agent_wrote() {
    let mut node = Node::new(4, 4);
    let mesh = Mesh::default().with("a", 1, &[1, 2]);
    node.reconcile(&mesh.desired());
    node.restart();
    let grown = mesh.clone().backends("a", &[1, 2, 3, 4, 5]);
    assert_eq!(node.round(&grown.desired()).rejected.len(), 1);
    node.sweep();
    assert!(node.kernel.connect(key(1), 0).is_some(), "the service went away");
    // Another service takes the address, and what was kept goes with the first one.
    let moved = mesh.clone().moved("a", 2).with("b", 1, &[9]);
    assert_eq!(
        node.round(&moved.clone().backends("a", &[1, 2, 3, 4, 5]).desired())
            .rejected
            .len(),
        1
    );
    node.assert_done(&moved.desired());
    let fitting = moved.backends("a", &[1]);
    node.round(&fitting.desired());
    node.settle(&fitting.desired());
}

#[test]
fn rows_that_no_agent_can_have_written_do_no_harm() {
    let service = |id| Service {
        id,
        affinity_timeout_s: 0,
        algorithm: 0,
        client_key: 0,
        tiers: 0,
        pad: 0,
        rules: 0,
        policy: 0,
    };
    let backend = |service| Backend {
        generation: u32::MAX,
        weight: 1,
        service,
        traffic: u32::MAX,
        ..Backend::UNUSED
    };
    let services = [(key(1), service(u32::MAX)), (key(2), service(3))];
    let backends = [(0, backend(u32::MAX)), (1, backend(7)), (u32::MAX, backend(0))];
    let mut node = Node::new(16, 8);
    node.kernel.backends[..2].copy_from_slice(&[backends[0].1, backends[1].1]);
    let nowhere = Endpoint {
        service: u32::MAX,
        backend: u32::MAX,
        traffic: u32::MAX,
        policy: 0,
    };
    let endpoints = [(EndpointKey::new(Ip16::UNSPECIFIED, Port::new(0)), nowhere)];
    node.ledger = Ledger::adopt(node.room, services, backends, endpoints);
    assert_eq!(node.ledger.usage().map(|(used, _)| used), [2, 2]);
    let desired = three().desired();
    node.reconcile(&desired);
    assert!(node.ledger.programmed.contains_key(&name("a")));
    node.settle(&desired);
}
