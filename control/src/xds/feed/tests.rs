// SPDX-License-Identifier: Apache-2.0
//! The cache against what the states say.

mod script;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::script::{Author, Documents};
use super::{Feed, Snapshot, TypeUrl};

const TYPES: [TypeUrl; 5] = [
    TypeUrl::Cluster,
    TypeUrl::Endpoints,
    TypeUrl::Listener,
    TypeUrl::Route,
    TypeUrl::Workloads,
];

fn document(kind: &str, name: &str, labels: &Value, spec: &Value) -> (String, Value) {
    let value = json!({
        "apiVersion": "nodemesh.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "models", "labels": labels},
        "spec": spec,
    });
    (format!("{kind}/models/{name}"), value)
}

fn service(number: usize, selector: &Value) -> (String, Value) {
    let spec = json!({
        "addresses": [format!("10.96.{}.{}", number / 256, number % 256)],
        "ports": [{"port": 8000, "targetPort": 9000}],
        "selector": selector,
    });
    document("Service", &format!("s{number}"), &json!({}), &spec)
}

fn workload(number: usize, labels: &Value, weight: u32) -> (String, Value) {
    let address = format!("10.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255);
    let spec = json!({"addresses": [address], "weight": weight});
    document("Workload", &format!("w{number}"), labels, &spec)
}

/// Versions by type and name.
fn content(snapshot: &Snapshot) -> BTreeMap<(TypeUrl, String), String> {
    let of_type = |type_url: &TypeUrl| {
        let resources = snapshot.resources(type_url);
        let items = resources.iter();
        let versions =
            items.map(|(name, resource)| ((type_url.clone(), name.to_string()), resource.version()));
        versions.collect::<Vec<_>>()
    };
    TYPES.iter().flat_map(of_type).collect()
}

fn names(feed: &Feed, type_url: &TypeUrl) -> Vec<String> {
    let snapshot = feed.snapshots().borrow().clone();
    snapshot
        .listed(type_url)
        .keys()
        .map(ToString::to_string)
        .collect()
}

#[tokio::test]
async fn a_service_is_served_with_its_endpoints_and_goes_without_a_rest() {
    let labels = json!({"app": "llama"});
    let documents = Documents::from([service(1, &labels), workload(1, &labels, 1)]);
    let mut author = Author::new(documents.clone()).await;
    let mut feed = Feed::new();
    feed.advance(&author.state());
    assert_eq!(names(&feed, &TypeUrl::Cluster), ["models/s1/8000"]);
    assert_eq!(names(&feed, &TypeUrl::Endpoints), ["models/s1/8000"]);
    assert_eq!(
        names(&feed, &TypeUrl::Listener),
        ["models/s1/8000/v4"],
        "listed are those of proxies"
    );
    assert_eq!(names(&feed, &TypeUrl::Route), ["models/s1/8000"]);
    assert_eq!(names(&feed, &TypeUrl::Workloads), ["models/w1"]);
    let snapshot = feed.snapshots().borrow().clone();
    assert!(
        snapshot.get(&TypeUrl::Listener, "s1.models:8000").is_some(),
        "gRPC clients find theirs by name"
    );

    let mut fewer = documents.clone();
    fewer.remove("Service/models/s1");
    feed.advance(&author.write(&fewer).await);
    let snapshot = feed.snapshots().borrow().clone();
    let rest: Vec<_> = content(&snapshot).into_keys().collect();
    assert_eq!(rest, [(TypeUrl::Workloads, "models/w1".to_owned())]);
}

#[tokio::test]
async fn a_change_wakes_readers_of_what_it_touches_only() {
    let (one, other) = (json!({"app": "one"}), json!({"app": "other"}));
    let mut documents = Documents::from([service(1, &one), service(2, &other), workload(1, &one, 1)]);
    let mut author = Author::new(documents.clone()).await;
    let mut feed = Feed::new();
    feed.advance(&author.state());
    let before = feed.snapshots().borrow().clone();
    documents.extend([workload(1, &one, 7)]);
    feed.advance(&author.write(&documents).await);
    let after = feed.snapshots().borrow().clone();
    let (before_content, after_content) = (content(&before), content(&after));
    let changed: Vec<_> = after_content
        .iter()
        .filter(|(key, version)| before_content.get(*key) != Some(version))
        .map(|((type_url, name), _)| (type_url.clone(), name.as_str()))
        .collect();
    assert_eq!(changed, [(TypeUrl::Endpoints, "models/s1/8000")]);
    for type_url in [
        TypeUrl::Cluster,
        TypeUrl::Listener,
        TypeUrl::Route,
        TypeUrl::Workloads,
    ] {
        assert_eq!(after.revision(&type_url), 1, "{type_url}");
        assert!(
            after.resources(&type_url).ptr_eq(&before.resources(&type_url)),
            "{type_url}"
        );
    }
    assert_eq!(after.revision(&TypeUrl::Endpoints), 2);
}

#[tokio::test]
async fn the_task_follows_the_registry_until_that_is_gone() {
    let labels = json!({"app": "llama"});
    let mut documents = Documents::from([service(1, &labels)]);
    let mut author = Author::new(documents.clone()).await;
    let (registry, states) = watch::channel(author.state());
    let feed = Feed::new();
    let mut snapshots = feed.snapshots();
    let task = tokio::spawn(feed.run(states));
    documents.extend([service(2, &labels)]);
    registry.send_replace(author.write(&documents).await);
    snapshots
        .wait_for(|snapshot| snapshot.revision(&TypeUrl::Cluster) == 2)
        .await
        .expect("the feed runs");
    drop(registry);
    task.await.expect("it ends by itself");
}

/// 10,000 services, as many as the project promises; with fewer replicas, so that making them takes less of the test's time.
#[tokio::test]
async fn one_endpoint_of_a_large_fleet_is_a_small_change() {
    let services = 10_000;
    let label = |number: usize| json!({"app": format!("a{}", number % services), "tier": "prod"});
    let mut documents = Documents::new();
    documents.extend((0..services).map(|number| service(number, &label(number))));
    documents.extend((0..2 * services).map(|number| workload(number, &label(number), 1)));
    let mut author = Author::new(documents.clone()).await;
    let mut feed = Feed::new();
    let started = Instant::now();
    feed.advance(&author.state());
    println!("{services} services from nothing: {:?}", started.elapsed());

    let mut times = Vec::new();
    for round in 0..20 {
        documents.extend([workload(round, &label(round), 2)]);
        let state = author.write(&documents).await;
        let started = Instant::now();
        feed.advance(&state);
        times.push(started.elapsed());
        let snapshot = feed.snapshots().borrow().clone();
        assert_eq!(snapshot.revision(&TypeUrl::Endpoints), 2 + round as u64);
    }
    times.sort();
    println!("one endpoint: median {:?}, most {:?}", times[10], times[19]);
    // The median, because other work of the machine is not this one's.
    assert!(times[10] < Duration::from_millis(5), "{times:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Service(usize, Value),
    Workload(usize, Value, u32),
    Policy(usize, Option<usize>, &'static str),
    Remove(usize),
}

fn labels() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({"app": "a"})),
        Just(json!({"app": "b"})),
        Just(json!({"tier": "x"})),
        Just(json!({"app": "a", "tier": "x"})),
        Just(json!({"app": "b", "tier": "x"})),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let algorithm = prop_oneof![Just("random"), Just("maglev"), Just("least-request")];
    prop_oneof![
        3 => (0..4_usize, labels()).prop_map(|(number, selector)| Step::Service(number, selector)),
        4 => (0..6_usize, labels(), 1..3_u32)
            .prop_map(|(number, labels, weight)| Step::Workload(number, labels, weight)),
        1 => (0..3_usize, prop::option::of(0..4_usize), algorithm)
            .prop_map(|(number, target, algorithm)| Step::Policy(number, target, algorithm)),
        3 => (0..16_usize).prop_map(Step::Remove),
    ]
}

fn policy(number: usize, target: Option<usize>, algorithm: &str) -> (String, Value) {
    let target = match target {
        Some(service) => json!({"kind": "Service", "name": format!("s{service}")}),
        None => json!({"kind": "Namespace"}),
    };
    let spec = json!({"targetRef": target, "loadBalancer": {"algorithm": algorithm}});
    document("TrafficPolicy", &format!("p{number}"), &json!({}), &spec)
}

fn play(documents: &mut Documents, step: Step) {
    match step {
        Step::Service(number, selector) => documents.extend([service(number, &selector)]),
        Step::Workload(number, labels, weight) => documents.extend([workload(number, &labels, weight)]),
        Step::Policy(number, target, algorithm) => documents.extend([policy(number, target, algorithm)]),
        Step::Remove(position) => {
            let key = documents.keys().nth(position).cloned();
            key.and_then(|key| documents.remove(&key));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn step_by_step_is_the_same_as_at_once(
        batches in prop::collection::vec(prop::collection::vec(step(), 1..4), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut documents = Documents::new();
            let mut author = Author::new(documents.clone()).await;
            let mut feed = Feed::new();
            for batch in batches {
                for step in batch {
                    play(&mut documents, step);
                }
                let state = author.write(&documents).await;
                feed.advance(&state);
                let mut anew = Feed::new();
                anew.advance(&state);
                let (snapshot, expected) = (feed.snapshots(), anew.snapshots());
                let snapshot = snapshot.borrow();
                prop_assert_eq!(content(&snapshot), content(&expected.borrow()));
                let clusters = snapshot.resources(&TypeUrl::Cluster);
                let endpoints = snapshot.resources(&TypeUrl::Endpoints);
                prop_assert!(clusters.keys().eq(endpoints.keys()));
            }
            Ok(())
        })?;
    }
}
