// SPDX-License-Identifier: Apache-2.0
//! Random histories: changes of the server's state, responses in parts and out of order of types, lost connections.
//!
//! What must hold when both are quiet: the session has what the server has of all that it asked for, except what it refused, of which
//! it has the last good version; and an unchanged session receives nothing after a reconnect.

use proptest::prelude::*;

use super::*;

const TYPES: [&str; 4] = [CLUSTER, ASSIGNMENT, LISTENER, WORKLOAD_TABLE];

#[derive(Clone, Debug)]
enum Event {
    /// Number of type and name, and the body.
    Put(usize, usize, Vec<u8>),
    Remove(usize, usize),
    /// A response of this type with so many resources.
    Respond(usize, usize),
    /// Requests reach the server.
    Deliver,
    Reconnect,
}

/// Assignments and clusters have the names that others refer to.
fn name(kind: usize, number: usize) -> String {
    format!("{}{number}", ["c", "e", "l", "w"][kind])
}

/// A body: the names of what the next type has, or bytes that are refused.
fn body(kind: usize) -> BoxedStrategy<Vec<u8>> {
    let references = move |prefix: &'static str| {
        proptest::collection::vec(0_usize..4, 0..3).prop_map(move |numbers| {
            let names: Vec<String> = numbers.iter().map(|number| format!("{prefix}{number}")).collect();
            names.join(" ").into_bytes()
        })
    };
    let good = match TYPES[kind] {
        CLUSTER => references("e").boxed(),
        LISTENER => references("c").boxed(),
        _ => Just(Vec::new()).boxed(),
    };
    prop_oneof![6 => good, 1 => Just(BAD.to_vec())].boxed()
}

fn event() -> impl Strategy<Value = Event> {
    let put = (0_usize..4, 0_usize..4)
        .prop_flat_map(|(kind, number)| body(kind).prop_map(move |body| Event::Put(kind, number, body)));
    prop_oneof![
        4 => put,
        2 => (0_usize..4, 0_usize..4).prop_map(|(kind, number)| Event::Remove(kind, number)),
        6 => (0_usize..4, 1_usize..4).prop_map(|(kind, most)| Event::Respond(kind, most)),
        4 => Just(Event::Deliver),
        1 => Just(Event::Reconnect),
    ]
}

struct World {
    server: Server,
    session: Session<Shelf>,
    on_their_way: Vec<DeltaDiscoveryRequest>,
    /// The last good body of each resource that reached the session.
    good: BTreeMap<(&'static str, String), Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            server: Server::default(),
            session: session(),
            on_their_way: Vec::new(),
            good: BTreeMap::new(),
        };
        world.reconnect();
        world
    }

    fn reconnect(&mut self) {
        self.server.disconnect();
        self.on_their_way = self.session.open(Node::default());
    }

    fn deliver(&mut self) {
        for request in self.on_their_way.drain(..) {
            self.server.request(&request);
        }
    }

    fn respond(&mut self, type_url: &'static str, most: usize) -> bool {
        let Some(response) = self.server.respond(type_url, most) else {
            return false;
        };
        let body = |resource: &Resource| resource.resource.as_ref().expect("a body").value.clone();
        let (bad, good): (Vec<_>, Vec<_>) = response
            .resources
            .iter()
            .partition(|resource| body(resource) == BAD);
        let news = good
            .into_iter()
            .map(|resource| ((type_url, resource.name.clone()), body(resource)));
        self.good.extend(news);
        let has_bad = !bad.is_empty();
        let requests = self.session.respond(response);
        // A bad one that is no longer asked for is not looked at.
        assert!(has_bad || requests[0].error_detail.is_none());
        self.on_their_way.extend(requests);
        true
    }

    fn settle(&mut self) {
        for _ in 0..1_000 {
            self.deliver();
            let news = TYPES.map(|type_url| self.respond(type_url, 2));
            if self.on_their_way.is_empty() && !news.contains(&true) {
                return;
            }
        }
        panic!(
            "the session and the server never come to rest: {:?}",
            self.session
        );
    }

    fn check(&mut self) {
        let wanted = self.session.taken().wanted(ASSIGNMENT);
        let wanted: BTreeSet<String> = wanted.into_iter().map(str::to_owned).collect();
        for ((type_url, name), (_, body)) in &self.server.state {
            let is_wanted = *type_url != ASSIGNMENT || wanted.contains(name);
            let key = (*type_url, name.clone());
            let held = self.session.taken().held.get(&key);
            if !is_wanted {
                assert_eq!(held, None, "{name} is of no use");
            } else if body != BAD {
                assert_eq!(held, Some(body), "{name}");
            } else if held.is_some() && *type_url != ASSIGNMENT {
                assert_eq!(held, self.good.get(&key), "{name} was refused");
            }
        }
        let held: Vec<(&'static str, String)> = self.session.taken().held.keys().cloned().collect();
        for (type_url, name) in held {
            let is_there = self.server.state.contains_key(&(type_url, name.clone()));
            let is_none = type_url == ASSIGNMENT && self.session.is_missing(type_url, &name);
            assert!(is_there || is_none, "{name} was removed");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn both_sides_agree_in_the_end(events in proptest::collection::vec(event(), 0..120)) {
        let mut world = World::new();
        for event in events {
            match event {
                Event::Put(kind, number, body) => world.server.put(TYPES[kind], &name(kind, number), &body),
                Event::Remove(kind, number) => world.server.remove(TYPES[kind], &name(kind, number)),
                Event::Respond(kind, most) => {
                    world.respond(TYPES[kind], most);
                }
                Event::Deliver => world.deliver(),
                Event::Reconnect => world.reconnect(),
            }
        }
        world.settle();
        world.check();
        let refused = world.session.rejected().count();
        let sent = world.server.sent;
        world.reconnect();
        world.settle();
        world.check();
        prop_assert!(
            world.server.sent - sent <= refused,
            "a session that is up to date received {} resources, {} of them refused before",
            world.server.sent - sent,
            refused
        );
    }
}
