// SPDX-License-Identifier: Apache-2.0
//! Questions and answers.

use nodemesh_model::{Manifest, Resources, resource::Locality};

use super::*;

const MESH: &str = "
apiVersion: nodemesh.io/v1alpha1
kind: Service
metadata: {name: llama, namespace: prod}
spec: {addresses: [10.1.0.1], ports: [{name: http, port: 80, targetPort: 8000}, {name: grpc, port: 81, targetPort: 8001}], backends: [{address: 10.0.0.1}]}
---
apiVersion: nodemesh.io/v1alpha1
kind: Workload
metadata: {name: chat, namespace: apps}
spec: {addresses: [10.0.0.7]}
---
apiVersion: nodemesh.io/v1alpha1
kind: AccessPolicy
metadata: {name: who, namespace: prod}
spec:
  targetRef: {kind: Service}
  default: deny
  rules:
  - {name: apps, action: allow, from: [{namespaces: [apps]}]}
  - {name: not-grpc, action: deny, from: [{workloads: [chat]}], ports: [81]}
  - {name: office, action: allow, from: [{cidrs: [192.168.0.0/16]}]}
";

fn ask(source: &str, service: &str) -> Result<Explanation> {
    let manifest = Manifest::parse(MESH);
    assert!(manifest.errors().is_empty(), "{}", manifest.errors());
    let resources = Resources::merge([("mesh.yaml", &manifest)]).expect("valid resources");
    let desired = Desired::compile(&resources, &Locality::default(), None).expect("a small mesh");
    let query = PolicyQuery {
        source: source.into(),
        service: service.into(),
    };
    explain(&desired, &query)
}

/// `access, rule` of each port.
fn short(source: &str, service: &str) -> Vec<String> {
    let ports = ask(source, service).unwrap().ports;
    let shown = |port: PortAccess| format!("{}: {}", port.access, port.rule.unwrap_or_default());
    ports.into_iter().map(shown).collect()
}

#[test]
fn the_rule_that_decides_is_named() {
    for source in ["apps/chat", "10.0.0.7", "::ffff:10.0.0.7"] {
        let expected = [
            "allow: AccessPolicy prod/who, apps",
            "deny: AccessPolicy prod/who, not-grpc",
        ];
        assert_eq!(short(source, "prod/llama"), expected, "{source}");
    }
    let explanation = ask("apps/chat", "prod/llama:81").unwrap();
    assert_eq!(
        explanation.identities,
        ["spiffe://mesh.local/ns/apps/workload/chat"]
    );
    let matching = &explanation.ports[0].matching;
    let actions: Vec<&str> = matching.iter().map(|rule| rule.action.as_str()).collect();
    assert_eq!(actions, ["deny", "allow"]);
}

#[test]
fn a_default_and_an_address_decide_too() {
    assert_eq!(
        short("10.9.9.9", "prod/llama:80"),
        ["deny: AccessPolicy prod/who, default"]
    );
    assert_eq!(
        short("192.168.3.4", "prod/llama:80"),
        ["allow: AccessPolicy prod/who, office"]
    );
    assert_eq!(
        short("unknown", "prod/llama:80"),
        ["by_address: AccessPolicy prod/who, office"]
    );
    assert!(ask("10.9.9.9", "prod/llama:80").unwrap().ports[0].default);
}

#[test]
fn what_does_not_exist_is_said_to_be_missing() {
    for (source, service, word) in [
        ("apps/none", "prod/llama", "no workload apps/none"),
        ("chat", "prod/llama", "names no source"),
        ("apps/chat", "prod/none", "no service prod/none"),
        ("apps/chat", "prod/llama:82", "with port 82"),
        ("apps/chat", "llama", "names no service"),
        ("apps/chat", "prod/llama:http", "is no port"),
    ] {
        let error = format!("{:#}", ask(source, service).unwrap_err());
        assert!(error.contains(word), "{error}");
    }
}
