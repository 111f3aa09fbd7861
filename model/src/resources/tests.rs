// SPDX-License-Identifier: Apache-2.0
//! Cases of resources that exclude each other, and of limits over all of them.

use std::fmt::Write as _;

use nodemesh_abi::limits::{MAX_BACKENDS, MAX_SERVICES};
use serde_json::json;

use super::*;

/// Text of a resource of namespace `models`.
fn resource(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: nodemesh.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: models}}\nspec: {{{spec}}}\n"
    )
}

fn service(name: &str, address: &str) -> String {
    resource(
        "Service",
        name,
        &format!("addresses: [{address}], ports: [{{port: 8000}}]"),
    )
}

fn merge(files: &[(&str, &str)]) -> Result<Resources, InvalidResources> {
    let manifests: Vec<_> = files
        .iter()
        .map(|(label, text)| (*label, Manifest::parse(text)))
        .collect();
    Resources::merge(manifests.iter().map(|(label, manifest)| (*label, manifest)))
}

fn errors(files: &[(&str, &str)]) -> String {
    merge(files)
        .expect_err("the files exclude each other")
        .to_string()
}

#[test]
fn conflicts_name_both_sides() {
    let a = service("a", "10.96.0.1");
    let policy = |name, target| resource("TrafficPolicy", name, &format!("targetRef: {{{target}}}"));
    let named = "kind: Service, name: a";
    let client = |name| resource("Workload", name, "cgroup: /pods/a");
    for (one, other, expected) in [
        (
            &a,
            &a,
            "two.yaml: document 1, Service models/a: is defined twice, first in one.yaml, document 1; remove one of the two",
        ),
        (
            &a,
            &service("b", "10.96.0.1"),
            "two.yaml: document 1, Service models/b, spec.addresses[0]: 10.96.0.1 port 8000/TCP is already that of Service models/a (one.yaml, document 1); change one of the two",
        ),
        (
            &policy("a", named),
            &policy("b", named),
            "two.yaml: document 1, TrafficPolicy models/b, spec.targetRef: Service models/a is already the target of TrafficPolicy models/a (one.yaml, document 1); merge the two",
        ),
        (
            &policy("a", "kind: Service"),
            &policy("b", "kind: Service"),
            "two.yaml: document 1, TrafficPolicy models/b, spec.targetRef: every service of the namespace is already the target of TrafficPolicy models/a (one.yaml, document 1); merge the two",
        ),
        (
            &client("a"),
            &client("b"),
            "two.yaml: document 1, Workload models/b, spec.cgroup: \"pods/a\" is already the cgroup of Workload models/a (one.yaml, document 1); a process has one identity",
        ),
    ] {
        assert_eq!(errors(&[("one.yaml", one), ("two.yaml", other)]), expected);
        // The same within one file.
        let together = format!("{one}{other}");
        let expected = expected.replace("two.yaml: document 1", "one.yaml: document 2");
        assert_eq!(errors(&[("one.yaml", &together)]), expected);
    }
}

#[test]
fn errors_of_a_manifest_are_errors_of_the_merge() {
    let invalid = resource("Workload", "w", "weight: 1");
    let found = errors(&[("good.yaml", &service("a", "10.96.0.1")), ("bad.yaml", &invalid)]);
    assert_eq!(
        found,
        "bad.yaml: document 1, Workload models/w, spec.addresses: is missing, and so is spec.cgroup; give at least one of the two"
    );
}

#[test]
fn what_differs_in_protocol_port_kind_or_namespace_does_not_conflict() {
    let text = [
        service("a", "10.96.0.1"),
        resource("Service", "b", "addresses: [10.96.0.1], ports: [{port: 8001}]"),
        resource(
            "Service",
            "c",
            "addresses: [10.96.0.1], ports: [{port: 8000, protocol: UDP}]",
        ),
        resource("Workload", "a", "addresses: [10.1.0.1]"),
        service("a", "10.96.0.2").replace("namespace: models", "namespace: other"),
    ]
    .concat();
    let resources = merge(&[("all.yaml", &text)]).unwrap();
    assert_eq!((resources.services().len(), resources.workloads().len()), (4, 1));
}

#[test]
fn too_many_conflicts_are_counted() {
    let text = (0..150).fold(String::new(), |mut text, index| {
        text += &service(&format!("s{index}"), &format!("10.96.1.{index}"));
        text
    });
    let found = merge(&[("one.yaml", &text), ("two.yaml", &text)]).unwrap_err();
    assert_eq!((found.listed().len(), found.omitted()), (100, 50));
}

#[test]
fn the_limits_hold_over_all_files() {
    let many = |name: &str, net: u8, backends: usize| {
        let backends: Vec<_> = (0..backends)
            .map(|index| json!({"address": std::net::Ipv4Addr::from((u32::from(net) << 24) + index as u32)}))
            .collect();
        Manifest::from_values([json!({
            "apiVersion": "nodemesh.io/v1alpha1", "kind": "Service", "metadata": {"name": name},
            "spec": {"addresses": [format!("{net}.255.0.1")], "ports": [{"port": 8000}], "backends": backends},
        })])
    };
    let (most, one) = (many("most", 10, MAX_BACKENDS), many("one", 11, 1));
    assert!(Resources::merge([("most.yaml", &most)]).is_ok());
    assert_eq!(
        Resources::merge([("most.yaml", &most), ("one.yaml", &one)])
            .unwrap_err()
            .to_string(),
        "one.yaml: document 1, Service default/one, spec.backends: with this Service there are more than 1000000 backends; remove some, or split the mesh"
    );

    let services = |first: usize, count: usize| {
        Manifest::from_values((first..first + count).map(|index| {
            json!({
                "apiVersion": "nodemesh.io/v1alpha1", "kind": "Service", "metadata": {"name": format!("s{index}")},
                "spec": {"addresses": [std::net::Ipv4Addr::from(0x0a00_0000 + index as u32)], "ports": [{"port": 1}]},
            })
        }))
    };
    let (most, more) = (services(1, MAX_SERVICES), services(MAX_SERVICES + 1, 2));
    assert!(Resources::merge([("most.yaml", &most)]).is_ok());
    assert_eq!(
        Resources::merge([("most.yaml", &most), ("more.yaml", &more)])
            .unwrap_err()
            .to_string(),
        "more.yaml: document 1, Service default/s65537: with this Service there are more than 65536 service addresses with their ports; remove some, or split the mesh"
    );
}

#[test]
fn a_named_policy_wins_over_that_of_the_namespace() {
    let text = [
        service("a", "10.96.0.1"),
        service("b", "10.96.0.2"),
        resource("TrafficPolicy", "all", "targetRef: {kind: Service}"),
        resource("TrafficPolicy", "one", "targetRef: {kind: Service, name: a}"),
    ]
    .concat();
    let resources = merge(&[("all.yaml", &text)]).unwrap();
    let policy_of = |name: &str| {
        let name = ResourceName::new("models", name).unwrap();
        resources
            .policy_of(&name)
            .map(|policy| policy.metadata.name.name().to_owned())
    };
    assert_eq!(policy_of("a").as_deref(), Some("one"));
    assert_eq!(policy_of("b").as_deref(), Some("all"));
    let elsewhere = ResourceName::new("other", "a").unwrap();
    assert!(resources.policy_of(&elsewhere).is_none());
}

#[test]
fn a_policy_without_its_service_is_a_warning() {
    let text = resource("TrafficPolicy", "p", "targetRef: {kind: Service, name: gone}");
    let resources = merge(&[("p.yaml", &text)]).unwrap();
    let warnings = resources
        .warnings()
        .iter()
        .fold(String::new(), |mut text, warning| {
            let _ = write!(text, "{warning}");
            text
        });
    assert_eq!(
        warnings,
        "TrafficPolicy models/p has no effect: there is no Service models/gone; correct spec.targetRef.name, or create it"
    );
}

#[test]
fn merging_shares_the_resources_of_the_manifests() {
    let manifest = Manifest::parse(&service("a", "10.96.0.1"));
    let (first, second) = (
        Resources::merge([("a", &manifest)]),
        Resources::merge([("a", &manifest)]),
    );
    let name = ResourceName::new("models", "a").unwrap();
    assert!(Arc::ptr_eq(
        &first.unwrap().services()[&name],
        &second.unwrap().services()[&name]
    ));
}
