// SPDX-License-Identifier: Apache-2.0
//! Warnings, word for word.

use serde_json::{Value, json};

use super::*;
use crate::manifest::Manifest;

fn document(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "nodemesh.io/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": "models", "labels": {"app": name}}, "spec": spec,
    })
}

/// Warnings about `policies`, given as names with specs, in a mesh of a service and two workloads.
fn warnings_of(policies: &[(&str, Value)]) -> Vec<String> {
    let mesh = [
        document(
            "Service",
            "llama",
            &json!({"addresses": ["10.96.0.10"], "ports": [{"port": 8000}]}),
        ),
        document("Workload", "chat", &json!({"addresses": ["10.1.0.1"]})),
        document("Workload", "host", &json!({"cgroup": "system.slice/host"})),
    ];
    let policies = policies.iter().map(|(name, spec)| {
        let mut value = document("AccessPolicy", name, spec);
        if spec["targetRef"]["kind"] == "Mesh" {
            value["metadata"]["namespace"] = json!("nodemesh-system");
        }
        value
    });
    let manifest = Manifest::from_values(mesh.into_iter().chain(policies));
    let resources = Resources::merge([("test", &manifest)]).unwrap_or_else(|errors| panic!("{errors}"));
    resources.warnings().iter().map(ToString::to_string).collect()
}

fn of_service(rules: &Value) -> Value {
    json!({"targetRef": {"kind": "Service", "name": "llama"}, "rules": rules})
}

/// Warnings about one policy of the service with these rules.
fn rules(rules: &Value) -> Vec<String> {
    warnings_of(&[("p", of_service(rules))])
}

#[test]
fn what_is_meant_is_no_warning() {
    let found = rules(&json!([
        {"action": "allow", "from": [{"workloads": ["ch*"]}, {"cidrs": ["10.0.0.0/8"]}, {"unknown": true}], "ports": [8000]},
        {"action": "deny", "from": [{"workloads": ["chat"]}]},
    ]));
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn targets_that_do_not_exist() {
    let spec = json!({"targetRef": {"kind": "Service", "name": "gone"}, "rules": [{"action": "deny"}]});
    assert_eq!(
        warnings_of(&[("p", spec)]),
        [
            "AccessPolicy models/p has no effect: there is no Service models/gone; correct spec.targetRef.name, or create it"
        ]
    );
}

#[test]
fn opposite_defaults() {
    let spec = |default: &str| json!({"targetRef": {"kind": "Service"}, "default": default});
    assert_eq!(
        warnings_of(&[("a", spec("allow")), ("b", spec("deny"))]),
        [
            "AccessPolicy models/a, spec.default: allow contradicts deny, spec.default of AccessPolicy models/b: deny holds; remove one of the two"
        ]
    );
}

#[test]
fn clients_that_do_not_exist() {
    assert_eq!(
        rules(
            &json!([{"name": "apps", "action": "allow", "from": [{"workloads": ["chat"]}, {"identities": ["spiffe://x/y"]}]}])
        ),
        ["AccessPolicy models/p, apps, from[1]: no Workload matches; correct it, or create the Workload"]
    );
    assert_eq!(
        rules(&json!([{"action": "allow", "from": [{"workloads": ["chat"], "cidrs": ["10.2.0.0/16"]}]}])),
        ["AccessPolicy models/p, rule 1, from[0]: no Workload matches; correct it, or create the Workload"]
    );
    assert_eq!(
        rules(&json!([{"action": "allow", "from": [{"labels": {"app": "host"}}]}])),
        [
            "AccessPolicy models/p, rule 1: Workload models/host has no address, so the nodes of the servers take it for an unknown client; add spec.addresses to it"
        ]
    );
}

#[test]
fn ports_and_ranges_that_no_connection_has() {
    assert_eq!(
        rules(
            &json!([{"action": "deny", "ports": [8000, 80], "from": [{"cidrs": ["fd00::/8", "224.0.0.0/4"]}]}])
        ),
        [
            "AccessPolicy models/p, rule 1: no Service that it is about has port 80; name the port that clients dial, not targetPort",
            "AccessPolicy models/p, rule 1: no client has an address in fd00::/8: the Services that the rule is about have no IPv6 address; correct it, or remove it",
            "AccessPolicy models/p, rule 1: no client has an address in 224.0.0.0/4: these are addresses of groups; correct it, or remove it",
        ]
    );
}

/// A source that is denied, one that is tried out, and whether nothing is left of the latter.
const SHADOWS: [(&str, &str, bool); 13] = [
    ("workloads: [ch*]", "workloads: [chat]", true),
    ("workloads: [chat]", "workloads: [ch*]", false),
    (
        "namespaces: [models]",
        "namespaces: [models], workloads: [chat]",
        true,
    ),
    ("namespaces: [models]", "workloads: [chat]", false),
    ("namespaces: [mod*, x]", "namespaces: [models]", true),
    (
        "identities: [\"spiffe://*\"]",
        "identities: [\"spiffe://mesh.local/*\"]",
        true,
    ),
    ("labels: {app: chat}", "labels: {app: chat, tier: x}", true),
    ("labels: {app: chat, tier: x}", "labels: {app: chat}", false),
    (
        "cidrs: [10.0.0.0/8]",
        "workloads: [chat], cidrs: [10.1.0.0/16]",
        true,
    ),
    ("cidrs: [10.0.0.0/8]", "workloads: [chat]", false),
    ("cidrs: [10.1.0.0/16]", "cidrs: [10.1.0.0/16, 10.2.0.0/16]", false),
    (
        "namespaces: [mod*], workloads: [chat]",
        "workloads: [chat]",
        false,
    ),
    ("unknown: true", "unknown: true", true),
];

#[test]
fn rules_that_others_deny() {
    let shadowed = |text: &str| {
        let rules_of: Value = serde_saphyr::from_str(text).unwrap();
        rules(&rules_of).iter().any(|text| text.contains("has no effect"))
    };
    for (denied, tried, expected) in SHADOWS {
        let text =
            format!("[{{action: deny, from: [{{{denied}}}]}}, {{action: audit, from: [{{{tried}}}]}}]");
        assert_eq!(shadowed(&text), expected, "{text}");
    }
    assert!(shadowed("[{action: deny}, {action: allow, ports: [8000]}]"));
    assert!(!shadowed("[{action: deny, ports: [8000]}, {action: allow}]"));
}

#[test]
fn a_denial_of_the_mesh_reaches_the_rules_of_a_service_but_not_the_reverse() {
    let allow = of_service(&json!([{"name": "chat", "action": "allow", "from": [{"workloads": ["chat"]}]}]));
    let deny = json!({"targetRef": {"kind": "Mesh"}, "rules": [{"name": "closed", "action": "deny"}]});
    assert_eq!(
        warnings_of(&[("p", allow), ("mesh", deny)]),
        [
            "AccessPolicy models/p, chat, has no effect: AccessPolicy nodemesh-system/mesh, closed, denies all that it would allow; remove one of the two, or narrow the denial"
        ]
    );
    let allow = json!({"targetRef": {"kind": "Mesh"}, "rules": [{"action": "allow", "from": [{"workloads": ["chat"]}]}]});
    assert_eq!(
        warnings_of(&[("p", of_service(&json!([{"action": "deny"}]))), ("mesh", allow)]),
        Vec::<String>::new()
    );
}

#[test]
fn a_hundred_are_listed_and_the_others_counted() {
    let from: Vec<_> = (0..250)
        .map(|index| json!({"workloads": [format!("w{index}")]}))
        .collect();
    let found = rules(&json!([{"action": "deny", "from": from}]));
    assert_eq!(found.len(), MAX_WARNINGS + 1);
    assert_eq!(found[MAX_WARNINGS], "150 more warnings about access policies");
}
