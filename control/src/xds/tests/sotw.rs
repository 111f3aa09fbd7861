// SPDX-License-Identifier: Apache-2.0
//! The rules of the state-of-the-world variant, one by one.

use std::sync::Arc;

use nodemesh_proto::xds::{envoy::service::discovery::v3::DiscoveryRequest, google::rpc::Status};

use super::world::{Source, Target, World, tcp_listener};
use crate::xds::{Cache, Change, Limits, Resource, Stream, TypeUrl, Variant, Violation, sotw};

/// Resources by name, the nonce and the version.
type Seen = (Vec<String>, String, String);

struct Scene {
    world: World,
    source: Source,
    stream: Stream,
}

impl Scene {
    /// Listeners 0 and 1 lead to clusters of the same numbers.
    fn new() -> Self {
        let mut scene = Self {
            world: World::default(),
            source: Source::default(),
            stream: Stream::new(Variant::StateOfTheWorld, Limits::default()),
        };
        scene.world.listeners[0] = Some(Target::Cluster(0));
        scene.world.listeners[1] = Some(Target::Cluster(1));
        scene.publish();
        scene
    }

    fn publish(&mut self) {
        self.source.publish(self.world.resources());
    }

    fn poll(&mut self) -> Option<Seen> {
        let mut responses = self.stream.poll(&self.source.snapshot());
        assert!(responses.len() <= 1, "{responses:?}");
        let response = responses.pop()?;
        let names = response
            .resources
            .iter()
            .map(|(name, _)| name.to_string())
            .collect();
        let wire = sotw::write(response);
        Some((names, wire.nonce, wire.version_info))
    }

    fn ask(&mut self, type_url: &TypeUrl, names: &[&str], nonce: &str) -> Option<Seen> {
        self.request(&DiscoveryRequest {
            type_url: type_url.to_string(),
            resource_names: names.iter().map(ToString::to_string).collect(),
            response_nonce: nonce.to_owned(),
            ..DiscoveryRequest::default()
        })
    }

    fn request(&mut self, request: &DiscoveryRequest) -> Option<Seen> {
        self.stream
            .on_sotw(request, &self.source.snapshot())
            .expect("a request within the limits");
        self.poll()
    }
}

fn seen(names: &[&str], nonce: &str, version: &str) -> Seen {
    let names = names.iter().map(ToString::to_string).collect();
    (names, nonce.to_owned(), version.to_owned())
}

const EDS: &TypeUrl = &TypeUrl::Endpoints;
const CDS: &TypeUrl = &TypeUrl::Cluster;

#[test]
fn clusters_are_sent_all_at_each_change() {
    let mut scene = Scene::new();
    assert_eq!(scene.ask(CDS, &[], ""), Some(seen(&["c0", "c1"], "1", "1")));
    assert_eq!(scene.ask(CDS, &[], "1"), None);
    scene.world.clusters[1] = 1;
    scene.publish();
    assert_eq!(scene.poll(), Some(seen(&["c0", "c1"], "2", "2")));
    scene.world.listeners[0] = None;
    scene.publish();
    assert_eq!(
        scene.ask(CDS, &[], "2"),
        Some(seen(&["c1"], "3", "3")),
        "what is missing is gone"
    );
}

#[test]
fn endpoints_are_sent_as_they_change() {
    let mut scene = Scene::new();
    assert_eq!(
        scene.ask(EDS, &["c0", "c1", "x"], ""),
        Some(seen(&["c0", "c1"], "1", "1"))
    );
    assert_eq!(scene.ask(EDS, &["c0", "c1", "x"], "1"), None);
    scene.world.endpoints[1] = 1;
    scene.publish();
    assert_eq!(scene.poll(), Some(seen(&["c1"], "2", "2")));
    assert_eq!(scene.ask(EDS, &["c0"], "2"), None);
    scene.world.endpoints = [2; 6];
    scene.publish();
    assert_eq!(
        scene.poll(),
        Some(seen(&["c0"], "3", "3")),
        "the other is no longer asked for"
    );
}

#[test]
fn one_more_name_brings_that_one() {
    let mut scene = Scene::new();
    assert_eq!(scene.ask(EDS, &["c0"], ""), Some(seen(&["c0"], "1", "1")));
    assert_eq!(scene.ask(EDS, &["c0", "c1"], "1"), Some(seen(&["c1"], "2", "1")));
}

#[test]
fn a_request_that_crossed_a_response_is_ignored() {
    let mut scene = Scene::new();
    assert_eq!(scene.ask(EDS, &["c0"], ""), Some(seen(&["c0"], "1", "1")));
    assert_eq!(
        scene.ask(EDS, &["c0", "c1"], ""),
        None,
        "it says so again with the answer"
    );
    assert_eq!(scene.ask(EDS, &["c0", "c1"], "1"), Some(seen(&["c1"], "2", "1")));
}

#[test]
fn no_names_mean_everything_only_until_there_are_names() {
    let mut scene = Scene::new();
    assert_eq!(scene.ask(CDS, &[], ""), Some(seen(&["c0", "c1"], "1", "1")));
    assert_eq!(scene.ask(CDS, &["c0"], "1"), Some(seen(&["c0"], "2", "1")));
    assert_eq!(scene.ask(CDS, &[], "2"), None);
    scene.world.clusters = [1; 6];
    scene.publish();
    assert_eq!(scene.poll(), None, "nothing is asked for");
    assert_eq!(scene.ask(CDS, &["*"], "2"), Some(seen(&["c0", "c1"], "3", "2")));
}

#[test]
fn a_rejection_is_kept_and_the_next_version_is_sent() {
    let mut scene = Scene::new();
    assert_eq!(scene.ask(CDS, &[], ""), Some(seen(&["c0", "c1"], "1", "1")));
    let rejection = DiscoveryRequest {
        type_url: CDS.to_string(),
        response_nonce: "1".to_owned(),
        error_detail: Some(Status {
            message: "no such policy".to_owned(),
            ..Status::default()
        }),
        ..DiscoveryRequest::default()
    };
    assert_eq!(scene.request(&rejection), None);
    let progress = scene.stream.progress().next().expect("a type").1;
    assert_eq!(progress.nack.expect("a rejection").message, "no such policy");
    scene.world.clusters[0] = 1;
    scene.publish();
    assert_eq!(scene.poll(), Some(seen(&["c0", "c1"], "2", "2")));
}

#[test]
fn what_is_unlisted_is_there_for_who_names_it() {
    let mut cache = Cache::new();
    let resource = |name: &str| Resource::new(tcp_listener(name, "c"));
    let unlisted = Resource::unlisted(tcp_listener("grpc", "c"));
    cache.commit(
        1,
        [
            Change::Put(TypeUrl::Listener, "a".into(), Arc::new(resource("a"))),
            Change::Put(TypeUrl::Listener, "grpc".into(), Arc::new(unlisted)),
            Change::Put(TypeUrl::Listener, "z".into(), Arc::new(resource("z"))),
        ],
    );
    let snapshot = cache.subscribe().borrow().clone();
    let ask = |names: &[&str]| {
        let mut stream = Stream::new(Variant::StateOfTheWorld, Limits::default());
        let request = DiscoveryRequest {
            type_url: TypeUrl::Listener.to_string(),
            resource_names: names.iter().map(ToString::to_string).collect(),
            ..DiscoveryRequest::default()
        };
        stream
            .on_sotw(&request, &snapshot)
            .expect("a request within the limits");
        let mut responses = stream.poll(&snapshot);
        let response = responses.pop().expect("a first answer");
        let names = response.resources.iter().map(|(name, _)| name.to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(ask(&[]), ["a", "z"]);
    assert_eq!(ask(&["*"]), ["a", "z"]);
    assert_eq!(ask(&["grpc"]), ["grpc"]);
    cache.commit(2, [Change::Remove(TypeUrl::Listener, "a".into())]);
    let snapshot = cache.subscribe().borrow().clone();
    let listed: Vec<_> = snapshot.listed(&TypeUrl::Listener).keys().cloned().collect();
    assert_eq!(listed, ["z".into()]);
    assert_eq!(snapshot.resources(&TypeUrl::Listener).len(), 2);
}

#[test]
fn limits_end_the_stream() {
    let limits = Limits {
        names: 2,
        unanswered_ticks: 3,
        ..Limits::default()
    };
    let source = Scene::new().source;
    let ask = |stream: &mut Stream, names: &[&str]| {
        let request = DiscoveryRequest {
            type_url: EDS.to_string(),
            resource_names: names.iter().map(ToString::to_string).collect(),
            ..DiscoveryRequest::default()
        };
        stream.on_sotw(&request, &source.snapshot())
    };
    let mut stream = Stream::new(Variant::StateOfTheWorld, limits);
    let too_many = Violation::TooManyNames {
        type_url: TypeUrl::Endpoints,
        limit: 2,
    };
    assert_eq!(ask(&mut stream, &["a", "b", "c"]), Err(too_many));
    assert_eq!(ask(&mut stream, &["c0", "c1"]), Ok(()));
    assert_eq!(stream.poll(&source.snapshot()).len(), 1);
    for _ in 0..3 {
        assert_eq!(stream.tick(), Ok(()));
    }
    let unanswered = Violation::Unanswered {
        type_url: TypeUrl::Endpoints,
    };
    assert_eq!(stream.tick(), Err(unanswered));
}
