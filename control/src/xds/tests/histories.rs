// SPDX-License-Identifier: Apache-2.0
//! Random histories: resources come and go while messages are on their way, connections break, responses are rejected.

use proptest::prelude::*;

use super::{
    client::Client,
    world::{COUNT, Source, Target, World},
};
use crate::xds::Limits;

#[derive(Clone, Copy, Debug)]
enum Event {
    Listen(usize, Option<Target>),
    Cluster(usize, u8),
    Endpoints(usize, u8),
    Up,
    Down { ack_first: bool },
    Reject,
    Reconnect,
    Tick,
}

fn target() -> impl Strategy<Value = Option<Target>> {
    prop_oneof![
        2 => Just(None),
        3 => (0..COUNT).prop_map(|to| Some(Target::Cluster(to))),
        2 => (0..COUNT).prop_map(|to| Some(Target::Route(to))),
    ]
}

/// Without faults of the reader.
fn fair() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..COUNT, target()).prop_map(|(number, target)| Event::Listen(number, target)),
        2 => (0..COUNT, 0..3u8).prop_map(|(number, content)| Event::Cluster(number, content)),
        3 => (0..COUNT, 0..3u8).prop_map(|(number, content)| Event::Endpoints(number, content)),
        12 => Just(Event::Up),
        12 => any::<bool>().prop_map(|ack_first| Event::Down { ack_first }),
        1 => Just(Event::Reconnect),
    ]
}

fn foul() -> impl Strategy<Value = Event> {
    prop_oneof![
        10 => fair(),
        1 => Just(Event::Reject),
        1 => Just(Event::Tick),
    ]
}

/// Responses of one or two resources, so that many are needed.
fn small() -> Limits {
    Limits {
        response_bytes: 100,
        ..Limits::default()
    }
}

struct Scene {
    world: World,
    source: Source,
    client: Client,
}

impl Scene {
    fn new(is_eager: bool, limits: Limits) -> Self {
        Self {
            world: World::default(),
            source: Source::default(),
            client: Client::connect(is_eager, limits),
        }
    }

    fn play(&mut self, event: Event) {
        match event {
            Event::Listen(number, target) => self.world.listeners[number] = target,
            Event::Cluster(number, content) => self.world.clusters[number] = content,
            Event::Endpoints(number, content) => self.world.endpoints[number] = content,
            Event::Up => drop(self.client.deliver_up(&self.source.snapshot())),
            Event::Down { ack_first } => drop(self.client.deliver_down(false, ack_first)),
            Event::Reject => drop(self.client.deliver_down(true, true)),
            Event::Reconnect => self.client.reconnect(),
            Event::Tick => self.client.tick(&self.source.snapshot()),
        }
        self.source.publish(self.world.resources());
    }

    fn settle(&mut self) {
        self.client.settle(&self.source.snapshot());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_converges_and_is_complete_all_the_way(
        is_eager in any::<bool>(),
        is_small in any::<bool>(),
        events in prop::collection::vec(fair(), 0..120),
    ) {
        let mut scene = Scene::new(is_eager, if is_small { small() } else { Limits::default() });
        for event in events {
            scene.play(event);
        }
        scene.settle();
        scene.client.assert_has(&scene.world.resources());
        prop_assert!(scene.client.has_routes());

        // Nothing changed: nothing is sent, neither on this connection nor on the next.
        let received = scene.client.received;
        scene.source.publish(scene.world.resources());
        scene.settle();
        prop_assert_eq!(scene.client.received, received);
        let has_any = !scene.client.held.values().all(std::collections::BTreeMap::is_empty);
        scene.client.reconnect();
        scene.settle();
        if has_any {
            prop_assert_eq!(scene.client.received, received);
        }
        // A reader that is up to date costs what it asked for by name, and no more.
        let named = 2 * 2 * COUNT;
        prop_assert!(scene.client.own_entries(&scene.source.snapshot()) <= named);
    }

    #[test]
    fn a_reader_that_rejects_gets_the_rest_and_what_comes_later(
        is_eager in any::<bool>(),
        events in prop::collection::vec(foul(), 0..120),
    ) {
        let mut scene = Scene::new(is_eager, small());
        for event in events {
            scene.play(event);
        }
        scene.settle();
        // It has forgotten what it rejected, says so, and takes it now.
        scene.client.reconnect();
        scene.settle();
        scene.client.assert_has(&scene.world.resources());
    }
}
