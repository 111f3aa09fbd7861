// SPDX-License-Identifier: Apache-2.0
//! Decisions with their reasons, as the CLI tells them. That the index changes no decision is a property of `desired`.

use serde_json::{Value, json};

use super::*;
use crate::{Desired, Locality, Manifest, Resources};

fn document(kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "nodemesh.io/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    })
}

/// A mesh that denies by default, with rules on all levels.
fn mesh(namespace_default: Option<&str>, service_default: Option<&str>) -> Desired {
    let service = json!({"addresses": ["10.96.0.10"], "ports": [{"port": 8000}]});
    let mesh = json!({
        "targetRef": {"kind": "Mesh"}, "default": "deny",
        "rules": [{"name": "no crawlers", "action": "deny", "from": [{"workloads": ["crawler-*"]}]}],
    });
    let namespace = json!({
        "targetRef": {"kind": "Service"}, "default": namespace_default,
        "rules": [{"name": "apps", "action": "allow", "from": [{"namespaces": ["apps"]}]}],
    });
    let one = json!({
        "targetRef": {"kind": "Service", "name": "llama"}, "default": service_default,
        "rules": [{"action": "audit", "from": [{"workloads": ["batch"]}]}, {"action": "allow", "from": [{"workloads": ["batch"]}]}],
    });
    let workloads = [
        ("apps", "chat", 1),
        ("apps", "crawler-1", 2),
        ("apps", "batch", 3),
        ("other", "web", 4),
    ];
    let documents = [
        document("Service", "models", "llama", &service),
        document("AccessPolicy", "nodemesh-system", "mesh", &mesh),
        document("AccessPolicy", "models", "all", &namespace),
        document("AccessPolicy", "models", "one", &one),
    ];
    let workloads = workloads.map(|(namespace, name, host)| {
        document(
            "Workload",
            namespace,
            name,
            &json!({"addresses": [format!("10.1.0.{host}")]}),
        )
    });
    let manifest = Manifest::from_values(documents.into_iter().chain(workloads));
    let resources = Resources::merge([("test", &manifest)]).unwrap_or_else(|errors| panic!("{errors}"));
    Desired::compile(&resources, &Locality::default(), None).unwrap()
}

/// The decision about `workload`, with its reason, and all rules that match it.
fn explained(desired: &Desired, workload: &str) -> (Access, Option<String>, bool, Vec<String>) {
    let rules = desired.frontends.values().next().unwrap().access.clone().unwrap();
    let (namespace, name) = workload.split_once('/').unwrap();
    let name = PrincipalName::Workload(ResourceName::new(namespace, name).unwrap());
    let principal = &desired.principals[&name];
    let decision = rules.decide(principal);
    let matching = rules
        .matching(principal)
        .into_iter()
        .map(|(rule, action)| format!("{rule}: {action:?}"));
    (
        decision.access,
        decision.rule.map(|rule| rule.to_string()),
        decision.default,
        matching.collect(),
    )
}

#[test]
fn the_strongest_rule_decides_whatever_its_level() {
    let desired = mesh(None, None);
    let allowed = "AccessPolicy models/all, apps";
    let denied = "AccessPolicy nodemesh-system/mesh, no crawlers";
    let audited = "AccessPolicy models/one, rule 1";
    assert_eq!(
        explained(&desired, "apps/chat"),
        (
            Access::Allow,
            Some(allowed.to_owned()),
            false,
            vec![format!("{allowed}: Allow")]
        )
    );
    assert_eq!(
        explained(&desired, "apps/crawler-1"),
        (
            Access::Deny,
            Some(denied.to_owned()),
            false,
            vec![format!("{denied}: Deny"), format!("{allowed}: Allow")]
        )
    );
    let (access, rule, _, matching) = explained(&desired, "apps/batch");
    assert_eq!((access, rule.as_deref()), (Access::Audit, Some(audited)));
    assert_eq!(
        matching,
        [
            format!("{audited}: Audit"),
            format!("{allowed}: Allow"),
            "AccessPolicy models/one, rule 2: Allow".to_owned()
        ]
    );
}

#[test]
fn the_default_of_the_narrowest_target_holds() {
    for (namespace, service, access, policy) in [
        (
            None,
            None,
            Access::Deny,
            "AccessPolicy nodemesh-system/mesh, default",
        ),
        (
            Some("allow"),
            None,
            Access::Allow,
            "AccessPolicy models/all, default",
        ),
        (
            Some("allow"),
            Some("deny"),
            Access::Deny,
            "AccessPolicy models/one, default",
        ),
        (
            None,
            Some("allow"),
            Access::Allow,
            "AccessPolicy models/one, default",
        ),
    ] {
        let expected = (access, Some(policy.to_owned()), true, Vec::new());
        assert_eq!(explained(&mesh(namespace, service), "other/web"), expected);
    }
}
