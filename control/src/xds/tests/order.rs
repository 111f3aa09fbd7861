// SPDX-License-Identifier: Apache-2.0
//! Make before break, in steps.

use nodemesh_proto::xds::{
    envoy::service::discovery::v3::DeltaDiscoveryRequest,
    google::{protobuf::Any, rpc::Status},
};

use super::world::{Source, Target, World};
use crate::xds::{Limits, Stream, TypeUrl, Variant};

const ALL: &[&str] = &["*"];

struct Scene {
    world: World,
    source: Source,
    stream: Stream,
}

impl Scene {
    /// Listener 0 leads to cluster 0.
    fn new() -> Self {
        let mut scene = Self {
            world: World::default(),
            source: Source::default(),
            stream: Stream::new(Variant::Delta, Limits::default()),
        };
        scene.lead(0, Some(Target::Cluster(0)));
        scene
    }

    fn lead(&mut self, listener: usize, to: Option<Target>) {
        self.world.listeners[listener] = to;
        self.source.publish(self.world.resources());
    }

    /// What is sent next: `+name` and `-name` of each type in order.
    fn poll(&mut self) -> Vec<String> {
        let responses = self.stream.poll(&self.source.snapshot());
        let of_response = responses.into_iter().flat_map(|response| {
            let sent = response.resources.iter().map(|(name, _)| format!("+{name}"));
            let removed = response.removed.iter().map(|name| format!("-{name}"));
            let kind = match response.type_url {
                TypeUrl::Cluster => "cds",
                TypeUrl::Endpoints => "eds",
                TypeUrl::Listener => "lds",
                TypeUrl::Workloads => "workloads",
                TypeUrl::Policies => "policies",
                _ => "rds",
            };
            [format!("{kind}#{}", response.nonce)]
                .into_iter()
                .chain(sent)
                .chain(removed)
                .collect::<Vec<_>>()
        });
        of_response.collect()
    }

    fn ask(&mut self, request: &DeltaDiscoveryRequest) -> Vec<String> {
        self.stream
            .on_delta(request, &self.source.snapshot())
            .expect("a request within the limits");
        self.poll()
    }

    fn subscribe(&mut self, type_url: &TypeUrl, names: &[&str]) -> Vec<String> {
        self.ask(&DeltaDiscoveryRequest {
            type_url: type_url.to_string(),
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryRequest::default()
        })
    }

    fn unsubscribe(&mut self, type_url: &TypeUrl, names: &[&str]) -> Vec<String> {
        self.ask(&DeltaDiscoveryRequest {
            type_url: type_url.to_string(),
            resource_names_unsubscribe: names.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryRequest::default()
        })
    }

    fn ack(&mut self, type_url: &TypeUrl, nonce: u64) -> Vec<String> {
        self.ask(&DeltaDiscoveryRequest {
            type_url: type_url.to_string(),
            response_nonce: nonce.to_string(),
            ..DeltaDiscoveryRequest::default()
        })
    }

    fn nack(&mut self, type_url: &TypeUrl, nonce: u64) -> Vec<String> {
        self.ask(&DeltaDiscoveryRequest {
            type_url: type_url.to_string(),
            response_nonce: nonce.to_string(),
            error_detail: Some(Status::default()),
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// A reader that has listener 0, cluster 0 and its endpoints. The last nonce was 3.
    fn settled() -> Self {
        let mut scene = Self::new();
        assert_eq!(scene.subscribe(&TypeUrl::Cluster, ALL), ["cds#1", "+c0"]);
        assert_eq!(scene.ack(&TypeUrl::Cluster, 1), NOTHING);
        assert_eq!(scene.subscribe(&TypeUrl::Endpoints, &["c0"]), ["eds#2", "+c0"]);
        assert_eq!(scene.ack(&TypeUrl::Endpoints, 2), NOTHING);
        assert_eq!(scene.subscribe(&TypeUrl::Listener, ALL), ["lds#3", "+l0"]);
        assert_eq!(scene.ack(&TypeUrl::Listener, 3), NOTHING);
        scene
    }
}

const NOTHING: [&str; 0] = [];

#[test]
fn a_listener_waits_for_its_cluster_and_that_one_s_endpoints() {
    let mut scene = Scene::settled();
    scene.lead(1, Some(Target::Cluster(1)));
    assert_eq!(scene.poll(), ["cds#4", "+c1"]);
    assert_eq!(
        scene.ack(&TypeUrl::Cluster, 4),
        NOTHING,
        "it has no endpoints yet"
    );
    assert_eq!(scene.subscribe(&TypeUrl::Endpoints, &["c1"]), ["eds#5", "+c1"]);
    assert_eq!(scene.ack(&TypeUrl::Endpoints, 5), ["lds#6", "+l1"]);
}

#[test]
fn a_listener_that_moves_keeps_the_old_cluster_until_it_has_moved() {
    let mut scene = Scene::settled();
    scene.lead(0, Some(Target::Cluster(1)));
    assert_eq!(scene.poll(), ["cds#4", "+c1"]);
    assert_eq!(scene.ack(&TypeUrl::Cluster, 4), NOTHING);
    assert_eq!(scene.subscribe(&TypeUrl::Endpoints, &["c1"]), ["eds#5", "+c1"]);
    assert_eq!(scene.ack(&TypeUrl::Endpoints, 5), ["lds#6", "+l0"]);
    assert_eq!(scene.ack(&TypeUrl::Listener, 6), ["cds#7", "-c0"]);
    assert_eq!(scene.ack(&TypeUrl::Cluster, 7), ["eds#8", "-c0"]);
}

#[test]
fn what_goes_goes_from_the_front() {
    let mut scene = Scene::settled();
    scene.lead(0, None);
    assert_eq!(scene.poll(), ["lds#4", "-l0"]);
    assert_eq!(scene.ack(&TypeUrl::Listener, 4), ["cds#5", "-c0"]);
    assert_eq!(scene.ack(&TypeUrl::Cluster, 5), ["eds#6", "-c0"]);
}

#[test]
fn neighbours_do_not_wait_for_each_other() {
    let mut scene = Scene::settled();
    scene.lead(1, Some(Target::Cluster(1)));
    scene.lead(2, Some(Target::Cluster(0)));
    assert_eq!(scene.poll(), ["cds#4", "+c1", "lds#5", "+l2"]);
    scene.world.endpoints[0] = 1;
    scene.source.publish(scene.world.resources());
    assert_eq!(scene.poll(), ["eds#6", "+c0"]);
}

#[test]
fn a_reader_that_never_asks_for_endpoints_is_not_waited_for_long() {
    let mut scene = Scene::settled();
    scene.lead(1, Some(Target::Cluster(1)));
    assert_eq!(scene.poll(), ["cds#4", "+c1"]);
    assert_eq!(scene.ack(&TypeUrl::Cluster, 4), NOTHING);
    assert!(scene.stream.is_waiting());
    for _ in 0..2 {
        assert_eq!(scene.poll(), NOTHING);
        scene.stream.tick().expect("nothing is unanswered");
    }
    assert_eq!(scene.poll(), ["lds#5", "+l1"]);
    assert_eq!(scene.ack(&TypeUrl::Listener, 5), NOTHING);
    assert!(!scene.stream.is_waiting());
}

#[test]
fn a_rejected_move_keeps_what_the_reader_may_still_use_for_a_while() {
    let mut scene = Scene::settled();
    scene.lead(0, Some(Target::Cluster(1)));
    assert_eq!(scene.poll(), ["cds#4", "+c1"]);
    assert_eq!(scene.ack(&TypeUrl::Cluster, 4), NOTHING);
    assert_eq!(scene.subscribe(&TypeUrl::Endpoints, &["c1"]), ["eds#5", "+c1"]);
    assert_eq!(scene.ack(&TypeUrl::Endpoints, 5), ["lds#6", "+l0"]);
    assert_eq!(
        scene.nack(&TypeUrl::Listener, 6),
        NOTHING,
        "it goes on with cluster 0"
    );
    let mut last = Vec::new();
    for _ in 0..3 {
        scene.stream.tick().expect("nothing is unanswered");
        last.extend(scene.poll());
    }
    assert_eq!(last, ["cds#7", "-c0", "eds#8", "-c0"]);
}

#[test]
fn a_reader_that_asks_for_all_at_once_gets_it_in_order() {
    let mut scene = Scene::new();
    assert_eq!(
        scene.subscribe(&TypeUrl::Listener, ALL),
        ["lds#1", "+l0"],
        "of clusters it said nothing"
    );
    let mut scene = Scene::new();
    assert_eq!(scene.subscribe(&TypeUrl::Cluster, ALL), ["cds#1", "+c0"]);
    assert_eq!(scene.subscribe(&TypeUrl::Listener, ALL), NOTHING);
    assert_eq!(scene.ack(&TypeUrl::Cluster, 1), NOTHING);
    assert_eq!(scene.subscribe(&TypeUrl::Endpoints, &["c0"]), ["eds#2", "+c0"]);
    assert_eq!(scene.ack(&TypeUrl::Endpoints, 2), ["lds#3", "+l0"]);
}

#[test]
fn a_listener_waits_for_all_policies_of_a_reader_that_asks_for_them() {
    // One resource per response.
    let limits = Limits {
        response_bytes: 1,
        ..Limits::default()
    };
    let mut scene = Scene::new();
    scene.stream = Stream::new(Variant::Delta, limits);
    let mut resources = scene.world.resources();
    for name in ["p0", "p1"] {
        resources.insert((TypeUrl::Policies, name.to_owned()), Any::default());
    }
    scene.source.publish(resources);
    assert_eq!(scene.subscribe(&TypeUrl::Workloads, ALL), ["workloads#1"]);
    assert_eq!(scene.subscribe(&TypeUrl::Policies, ALL), ["policies#2", "+p0"]);
    assert_eq!(scene.subscribe(&TypeUrl::Cluster, ALL), ["cds#3", "+c0"]);
    assert_eq!(scene.ack(&TypeUrl::Cluster, 3), NOTHING);
    assert_eq!(scene.subscribe(&TypeUrl::Endpoints, &["c0"]), ["eds#4", "+c0"]);
    assert_eq!(scene.ack(&TypeUrl::Endpoints, 4), NOTHING);
    assert_eq!(scene.subscribe(&TypeUrl::Listener, ALL), NOTHING);
    assert_eq!(scene.ack(&TypeUrl::Policies, 2), ["policies#5", "+p1"]);
    for _ in 0..10 {
        scene.stream.tick().expect("within the limits");
        assert_eq!(scene.poll(), NOTHING, "however long it takes");
    }
    assert_eq!(scene.ack(&TypeUrl::Policies, 5), NOTHING);
    assert_eq!(scene.ack(&TypeUrl::Workloads, 1), ["lds#6", "+l0"]);
    // From then on a service does not wait for its neighbours' policies.
    scene.world.listeners[1] = Some(Target::Cluster(0));
    let mut resources = scene.world.resources();
    for name in ["p0", "p1", "p2"] {
        resources.insert((TypeUrl::Policies, name.to_owned()), Any::default());
    }
    scene.source.publish(resources);
    assert_eq!(
        scene.ack(&TypeUrl::Listener, 6),
        ["policies#7", "+p2", "lds#8", "+l1"]
    );
}

#[test]
fn a_reader_that_comes_back_with_all_policies_gets_listeners_at_once() {
    let mut scene = Scene::new();
    let mut resources = scene.world.resources();
    resources.insert((TypeUrl::Policies, "p0".to_owned()), Any::default());
    scene.source.publish(resources);
    let version = scene
        .source
        .snapshot()
        .get(&TypeUrl::Policies, "p0")
        .expect("it was put there")
        .version();
    let resumed = DeltaDiscoveryRequest {
        type_url: TypeUrl::Policies.to_string(),
        resource_names_subscribe: vec!["*".to_owned()],
        initial_resource_versions: [("p0".to_owned(), version)].into(),
        ..DeltaDiscoveryRequest::default()
    };
    assert_eq!(scene.ask(&resumed), NOTHING);
    assert_eq!(scene.subscribe(&TypeUrl::Listener, ALL), ["lds#1", "+l0"]);
}

#[test]
fn a_route_that_is_given_up_and_asked_for_again_on_its_way_keeps_its_cluster() {
    let mut scene = Scene::settled();
    scene.lead(0, Some(Target::Route(0)));
    assert_eq!(scene.poll(), ["lds#4", "+l0"]);
    assert_eq!(scene.subscribe(&TypeUrl::Route, &["r0"]), ["rds#5", "+r0"]);
    assert_eq!(scene.unsubscribe(&TypeUrl::Route, &["r0"]), NOTHING);
    scene.lead(0, None);
    assert_eq!(scene.subscribe(&TypeUrl::Route, &["r0"]), NOTHING);
    assert_eq!(scene.ack(&TypeUrl::Listener, 4), ["lds#6", "-l0"]);
    assert_eq!(scene.ack(&TypeUrl::Route, 5), NOTHING);
    assert_eq!(scene.ack(&TypeUrl::Listener, 6), ["rds#7", "-r0"]);
    assert_eq!(scene.ack(&TypeUrl::Route, 7), ["cds#8", "-c0"]);
}
