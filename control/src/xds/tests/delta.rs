// SPDX-License-Identifier: Apache-2.0
//! The rules of the delta variant, one by one.

use nodemesh_proto::xds::{envoy::service::discovery::v3::DeltaDiscoveryRequest, google::rpc::Status};

use super::world::{Source, Target, World, endpoints};
use crate::xds::{Limits, Response, Stream, TypeUrl, Variant, Violation};

fn request(type_url: &TypeUrl) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_string(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// Names that are sent, those that are removed, and the nonce.
type Told = (Vec<String>, Vec<String>, String);

struct Scene {
    source: Source,
    stream: Stream,
}

impl Scene {
    /// Endpoints of `names`.
    fn new(names: &[&str]) -> Self {
        let mut scene = Self {
            source: Source::default(),
            stream: Stream::new(Variant::Delta, Limits::default()),
        };
        scene.publish(names, 0);
        scene
    }

    fn publish(&mut self, names: &[&str], content: u8) {
        let all = names
            .iter()
            .map(|name| ((TypeUrl::Endpoints, name.to_string()), endpoints(name, content)));
        self.source.publish(all.collect());
    }

    /// What comes of a request: the names that are sent, those that are removed, and the nonce.
    fn ask(&mut self, request: &DeltaDiscoveryRequest) -> Option<Told> {
        self.stream
            .on_delta(request, &self.source.snapshot())
            .expect("a request within the limits");
        self.poll()
    }

    fn poll(&mut self) -> Option<Told> {
        let mut responses = self.stream.poll(&self.source.snapshot());
        assert!(responses.len() <= 1, "{responses:?}");
        let Response {
            nonce,
            resources,
            removed,
            ..
        } = responses.pop()?;
        let sent = resources.iter().map(|(name, _)| name.to_string()).collect();
        let removed = removed.iter().map(ToString::to_string).collect();
        Some((sent, removed, nonce.to_string()))
    }

    fn subscribe(&mut self, which: &[&str], nonce: &str) -> Option<Told> {
        self.ask(&DeltaDiscoveryRequest {
            resource_names_subscribe: names(which),
            response_nonce: nonce.to_owned(),
            ..request(&TypeUrl::Endpoints)
        })
    }

    fn unsubscribe(&mut self, which: &[&str], nonce: &str) -> Option<Told> {
        self.ask(&DeltaDiscoveryRequest {
            resource_names_unsubscribe: names(which),
            response_nonce: nonce.to_owned(),
            ..request(&TypeUrl::Endpoints)
        })
    }
}

fn sent(resources: &[&str], removed: &[&str], nonce: &str) -> Told {
    (names(resources), names(removed), nonce.to_owned())
}

#[test]
fn names_are_answered_also_those_that_do_not_exist() {
    let mut scene = Scene::new(&["a", "b"]);
    assert_eq!(scene.subscribe(&["a", "x"], ""), Some(sent(&["a"], &["x"], "1")));
    assert_eq!(scene.subscribe(&[], "1"), None);
    scene.publish(&["a", "b", "x"], 0);
    assert_eq!(scene.poll(), Some(sent(&["x"], &[], "2")));
}

#[test]
fn what_is_asked_for_again_is_sent_again() {
    let mut scene = Scene::new(&["a", "b"]);
    assert_eq!(scene.subscribe(&["a"], ""), Some(sent(&["a"], &[], "1")));
    assert_eq!(scene.subscribe(&["a"], "1"), Some(sent(&["a"], &[], "2")));
}

#[test]
fn what_is_no_longer_asked_for_is_not_sent() {
    let mut scene = Scene::new(&["a", "b"]);
    assert_eq!(
        scene.subscribe(&["a", "b"], ""),
        Some(sent(&["a", "b"], &[], "1"))
    );
    assert_eq!(scene.unsubscribe(&["a"], "1"), None);
    scene.publish(&["a", "b"], 1);
    assert_eq!(scene.poll(), Some(sent(&["b"], &[], "2")));
}

#[test]
fn one_response_is_on_the_way_and_the_next_has_the_newest() {
    let mut scene = Scene::new(&["a", "b"]);
    assert_eq!(
        scene.subscribe(&["a", "b"], ""),
        Some(sent(&["a", "b"], &[], "1"))
    );
    for content in 1..=200 {
        scene.publish(&["a"], content);
        assert_eq!(scene.poll(), None);
    }
    assert_eq!(scene.subscribe(&[], "1"), Some(sent(&["a"], &["b"], "2")));
    assert_eq!(scene.subscribe(&[], "2"), None);
}

#[test]
fn a_wildcard_is_everything_and_taking_it_back_leaves_the_names() {
    let mut scene = Scene::new(&["a", "b"]);
    assert_eq!(
        scene.subscribe(&["*", "a"], ""),
        Some(sent(&["a", "b"], &[], "1"))
    );
    scene.publish(&["a", "b", "c"], 0);
    assert_eq!(scene.subscribe(&[], "1"), Some(sent(&["c"], &[], "2")));
    // The reader cannot know whether "a" is part of everything.
    assert_eq!(scene.unsubscribe(&["a"], "2"), Some(sent(&["a"], &[], "3")));
    assert_eq!(scene.subscribe(&["b"], "3"), Some(sent(&["b"], &[], "4")));
    assert_eq!(scene.unsubscribe(&["*"], "4"), None);
    scene.publish(&["a", "b", "c"], 1);
    assert_eq!(scene.poll(), Some(sent(&["b"], &[], "5")));
}

#[test]
fn no_names_at_first_are_a_wildcard_where_all_can_be_asked_for() {
    let mut scene = Scene::new(&["a"]);
    assert_eq!(scene.ask(&request(&TypeUrl::Endpoints)), None);
    assert_eq!(
        scene.ask(&request(&TypeUrl::Workloads)),
        Some(sent(&[], &[], "1")),
        "a first answer is owed"
    );
    let unknown = TypeUrl::from("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret");
    let secret = DeltaDiscoveryRequest {
        resource_names_subscribe: names(&["certificate"]),
        ..request(&unknown)
    };
    assert_eq!(scene.ask(&secret), Some(sent(&[], &["certificate"], "2")));
}

#[test]
fn a_reader_that_comes_back_gets_what_it_lacks() {
    let mut scene = Scene::new(&["a", "b", "c"]);
    let snapshot = scene.source.snapshot();
    let version = |name: &str| {
        let resource = snapshot.get(&TypeUrl::Endpoints, name).expect("it is there");
        (name.to_owned(), resource.version())
    };
    let foreign = |name: &str| (name.to_owned(), "7".to_owned());
    let back = DeltaDiscoveryRequest {
        resource_names_subscribe: names(&["a", "b", "c", "gone"]),
        initial_resource_versions: [version("a"), foreign("b"), foreign("gone")].into(),
        response_nonce: "17".to_owned(),
        ..request(&TypeUrl::Endpoints)
    };
    assert_eq!(scene.ask(&back), Some(sent(&["b", "c"], &[], "1")));
    // "gone" may still be in use by a cluster: this reader has not said yet which ones it has.
    assert_eq!(scene.subscribe(&[], "1"), None);
    for _ in 0..2 {
        assert_eq!(scene.poll(), None);
        scene.stream.tick().expect("nothing is unanswered");
    }
    assert_eq!(scene.poll(), Some(sent(&[], &["gone"], "2")));
}

#[test]
fn a_reader_that_comes_back_with_everything_has_acknowledged_it() {
    let back = |scene: &Scene, all: &[&str]| {
        let snapshot = scene.source.snapshot();
        let version = |name: &str| {
            let resource = snapshot.get(&TypeUrl::Endpoints, name).expect("it is there");
            (name.to_owned(), resource.version())
        };
        DeltaDiscoveryRequest {
            resource_names_subscribe: names(all),
            initial_resource_versions: ["a", "b"].map(version).into(),
            ..request(&TypeUrl::Endpoints)
        }
    };
    let acked = |scene: &Scene| scene.stream.progress().next().expect("a type").1.acked;

    let mut scene = Scene::new(&["a", "b"]);
    let request = back(&scene, &["a", "b"]);
    assert_eq!(scene.ask(&request), None, "there is nothing to send");
    let revision = scene.source.snapshot().revision(&TypeUrl::Endpoints);
    assert_eq!(acked(&scene), Some(revision));

    let mut scene = Scene::new(&["a", "b", "c"]);
    let request = back(&scene, &["a", "b", "c"]);
    assert_eq!(scene.ask(&request), Some(sent(&["c"], &[], "1")));
    assert_eq!(acked(&scene), None, "what was sent is not answered yet");
}

#[test]
fn a_rejected_response_is_kept_with_its_reason_and_not_repeated() {
    let mut scene = Scene::new(&["a"]);
    assert_eq!(scene.subscribe(&["a"], ""), Some(sent(&["a"], &[], "1")));
    let rejection = DeltaDiscoveryRequest {
        response_nonce: "1".to_owned(),
        error_detail: Some(Status {
            message: "weight is 0".to_owned(),
            ..Status::default()
        }),
        ..request(&TypeUrl::Endpoints)
    };
    assert_eq!(scene.ask(&rejection), None);
    let progress = |scene: &Scene| scene.stream.progress().next().expect("a type").1;
    let nack = progress(&scene).nack.expect("a rejection");
    assert_eq!((nack.revision, nack.message.as_str()), (1, "weight is 0"));
    assert_eq!(progress(&scene).acked, None);
    scene.publish(&["a"], 1);
    assert_eq!(scene.poll(), Some(sent(&["a"], &[], "2")));
    assert_eq!(scene.subscribe(&[], "2"), None);
    assert_eq!((progress(&scene).nack, progress(&scene).acked), (None, Some(2)));
}

#[test]
fn an_answer_to_another_response_is_none() {
    let mut scene = Scene::new(&["a"]);
    assert_eq!(scene.subscribe(&["a"], ""), Some(sent(&["a"], &[], "1")));
    scene.publish(&["a"], 1);
    for nonce in ["0", "2", "x", "99999999999999999999999", "-1"] {
        assert_eq!(scene.subscribe(&[], nonce), None, "{nonce}");
    }
    assert_eq!(scene.subscribe(&[], "1"), Some(sent(&["a"], &[], "2")));
}

#[test]
fn limits_end_the_stream() {
    let limits = Limits {
        types: 1,
        names: 2,
        name_bytes: 90,
        ..Limits::default()
    };
    let snapshot = Source::default().snapshot();
    let ask = |stream: &mut Stream, type_url: &str, which: &[&str]| {
        let request = DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: names(which),
            ..DeltaDiscoveryRequest::default()
        };
        stream.on_delta(&request, &snapshot)
    };
    let mut stream = Stream::new(Variant::Delta, limits);
    let (eds, cds) = (TypeUrl::Endpoints, TypeUrl::Cluster);
    assert_eq!(ask(&mut stream, "", &[]), Err(Violation::NoType));
    assert_eq!(ask(&mut stream, eds.as_str(), &["a", "b"]), Ok(()));
    let many = Violation::TooManyNames {
        type_url: eds.clone(),
        limit: 2,
    };
    assert_eq!(
        ask(&mut stream, eds.as_str(), &["a", "b", "c"]),
        Err(many.clone())
    );
    assert_eq!(ask(&mut stream, eds.as_str(), &["c"]), Err(many));
    assert_eq!(
        ask(&mut stream, cds.as_str(), &[]),
        Err(Violation::TooManyTypes { limit: 1 })
    );
    let long = "n".repeat(91);
    let too_long = Violation::NameTooLong {
        type_url: eds.clone(),
        bytes: 91,
        limit: 90,
    };
    assert_eq!(ask(&mut stream, eds.as_str(), &[&long]), Err(too_long));
}

#[test]
fn a_large_state_comes_in_pieces() {
    let mut world = World::default();
    for (number, listener) in world.listeners.iter_mut().enumerate() {
        *listener = Some(Target::Cluster(number));
    }
    let mut source = Source::default();
    source.publish(world.resources());
    let limits = Limits {
        response_bytes: 1,
        ..Limits::default()
    };
    let mut stream = Stream::new(Variant::Delta, limits);
    let snapshot = source.snapshot();
    let mut request = request(&TypeUrl::Cluster);
    for number in 0..6 {
        stream
            .on_delta(&request, &snapshot)
            .expect("a request within the limits");
        let responses = stream.poll(&snapshot);
        let [response] = responses.as_slice() else {
            panic!("{responses:?}");
        };
        assert_eq!(response.resources[0].0.as_ref(), format!("c{number}"));
        request.response_nonce = response.nonce.to_string();
    }
    stream
        .on_delta(&request, &snapshot)
        .expect("a request within the limits");
    assert!(stream.poll(&snapshot).is_empty());
    assert!(stream.progress().all(|(_, progress)| progress.in_sync));
}
