// SPDX-License-Identifier: Apache-2.0
//! The custom resource definitions: the schema of `model`, with what `kubectl` shows of each kind.
//!
//! Printed by `nodemesh-control crds`. Invariant: what the API server accepts by these is what `model` accepts, but for what one
//! resource says about another; that is told in the status of the resource.

use nodemesh_model::{Keyword as _, Kind, schema::spec_schema};
use serde_json::{Value, json};

/// Group of the resources.
pub const GROUP: &str = "nodemesh.io";
/// Version of the resources.
pub const VERSION: &str = "v1alpha1";

/// Column of `kubectl get`: heading, type, path below the object.
type Column = (&'static str, &'static str, &'static str);

struct Shape {
    plural: &'static str,
    short: &'static str,
    columns: &'static [Column],
}

fn shape(kind: Kind) -> Shape {
    let (plural, short, columns): (_, _, &[Column]) = match kind {
        Kind::Service => (
            "services",
            "msvc",
            &[
                ("Model", "string", ".spec.model"),
                ("Addresses", "string", ".spec.addresses"),
                ("Ports", "string", ".spec.ports[*].port"),
            ],
        ),
        Kind::Workload => (
            "workloads",
            "mwl",
            &[
                ("Addresses", "string", ".spec.addresses"),
                ("Identity", "string", ".spec.identity"),
                ("State", "string", ".spec.state"),
            ],
        ),
        Kind::TrafficPolicy => (
            "trafficpolicies",
            "tpol",
            &[
                ("Target", "string", ".spec.targetRef.name"),
                ("Algorithm", "string", ".spec.loadBalancer.algorithm"),
            ],
        ),
        Kind::AccessPolicy => (
            "accesspolicies",
            "apol",
            &[
                ("Target", "string", ".spec.targetRef.name"),
                ("Default", "string", ".spec.default"),
            ],
        ),
    };
    Shape {
        plural,
        short,
        columns,
    }
}

/// Plural of `kind`, as its path in the API has it.
pub fn plural(kind: Kind) -> &'static str {
    shape(kind).plural
}

/// The definition of every kind.
pub fn definitions() -> Vec<Value> {
    Kind::WORDS
        .iter()
        .map(|(kind, word)| definition(*kind, word))
        .collect()
}

fn definition(kind: Kind, word: &str) -> Value {
    let Shape {
        plural,
        short,
        columns,
    } = shape(kind);
    let accepted = r#".status.conditions[?(@.type=="Accepted")].status"#;
    let programmed = r#".status.conditions[?(@.type=="Programmed")].message"#;
    let common: [Column; 3] = [
        ("Accepted", "string", accepted),
        ("Programmed", "string", programmed),
        ("Age", "date", ".metadata.creationTimestamp"),
    ];
    let columns: Vec<Value> = columns
        .iter()
        .chain(&common)
        .map(|(name, form, path)| json!({"name": name, "type": form, "jsonPath": path}))
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{GROUP}")},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": word, "listKind": format!("{word}List"), "plural": plural,
                "singular": word.to_lowercase(), "shortNames": [short], "categories": ["nodemesh"],
            },
            "versions": [{
                "name": VERSION, "served": true, "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": columns,
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": spec_schema(kind),
                        "status": status_schema(),
                    },
                }},
            }],
        },
    })
}

fn status_schema() -> Value {
    let text = json!({"type": "string"});
    json!({
        "type": "object",
        "description": "Written by the control plane.",
        "properties": {"conditions": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
            "items": {
                "type": "object",
                "required": ["type", "status", "lastTransitionTime", "reason", "message"],
                "properties": {
                    "type": text, "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                    "observedGeneration": {"type": "integer", "format": "int64"},
                    "lastTransitionTime": {"type": "string", "format": "date-time"},
                    "reason": text, "message": text,
                },
            },
        }},
    })
}

#[cfg(test)]
mod tests {
    use std::{env, fmt::Write as _, fs, path::Path};

    use super::definitions;

    /// What Helm installs before anything else of the chart; JSON is YAML.
    #[test]
    fn the_chart_has_these_definitions() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/nodemesh/crds/nodemesh.io.yaml");
        let mut text =
            "# @generated by `UPDATE_DOCS=1 cargo test -p nodemesh-control --lib definitions`.\n".to_owned();
        for definition in definitions() {
            writeln!(text, "---\n{definition:#}").unwrap();
        }
        if env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        assert!(
            fs::read_to_string(&path).is_ok_and(|found| found == text),
            "{} is not of these definitions: UPDATE_DOCS=1 makes it anew",
            path.display()
        );
    }
}
