// SPDX-License-Identifier: Apache-2.0
//! Random access policies, about the services and workloads of the others.
//!
//! Invariant: whatever is drawn is a valid policy, once [`place`] has given it a name and a target.

use proptest::{collection::btree_set, option, prelude::*, sample::select, sample::subsequence};
use serde_json::{Value, json};

use super::{LABELS, named};

/// Gives the policy number `at` a target: 0 the mesh, 1 the namespace, 2 a service.
pub(super) fn place(at: usize, spec: &Value) -> Value {
    let mut spec = spec.clone();
    let level = spec["targetRef"].as_u64();
    spec["targetRef"] = match level {
        Some(0) => json!({"kind": "Mesh"}),
        Some(1) => json!({"kind": "Service"}),
        _ => json!({"kind": "Service", "name": format!("n{}", at / 2)}),
    };
    let has_rules = spec["rules"].as_array().is_some_and(|rules| !rules.is_empty());
    if spec["default"].is_null() && !has_rules {
        spec["rules"] = json!([{"action": "allow"}]);
    }
    let mut document = named("AccessPolicy", at, &json!("access"), &spec);
    if level == Some(0) {
        document["metadata"]["namespace"] = json!("nodemesh-system");
        document["metadata"]["name"] = json!(format!("m{at}"));
    }
    document
}

pub(super) fn policy() -> impl Strategy<Value = Value> {
    let default = option::of(select(vec!["allow", "deny"]));
    let rules = proptest::collection::vec(rule(), 0..6);
    (0..3_u8, default, rules).prop_map(|(level, default, mut rules)| {
        for (index, rule) in rules.iter_mut().enumerate() {
            if rule["name"] == true {
                rule["name"] = json!(format!("r{index}"));
            } else {
                rule["name"] = Value::Null;
            }
        }
        json!({"targetRef": level, "default": default, "rules": rules})
    })
}

fn rule() -> impl Strategy<Value = Value> {
    let action = select(vec!["allow", "deny", "audit"]);
    let from = option::weighted(0.8, proptest::collection::vec(source(), 1..4));
    let ports = option::weighted(
        0.3,
        btree_set(prop_oneof![select(vec![53_u16, 80, 8000]), 1..=u16::MAX], 1..4),
    );
    (any::<bool>(), action, from, ports).prop_map(
        |(name, action, from, ports)| json!({"name": name, "action": action, "from": from, "ports": ports}),
    )
}

fn source() -> impl Strategy<Value = Value> {
    fn some(of: &[&'static str]) -> impl Strategy<Value = Vec<&'static str>> + use<> {
        subsequence(of.to_vec(), 1..=of.len())
    }
    let identities = [
        "spiffe://example.org/*",
        "spiffe://a/ns/b",
        "spiffe://mesh.local/ns/default/workload/n1",
    ];
    let cidrs = [
        "10.1.0.0/28",
        "10.1.0.4/32",
        "10.0.0.0/8",
        "fd00:1::/64",
        "::/0",
        "0.0.0.0/0",
    ];
    let known = (
        option::weighted(0.4, some(&["default", "mod*", "elsewhere"])),
        option::weighted(0.4, some(&["n0", "n1", "n*", "absent"])),
        option::weighted(0.3, some(&identities)),
        option::weighted(0.3, select(&LABELS[..])),
        option::weighted(0.3, some(&cidrs)),
    );
    let known = known.prop_map(|(namespaces, workloads, identities, label, cidrs)| {
        let label = label.map(|label| json!({"app": label}));
        let source = json!({
            "namespaces": namespaces, "workloads": workloads, "identities": identities, "labels": label,
            "cidrs": cidrs,
        });
        let is_empty = source
            .as_object()
            .is_some_and(|fields| fields.values().all(Value::is_null));
        if is_empty {
            json!({"workloads": ["n0"]})
        } else {
            source
        }
    });
    prop_oneof![5 => known, 1 => Just(json!({"unknown": true}))]
}
