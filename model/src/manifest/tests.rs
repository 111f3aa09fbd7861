// SPDX-License-Identifier: Apache-2.0
//! Cases: text in, errors out, word for word.

use std::fmt::Write as _;

use nodemesh_abi::{Algorithm, ClientKeySource, Protocol, limits::MAX_BACKENDS};
use serde_json::json;

use super::*;
use crate::{
    invalid::MAX_ERRORS,
    keyword::BackendState,
    resource::{Service, Target},
};

mod admission;
mod fields;
mod packet;
mod syntax;

/// Errors of `spec` as that of a resource `models/llama`; the part before the field is checked and dropped.
fn errors_of(kind: &str, spec: &str) -> Vec<String> {
    let spec: String = spec.trim().lines().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "  {line}");
        text
    });
    let text = format!(
        "apiVersion: nodemesh.io/v1alpha1\nkind: {kind}\nmetadata: {{name: llama, namespace: models}}\nspec:\n{spec}"
    );
    let prefix = format!("document 1, {kind} models/llama, ");
    let strip = |error: &InvalidResource| {
        let line = error.to_string();
        line.strip_prefix(&prefix)
            .unwrap_or_else(|| panic!("{line:?} does not start with {prefix:?}"))
            .to_owned()
    };
    Manifest::parse(&text)
        .errors()
        .listed()
        .iter()
        .map(strip)
        .collect()
}

fn service(text: &str) -> Arc<Service> {
    let manifest = Manifest::parse(text);
    assert!(manifest.errors().is_empty(), "{}", manifest.errors());
    match manifest.resources().next() {
        Some(Resource::Service(service)) => Arc::clone(service),
        other => panic!("{other:?} is no service"),
    }
}

#[test]
fn defaults() {
    let service = service(
        "apiVersion: nodemesh.io/v1alpha1\nkind: Service\nmetadata: {name: llama}\nspec: {addresses: [10.96.0.10], ports: [{port: 80}], backends: [{address: 10.1.0.2}]}",
    );
    assert_eq!(service.metadata.name.as_str(), "default/llama");
    let port = &service.ports[0];
    assert_eq!(
        (port.protocol, port.target_port, &port.name),
        (Protocol::Tcp, 80, &None)
    );
    let backend = &service.backends[0];
    assert_eq!(
        (backend.port, backend.weight, backend.state),
        (None, 1, BackendState::Active)
    );

    let policy = Manifest::from_values([json!({
        "apiVersion": "nodemesh.io/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": "p", "namespace": "models"},
        "spec": {"targetRef": {"kind": "Service"}},
    })]);
    let Some(Resource::TrafficPolicy(policy)) = policy.resources().next() else {
        panic!("{policy:?}")
    };
    assert_eq!(policy.target, Target::Namespace("models".into()));
    assert_eq!(
        (policy.load_balancer.algorithm, policy.load_balancer.table_size),
        (Algorithm::LeastRequest, None)
    );
    assert_eq!(
        (policy.client_key, policy.affinity_timeout_s),
        (ClientKeySource::Workload, 0)
    );
}

#[test]
fn one_backend_too_many_is_one_error() {
    let backends = vec![json!({"address": "10.1.0.2"}); MAX_BACKENDS + 1];
    let manifest = Manifest::from_values([json!({
        "apiVersion": "nodemesh.io/v1alpha1", "kind": "Service", "metadata": {"name": "llama"},
        "spec": {"addresses": ["10.96.0.10"], "ports": [{"port": 8000}], "backends": backends},
    })]);
    assert_eq!(
        manifest.errors().to_string(),
        "document 1, Service default/llama, spec.backends: 1000001 backends are more than the limit of 1000000; split the service"
    );
}

#[test]
fn a_hundred_errors_are_listed_and_the_others_counted() {
    let backends: Vec<_> = (0..250).map(|_| json!({"address": "nowhere"})).collect();
    let service = json!({
        "apiVersion": "nodemesh.io/v1alpha1", "kind": "Service", "metadata": {"name": "llama"},
        "spec": {"addresses": ["10.96.0.10"], "ports": [{"port": 8000}], "backends": backends},
    });
    let manifest = Manifest::from_values([service.clone(), service]);
    assert_eq!(manifest.errors().listed().len(), MAX_ERRORS);
    assert_eq!(manifest.errors().omitted(), 400);
    assert!(manifest.errors().to_string().ends_with("\nand 400 more errors"));
}

#[test]
fn sharing_keeps_the_allocations_of_equal_resources() {
    let text = |weight: u32| {
        format!(
            "apiVersion: nodemesh.io/v1alpha1\nkind: Workload\nmetadata: {{name: a}}\nspec: {{addresses: [10.1.0.2]}}\n---\napiVersion: nodemesh.io/v1alpha1\nkind: Workload\nmetadata: {{name: b}}\nspec: {{addresses: [10.1.0.3], weight: {weight}}}\n"
        )
    };
    let old = Manifest::parse(&text(1));
    let new = Manifest::parse(&text(2)).sharing(&old);
    let same: Vec<bool> = old
        .resources()
        .zip(new.resources())
        .map(|pair| matches!(pair, (Resource::Workload(a), Resource::Workload(b)) if Arc::ptr_eq(a, b)))
        .collect();
    assert_eq!(same, [true, false]);
}
