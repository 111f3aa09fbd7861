// SPDX-License-Identifier: Apache-2.0
//! Random histories: whatever happened, a quiet kernel holds what is configured and nothing else.

use nodemesh_model::BackendState;
use proptest::prelude::*;

use super::{
    Node,
    kernel::Fault,
    mesh::{Mesh, backend, key, packet_path},
};
use crate::reconcile::ledger::Room;

#[derive(Clone, Debug)]
enum Event {
    /// A new configuration; this many writes of it succeed, if a number is given, and then one or all fail.
    Configure(Mesh, Option<(usize, bool)>),
    /// The same configuration again, as after a failure.
    Retry,
    Sweep,
    Connect(u8, u32),
    Flow(u8, u32),
    Accept(u8),
    Close(usize),
    Restart,
}

/// Services `s0` to `s4`, each perhaps, at addresses that move, with some of eight backends.
fn mesh() -> impl Strategy<Value = Mesh> {
    let backends = prop::collection::btree_map(0..8_u8, (1..4_u32, 0..3_u8), 0..6);
    let services = prop::collection::vec(prop::option::weighted(0.7, (backends, 0..4_u8)), 5);
    let addresses = Just((0..7_u8).collect::<Vec<_>>()).prop_shuffle();
    (services, addresses).prop_map(|(services, addresses)| {
        let present = services
            .into_iter()
            .enumerate()
            .filter_map(|(index, backends)| Some((index, backends?)));
        present.fold(Mesh::default(), |mesh, (index, backends)| {
            let name = format!("s{index}");
            let (backends, packet) = backends;
            mesh.with(&name, addresses[index], &[]).edit(&name, |frontend| {
                let replica = |(number, (weight, state)): (u8, (u32, u8))| nodemesh_model::FrontendBackend {
                    weight,
                    state: [BackendState::Active, BackendState::Active, BackendState::Draining]
                        [state as usize],
                    ..backend(number)
                };
                frontend.backends = backends.into_iter().map(replica).collect();
                // External addresses and node ports move between services, too.
                frontend.packet = (packet > 0).then(|| packet_path(packet, addresses[index]));
            })
        })
    })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (mesh(), prop::option::of((0..30_usize, any::<bool>()))).prop_map(|(mesh, fault)| Event::Configure(mesh, fault)),
        2 => Just(Event::Retry),
        2 => Just(Event::Sweep),
        6 => (0..7_u8, any::<u32>()).prop_map(|(address, draw)| Event::Connect(address, draw)),
        3 => (0..8_u8, any::<u32>()).prop_map(|(address, draw)| Event::Flow(address, draw)),
        3 => (0..8_u8).prop_map(Event::Accept),
        5 => any::<usize>().prop_map(Event::Close),
        1 => Just(Event::Restart),
    ]
}

fn play(node: &mut Node, events: &[Event]) {
    let mut current = Mesh::default();
    for event in events {
        match event {
            Event::Configure(mesh, fault) => {
                current = mesh.clone();
                if let Some((writes, dies)) = *fault {
                    node.kernel.fail(if dies {
                        Fault::From(writes)
                    } else {
                        Fault::Nth(writes)
                    });
                }
                node.round(&current.desired());
                if matches!(fault, Some((_, true))) {
                    node.restart();
                }
                node.kernel.fault = None;
            }
            Event::Retry => drop(node.round(&current.desired())),
            Event::Sweep => drop(node.sweep()),
            Event::Connect(address, draw) => drop(node.kernel.connect(key(*address), *draw)),
            Event::Flow(address, draw) => drop(node.kernel.flow(key(*address), *draw)),
            Event::Accept(number) => {
                let backend = backend(*number);
                node.kernel.accept(backend.addr, backend.port);
            }
            Event::Close(index) => node.kernel.close(*index),
            Event::Restart => {
                node.restart();
                node.round(&current.desired());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn with_ample_room(events in prop::collection::vec(event(), 1..30), last in mesh()) {
        let mut node = Node::new(64, 256);
        play(&mut node, &events);
        // Open sockets do not keep the configuration from taking effect.
        node.reconcile(&last.desired());
        node.assert_done(&last.desired());
        node.settle(&last.desired());
    }

    #[test]
    fn with_too_little_room(events in prop::collection::vec(event(), 1..30), last in mesh()) {
        let mut node = Node::with_room(Room { services: 5, backends: 12, traffic_pairs: 6 });
        play(&mut node, &events);
        // The last configuration fits once the sockets are gone.
        let last = (0..5).fold(last.with("s0", 0, &[]), |mesh, index| {
            mesh.with(&format!("s{index}"), index, &[index, index + 1])
        });
        node.settle(&last.desired());
    }
}
