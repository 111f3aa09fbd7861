// SPDX-License-Identifier: Apache-2.0
//! Network policies, and the access policies that they come down to.

use super::*;

/// Namespaces `models` (with the Service `llama`, of two pods) and `apps` (with the pods `chat` and `batch`).
fn cluster() -> Vec<Update> {
    let namespace = |name: &str| {
        set(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": name}}}),
        )
    };
    let pod = |namespace: &str, name: &str, app: &str, ip: &str| {
        set(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace, "name": name, "uid": name, "labels": {"app": app, "name": name}},
            "spec": {"nodeName": "node-1", "containers": []},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}}))
    };
    let mut endpoints = slice("llama-1", &[ready("10.1.0.1"), ready("10.1.0.2")]);
    for (index, name) in ["llama-0", "llama-1"].iter().enumerate() {
        endpoints["endpoints"][index]["targetRef"] = json!({"kind": "Pod", "name": name});
    }
    vec![
        namespace("models"),
        namespace("apps"),
        pod("models", "llama-0", "llama", "10.1.0.1"),
        pod("models", "llama-1", "llama", "10.1.0.2"),
        pod("apps", "chat", "chat", "10.1.1.1"),
        pod("apps", "batch", "batch", "10.1.1.2"),
        set(service(json!({}))),
        set(endpoints),
    ]
}

fn network_policy(namespace: &str, spec: &Value) -> Update {
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                        "metadata": {"namespace": namespace, "name": "p"}, "spec": spec});
    let name = ObjectName::new(namespace, "p");
    let object =
        Object::NetworkPolicy(read::<k8s_openapi::api::networking::v1::NetworkPolicy>(policy).into());
    Update::Set(ObjectId::new(ObjectKind::NetworkPolicy, name), Box::new(object))
}

impl Scene {
    /// The spec of the one access policy.
    fn access(&self) -> Option<&Value> {
        let mut policies = self
            .items
            .iter()
            .filter(|(key, _)| key.starts_with("AccessPolicy/models/"));
        let found = policies.next().map(|(_, value)| &value["spec"]);
        assert!(policies.next().is_none(), "{:?}", self.items.keys());
        found
    }
}

#[test]
fn an_ingress_policy_is_a_default_and_what_it_allows() {
    let mut scene = Scene::new(Membership::OptIn);
    scene.apply(cluster());
    scene.apply([network_policy(
        "models",
        &json!({"podSelector": {"matchLabels": {"app": "llama"}}}),
    )]);
    let nothing = json!({"targetRef": {"kind": "Service", "name": "llama"}, "default": "deny", "rules": []});
    assert_eq!(scene.access(), Some(&nothing), "no rule allows nothing");
    scene.apply([network_policy("models", &json!({
        "podSelector": {}, "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [{"namespaceSelector": {"matchLabels": {"team": "apps"}}, "podSelector": {"matchLabels": {"app": "chat"}}},
                      {"ipBlock": {"cidr": "10.9.0.0/16", "except": ["10.9.0.0/17"]}}],
             "ports": [{"port": 8000}]},
            {"from": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["x"]}]}}]},
            {"ports": [{"port": 9999}]},
        ],
    }))]);
    let rules = &scene.access().unwrap()["rules"];
    assert_eq!(
        rules,
        &json!([
            {"name": "p ingress 1", "action": "allow",
             "from": [{"namespaces": ["apps"], "labels": {"app": "chat"}}, {"cidrs": ["10.9.128.0/17"]}]},
            {"name": "p ingress 2", "action": "allow", "from": [{"namespaces": ["models"], "workloads": ["llama-0", "llama-1"]}]},
        ]),
        "the third is about no port of the service"
    );
}

#[test]
fn an_egress_policy_denies_those_whom_no_policy_lets_out() {
    let mut scene = Scene::new(Membership::OptIn);
    scene.apply(cluster());
    let deny = |pods: Value| json!([{"name": "p egress 1", "action": "deny", "from": [{"namespaces": ["apps"], "workloads": pods}]}]);
    scene.apply([network_policy(
        "apps",
        &json!({"podSelector": {}, "policyTypes": ["Egress"]}),
    )]);
    assert_eq!(scene.access().unwrap()["rules"], deny(json!(["batch", "chat"])));
    assert!(
        scene.access().unwrap().get("default").is_none(),
        "the service is not isolated"
    );
    scene.apply([network_policy("apps", &json!({
        "podSelector": {"matchLabels": {"app": "chat"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.1.0.0/24"}}], "ports": [{"port": 8000, "endPort": 8001}]}],
    }))]);
    assert!(
        scene.access().is_none(),
        "it may reach the replicas at their port"
    );
    scene.apply([network_policy("apps", &json!({
        "podSelector": {"matchLabels": {"app": "chat"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"namespaceSelector": {"matchLabels": {"team": "models"}}}], "ports": [{"port": 80}]}],
    }))]);
    assert_eq!(
        scene.access().unwrap()["rules"],
        deny(json!(["chat"])),
        "80 is the port of the Service, not of the pods"
    );
}

#[test]
fn a_network_policy_that_cannot_be_had_is_refused_as_a_whole() {
    let mut scene = Scene::new(Membership::OptIn);
    scene.apply(cluster());
    for (spec, why) in [
        (
            json!({"podSelector": {"matchLabels": {"name": "llama-0"}}}),
            "spec.podSelector matches 1 of 2 replicas",
        ),
        (
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": "http"}]}]}),
            "names the port \"http\"",
        ),
    ] {
        let outcome = scene.apply([network_policy("models", &spec)]);
        assert!(
            messages(&outcome, Reason::NotSupported)[0].contains(why),
            "{outcome:?}"
        );
        assert!(scene.access().is_none(), "never half applied");
    }
    let outcome = scene.apply([removed(ObjectKind::NetworkPolicy, "p")]);
    assert!(
        outcome
            .verdicts
            .values()
            .all(|verdict| verdict.findings.is_empty()),
        "{outcome:?}"
    );
}
