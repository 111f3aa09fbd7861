// SPDX-License-Identifier: Apache-2.0
//! One change at a time: what stays, what follows, what waits.

use std::sync::Arc;

use nodemesh_model::{Desired, Locality, Resource};
use serde_json::json;

use super::{
    envoy::{assignment, eds_cluster, endpoint, listener},
    wire::{all_told, assert_no_complaint, merged, merged_manifest, named, put_all, received, sent},
};
use crate::{
    IntoAny, type_url,
    v1::{Workload, WorkloadTable},
};

fn pointers(assembled: &crate::from_xds::Assembled) -> Vec<*const ()> {
    let address = |resource: &Resource| match resource {
        Resource::Service(service) => Arc::as_ptr(service).cast(),
        Resource::Workload(workload) => Arc::as_ptr(workload).cast(),
        Resource::TrafficPolicy(policy) => Arc::as_ptr(policy).cast(),
        Resource::AccessPolicy(policy) => Arc::as_ptr(policy).cast(),
    };
    assembled.manifest.resources().map(address).collect()
}

#[test]
fn an_endpoint_changes_its_service_alone() {
    let mut received = received(&[
        named(listener("a", "10.96.0.1", 80, "a")),
        named(listener("b", "10.96.0.2", 80, "b")),
        named(eds_cluster("a")),
        named(eds_cluster("b")),
        named(assignment("a", vec![endpoint("10.1.0.1", 80)])),
        named(assignment("b", vec![endpoint("10.1.0.1", 80)])),
    ]);
    let before = received.assemble();
    put_all(
        &mut received,
        &[named(assignment("b", vec![endpoint("10.1.0.2", 80)]))],
    );
    let after = received.assemble();
    assert_eq!(
        all_told(&after),
        [
            "10.96.0.1:80/TCP round-robin: 10.1.0.1:80 x1",
            "10.96.0.2:80/TCP round-robin: 10.1.0.2:80 x1"
        ]
    );
    let kept: Vec<_> = pointers(&before)
        .iter()
        .zip(pointers(&after))
        .map(|(old, new)| *old == new)
        .collect();
    assert_eq!(
        kept,
        [true, true, false, true],
        "service and policy of a, service and policy of b"
    );

    let (old, new) = (
        merged_manifest(&before.manifest),
        merged_manifest(&after.manifest),
    );
    let first = Desired::compile(&old, &Locality::default(), None).unwrap();
    let second = Desired::compile(&new, &Locality::default(), Some((&old, &first))).unwrap();
    let kept = first.frontends.values().zip(second.frontends.values());
    assert_eq!(
        kept.map(|(old, new)| Arc::ptr_eq(old, new)).collect::<Vec<_>>(),
        [true, false]
    );
}

#[test]
fn a_listener_moves_to_a_new_cluster_when_it_is_there() {
    let mut received = received(&[
        named(listener("l", "10.96.0.1", 80, "old")),
        named(eds_cluster("old")),
        named(assignment("old", vec![endpoint("10.1.0.1", 80)])),
    ]);
    let before = all_told(&received.assemble());
    put_all(&mut received, &[named(listener("l", "10.96.0.1", 80, "new"))]);
    let waiting = received.assemble();
    assert_eq!(
        (all_told(&waiting), waiting.incomplete.len()),
        (before.clone(), 1)
    );
    put_all(&mut received, &[named(eds_cluster("new"))]);
    let waiting = received.assemble();
    assert_eq!((all_told(&waiting), waiting.incomplete.len()), (before, 1));
    put_all(
        &mut received,
        &[named(assignment("new", vec![endpoint("10.1.0.2", 80)]))],
    );
    let assembled = received.assemble();
    assert_no_complaint(&assembled);
    assert_eq!(
        all_told(&assembled),
        ["10.96.0.1:80/TCP round-robin: 10.1.0.2:80 x1"]
    );
    assert!(received.remove(type_url::CLUSTER, "old"));
    assert!(received.remove(type_url::ASSIGNMENT, "old"));
    assert!(!received.remove(type_url::ASSIGNMENT, "old"));
    assert_no_complaint(&received.assemble());
}

#[test]
fn what_went_too_early_is_missed_and_told() {
    let mut received = received(&[
        named(listener("l", "10.96.0.1", 80, "c")),
        named(eds_cluster("c")),
        named(assignment("c", vec![endpoint("10.1.0.1", 80)])),
    ]);
    let before = all_told(&received.assemble());
    assert!(received.remove(type_url::CLUSTER, "c"));
    let assembled = received.assemble();
    assert_eq!(all_told(&assembled), before, "traffic goes on");
    assert_eq!(assembled.incomplete[0].resource, "c");
    assert!(received.remove(type_url::LISTENER, "l"));
    let assembled = received.assemble();
    assert_no_complaint(&assembled);
    assert_eq!(all_told(&assembled), [""; 0]);
}

#[test]
fn the_ports_of_a_service_may_differ_for_a_moment() {
    let document = |state: &str| {
        let ports = json!([{"name": "http", "port": 80}, {"name": "admin", "port": 81}]);
        let backends = json!([{"address": "10.1.0.1"}, {"address": "10.1.0.2", "state": state}]);
        json!({
            "apiVersion": "nodemesh.io/v1alpha1", "kind": "Service", "metadata": {"name": "llama"},
            "spec": {"addresses": ["10.96.0.1"], "ports": ports, "backends": backends},
        })
    };
    let mut received = received(&sent(&merged(vec![document("active")])));
    received.assemble();
    let changed = sent(&merged(vec![document("draining")]));
    let one = changed
        .iter()
        .find(|(name, any)| name == "default/llama/81" && any.type_url == type_url::ASSIGNMENT);
    put_all(&mut received, one);
    let assembled = received.assemble();
    assert_no_complaint(&assembled);
    assert_eq!(
        all_told(&assembled),
        [
            "10.96.0.1:80/TCP least-request: 10.1.0.1:80 x1, 10.1.0.2:80 x1",
            "10.96.0.1:81/TCP least-request: 10.1.0.1:81 x1, 10.1.0.2:81 x1 draining"
        ]
    );
}

#[test]
fn workloads_that_have_a_cgroup_are_kept() {
    let row = |name: &str, cgroup: &str| Workload {
        namespace: "models".to_owned(),
        name: name.to_owned(),
        addresses: vec!["10.1.0.1".to_owned()],
        cgroup: cgroup.to_owned(),
        ..Workload::default()
    };
    let table = |name: &str, workloads| (name.to_owned(), WorkloadTable { workloads }.into_any());
    let mut received = received(&[
        table("a", vec![row("a", "kubepods/a"), row("no-cgroup", "")]),
        table(
            "b",
            vec![
                row("a", "kubepods/x"),
                row("b", "/kubepods/a"),
                row("c", "kubepods/c"),
            ],
        ),
    ]);
    let names = |assembled: &crate::from_xds::Assembled| -> Vec<String> {
        let resources = assembled.manifest.resources();
        resources
            .map(|resource| resource.metadata().name.to_string())
            .collect()
    };
    let assembled = received.assemble();
    assert_eq!(names(&assembled), ["models/a", "models/c"]);
    let rejected: Vec<_> = assembled
        .rejected
        .iter()
        .map(|rejected| rejected.reason.as_str())
        .collect();
    assert_eq!(
        rejected,
        [
            "models/a is in the table \"a\" too; remove one of the two",
            "\"kubepods/a\" of models/b is that of models/a; give each its own"
        ]
    );
    merged_manifest(&assembled.manifest);
    assert!(received.remove(type_url::WORKLOAD_TABLE, "a"));
    let assembled = received.assemble();
    assert_eq!(names(&assembled), ["models/a", "models/b", "models/c"]);
    assert_no_complaint(&assembled);
}
