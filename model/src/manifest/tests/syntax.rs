// SPDX-License-Identifier: Apache-2.0
//! Cases of texts and documents as a whole: YAML, headers, hostile input.

use super::*;

const HEAD: &str = "apiVersion: nodemesh.io/v1alpha1\nkind: Workload\n";

fn errors(text: &str) -> Vec<String> {
    Manifest::parse(text)
        .errors()
        .listed()
        .iter()
        .map(ToString::to_string)
        .collect()
}

type Cases = &'static [(&'static str, &'static [&'static str])];

const DOCUMENTS: Cases = &[
    (
        "- 1",
        &["document 1: is a list; write a mapping with apiVersion, kind, metadata and spec"],
    ),
    (
        "hello",
        &["document 1: is the text \"hello\"; write a mapping with apiVersion, kind, metadata and spec"],
    ),
    (
        "{}",
        &[
            "document 1, apiVersion: is missing; add apiVersion: nodemesh.io/v1alpha1",
            "document 1, kind: is missing; add kind: Service",
        ],
    ),
    (
        "apiVersion: v1\nkind: Servce\nmetadata: {name: a, namespace: b}",
        &[
            "document 1, Servce b/a, apiVersion: is \"v1\"; this release knows nodemesh.io/v1alpha1 only",
            "document 1, Servce b/a, kind: \"Servce\" is not known here; did you mean \"Service\"?",
        ],
    ),
    (
        "apiVersion: nodemesh.io/v1alpha1\nkind: Gateway",
        &[
            "document 1, Gateway, kind: \"Gateway\" is not known here; use one of Service, Workload, TrafficPolicy, AccessPolicy",
        ],
    ),
    (
        "apiVersion: 1\nkind: [Service]",
        &[
            "document 1, apiVersion: is the number 1; write text, in quotes: \"1\"",
            "document 1, kind: is a list; write text",
        ],
    ),
    (
        "a: 1\na: 2\n---\nb: [\n---\nc: 1",
        &[
            "document 1: line 2, column 1: key \"a\" is given twice; remove one of the two",
            "document 2: line 4, column 4: unclosed bracket '['; correct the YAML there, what follows is not read",
        ],
    ),
    (
        "a: *x",
        &[
            "document 1: line 1, column 4: alias references unknown anchor; correct the YAML there, what follows is not read",
        ],
    ),
    (
        "a: b: c",
        &[
            "document 1: line 1, column 5: mapping values are not allowed in this context; correct the YAML there, what follows is not read",
        ],
    ),
];

const WORKLOADS: Cases = &[
    (
        "spec: {cgroup: a}",
        &["document 1, Workload, metadata: is missing; add metadata: {name: llama}"],
    ),
    (
        "metadata: {name: a}",
        &["document 1, Workload default/a, spec: is missing; add spec: {...}"],
    ),
    (
        "metadata: {namespace: a}\nspec: {cgroup: a}",
        &["document 1, Workload, metadata.name: is missing; add name: llama"],
    ),
    (
        "metadata: {name: A, namespace: b.c}\nspec: {cgroup: a}",
        &[
            "document 1, Workload b.c/A, metadata.namespace: \"b.c\" is no DNS label; use 1 to 63 of a-z, 0-9 and -, not - at either end",
            "document 1, Workload b.c/A, metadata.name: \"A\" is no DNS label; use 1 to 63 of a-z, 0-9 and -, not - at either end",
        ],
    ),
    (
        "metadata: {name: a, labels: {v: 1.0}}\nspec: {cgroup: a}",
        &[
            "document 1, Workload default/a, metadata.labels.v: is the number 1.0; write text, in quotes: \"1.0\"",
        ],
    ),
    (
        "metadata: {name: a}\nspec: {cgroup: a}\nstatus: {}",
        &[
            "document 1, Workload default/a, status: unknown field; use one of apiVersion, kind, metadata, spec",
        ],
    ),
    (
        "metadata: {name: \"a\\n\\u001b[31m\"}\nspec: {cgroup: a}",
        &[
            "document 1, Workload default/a\\n\\u{1b}[31m, metadata.name: \"a\\n\\u{1b}[31m\" is no DNS label; use 1 to 63 of a-z, 0-9 and -, not - at either end",
        ],
    ),
];

#[test]
fn documents() {
    for (given, expected) in DOCUMENTS {
        assert_eq!(errors(given), *expected, "{given}");
    }
    for (given, expected) in WORKLOADS {
        assert_eq!(errors(&format!("{HEAD}{given}")), *expected, "{given}");
    }
}

#[test]
fn empty_documents_are_skipped_and_not_counted() {
    assert!(errors("").is_empty());
    assert!(errors("# nothing\n---\n---\n~\n...\n").is_empty());
    assert_eq!(errors("---\n---\n# nothing\n---\n- 1\n").len(), 1);
    assert!(errors("---\n---\n# nothing\n---\n- 1\n")[0].starts_with("document 1: "));
}

#[test]
fn errors_of_one_document_do_not_hide_the_others() {
    let text = format!(
        "{HEAD}metadata: {{name: a}}\nspec: {{weight: 0}}\n---\n{HEAD}metadata: {{name: b}}\nspec: {{cgroup: b}}\n---\n{HEAD}metadata: {{name: c}}\nspec: {{cgroup: /}}\n"
    );
    let manifest = Manifest::parse(&text);
    let numbers: Vec<usize> = manifest
        .errors()
        .listed()
        .iter()
        .map(|error| error.document)
        .collect();
    assert_eq!(numbers, [1, 1, 3]);
    let valid: Vec<_> = manifest
        .documents()
        .iter()
        .map(|document| (document.number, document.resource.metadata().name.as_str()))
        .collect();
    assert_eq!(valid, [(2, "default/b")]);
}

#[test]
fn anchors_and_merge_keys_may_be_used() {
    let text = "apiVersion: nodemesh.io/v1alpha1\nkind: Service\nmetadata: {name: a}\nspec:\n  addresses: [10.96.0.10]\n  ports: [{port: 1}]\n  backends:\n  - &first {address: 10.1.0.2, weight: 7}\n  - {<<: *first, address: 10.1.0.3}\n";
    let weights: Vec<u32> = service(text)
        .backends
        .iter()
        .map(|backend| backend.weight)
        .collect();
    assert_eq!(weights, [7, 7]);
}

#[test]
fn a_small_text_cannot_become_a_large_value() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let inner = format!("*a{}, ", level - 1).repeat(10);
        let _ = writeln!(bomb, "a{level}: &a{level} [{}]", inner.trim_end_matches(", "));
    }
    let found = errors(&bomb);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].ends_with("anchors and aliases expand to too much; write the values out"),
        "{found:?}"
    );

    for deep in ["[".repeat(100_000), "a: [".repeat(1_000), "- ".repeat(100_000)] {
        assert_eq!(errors(&deep).len(), 1);
    }
}

#[test]
fn a_long_text_in_a_message_is_cut() {
    let found = errors(&format!(
        "{HEAD}metadata: {{name: a}}\nspec: {{addresses: [{}]}}",
        "x".repeat(10_000)
    ));
    assert!(found[0].len() < 250, "{}", found[0]);
}

#[test]
fn any_text_is_refused_without_a_panic() {
    use proptest::prelude::*;
    proptest!(|(text in "[-a-z0-9:{}\\[\\],&*!|>'\"%@#? \\n\\t~]{0,80}")| {
        let manifest = Manifest::parse(&text);
        prop_assert_eq!(manifest.documents().len(), 0);
    });
}
