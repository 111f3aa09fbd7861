// SPDX-License-Identifier: Apache-2.0
//! The examples of `docs/policies.md` are valid, mean what they say, and show every field.

use std::collections::BTreeSet;

use nodemesh_abi::Access;
use nodemesh_model::{
    Desired, Locality, Manifest, PrincipalName, Problem, ResourceName, Resources, ServiceRules,
};
use serde_json::{Value, json};

/// The YAML blocks of the document; the first is the mesh that the others are about.
fn examples() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policies.md");
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let blocks = text.split("```yaml\n").skip(1);
    blocks
        .map(|block| block.split_once("```").expect("each block ends").0.to_owned())
        .collect()
}

fn merge(texts: &[&str]) -> Resources {
    let manifests: Vec<_> = texts.iter().map(|text| Manifest::parse(text)).collect();
    let merged = Resources::merge(manifests.iter().map(|manifest| ("policies.md", manifest)));
    merged.unwrap_or_else(|errors| panic!("{errors}\n{texts:#?}"))
}

#[test]
fn each_example_is_valid_and_without_warnings() {
    let examples = examples();
    assert!(examples.len() >= 9, "{} examples", examples.len());
    for example in &examples {
        let all = if *example == examples[0] {
            merge(&[example])
        } else {
            merge(&[&examples[0], example])
        };
        assert_eq!(all.warnings(), [], "{example}");
        Desired::compile(&all, &Locality::default(), None)
            .unwrap_or_else(|error| panic!("{error}\n{example}"));
    }
}

/// What the example with the policies `named` says of each workload, and of unknown clients, at a port of the service.
fn decisions(named: &str, port: u16) -> Vec<(String, Access)> {
    let examples = examples();
    let example = examples
        .iter()
        .find(|text| text.contains(named))
        .unwrap_or_else(|| panic!("no {named}"));
    let desired = Desired::compile(&merge(&[&examples[0], example]), &Locality::default(), None);
    let desired = desired.unwrap_or_else(|error| panic!("{error}"));
    let rules = desired
        .frontends
        .values()
        .find(|f| f.key.port.get() == port)
        .and_then(|f| f.access.clone());
    let rules = rules.expect("the policy is about the port");
    let clients = desired
        .principals
        .iter()
        .filter(|(name, _)| !matches!(name, PrincipalName::Network(_)));
    clients
        .map(|(name, principal)| (name.to_string(), rules.access(principal)))
        .collect()
}

fn row(name: &str, access: Access) -> (String, Access) {
    (name.to_owned(), access)
}

#[test]
fn the_examples_decide_as_the_text_says() {
    assert_eq!(
        decisions("name: closed", 8000),
        [
            row("unknown", Access::Deny),
            row("apps/batch-1", Access::Deny),
            row("apps/chat", Access::Allow),
            row("models/llama-0", Access::Deny),
        ]
    );
    let of_llama = [
        row("unknown", Access::Audit),
        row("apps/batch-1", Access::Deny),
        row("apps/chat", Access::Allow),
        row("models/llama-0", Access::Allow),
    ];
    assert_eq!(
        decisions("name: llama, namespace: models}\nspec:\n  targetRef", 8000),
        of_llama
    );
    assert!(
        decisions("name: open", 8000)
            .iter()
            .all(|(_, access)| *access == Access::Allow)
    );
}

/// The fields that are known at `pointer` of a document.
fn known(mut document: Value, pointer: &str) -> BTreeSet<&'static str> {
    document.pointer_mut(pointer).expect("the document has it")["fieldThatIsNone"] = json!(1);
    let manifest = Manifest::from_values([document]);
    let known = manifest
        .errors()
        .listed()
        .iter()
        .find_map(|error| match &error.problem {
            Problem::UnknownField { known, .. } => Some(known.iter().copied().collect()),
            _ => None,
        });
    known.unwrap_or_else(|| panic!("{pointer}: {}", manifest.errors()))
}

/// The fields that the examples have of `kind` at `pointer`, where `*` is every position of a list.
fn shown(documents: &[Value], kind: &str, pointer: &str) -> BTreeSet<String> {
    let mut values: Vec<&Value> = documents
        .iter()
        .filter(|document| document["kind"] == kind)
        .collect();
    for part in pointer.split('/').skip(1) {
        values = values
            .into_iter()
            .flat_map(|value| match (part, value) {
                ("*", Value::Array(items)) => items.iter().collect::<Vec<_>>(),
                (field, value) => value.get(field).into_iter().collect(),
            })
            .collect();
    }
    values
        .iter()
        .filter_map(|value| value.as_object())
        .flat_map(|fields| fields.keys().cloned())
        .collect()
}

#[test]
fn each_field_is_shown() {
    let mut documents: Vec<Value> = Vec::new();
    for example in examples() {
        for document in example.split("---\n") {
            documents
                .push(serde_saphyr::from_str(document).unwrap_or_else(|error| panic!("{error}\n{document}")));
        }
    }
    let whole = |kind: &str, spec: Value| json!({"apiVersion": "nodemesh.io/v1alpha1", "kind": kind, "metadata": {"name": "x"}, "spec": spec});
    let access = || {
        whole(
            "AccessPolicy",
            json!({"targetRef": {"kind": "Service"}, "rules": [{"action": "deny", "from": [{}]}]}),
        )
    };
    let traffic = |field: &str, value: Value| {
        whole(
            "TrafficPolicy",
            json!({"targetRef": {"kind": "Service"}, field: value}),
        )
    };
    // Described elsewhere, or of kinds that are.
    let elsewhere = ["loadBalancer", "clientKey", "sessionAffinity", "weight", "state"];
    for (document, pointer, in_examples) in [
        (access(), "/spec", "/spec"),
        (access(), "/spec/rules/0", "/spec/rules/*"),
        (access(), "/spec/rules/0/from/0", "/spec/rules/*/from/*"),
        (traffic("limits", json!({})), "/spec", "/spec"),
        (traffic("limits", json!({})), "/spec/limits", "/spec/limits"),
        (
            traffic("limits", json!({"perClient": {}})),
            "/spec/limits/perClient",
            "/spec/limits/perClient",
        ),
        (
            traffic("limits", json!({"perBackend": {}})),
            "/spec/limits/perBackend",
            "/spec/limits/perBackend",
        ),
        (
            traffic("outlierDetection", json!({"silence": {}})),
            "/spec/outlierDetection",
            "/spec/outlierDetection",
        ),
        (
            traffic("outlierDetection", json!({"silence": {}})),
            "/spec/outlierDetection/silence",
            "/spec/outlierDetection/silence",
        ),
        (
            traffic("healthChecks", json!({"kind": "tcp"})),
            "/spec/healthChecks",
            "/spec/healthChecks",
        ),
        (
            traffic("slowStart", json!({})),
            "/spec/slowStart",
            "/spec/slowStart",
        ),
        (
            traffic("locality", json!({"tiers": []})),
            "/spec/locality",
            "/spec/locality",
        ),
        (whole("Workload", json!({"locality": {}})), "/spec", "/spec"),
        (
            whole("Workload", json!({"locality": {}})),
            "/spec/locality",
            "/spec/locality",
        ),
    ] {
        let kind = document["kind"].as_str().unwrap().to_owned();
        let shown = shown(&documents, &kind, in_examples);
        let known = known(document, pointer);
        let missing: Vec<_> = known
            .iter()
            .filter(|f| !shown.contains(**f) && !elsewhere.contains(f))
            .collect();
        assert!(
            missing.is_empty(),
            "{kind} {pointer}: no example shows {missing:?}"
        );
    }
}

#[test]
fn the_workloads_of_the_mesh_have_the_identities_that_the_text_says() {
    let mesh = merge(&[&examples()[0]]);
    let identity = |namespace: &str, name: &str| {
        mesh.workloads()[&ResourceName::new(namespace, name).unwrap()]
            .identity
            .to_string()
    };
    assert_eq!(identity("apps", "chat"), "spiffe://example.org/ns/apps/sa/chat");
    assert_eq!(
        identity("apps", "batch-1"),
        "spiffe://mesh.local/ns/apps/workload/batch-1"
    );
}

#[test]
fn the_example_of_outlier_detection_shows_the_defaults() {
    let examples = examples();
    let example = examples
        .iter()
        .find(|text| text.contains("outlierDetection"))
        .expect("an example");
    let resources = merge(&[&examples[0], example]);
    let policy = resources.policies().values().next().expect("a policy");
    assert_eq!(*policy.rules, ServiceRules::default());
}
