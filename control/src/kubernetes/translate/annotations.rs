// SPDX-License-Identifier: Apache-2.0
//! Annotations of a Service to the fields of its traffic policy: one table.
//!
//! Called by `service`. Invariant: an annotation that is not valid is noted by its name and left out; the others hold.

use nodemesh_model::{Keyword as _, Kind, Manifest, document::document};
use serde_json::{Map, Value, json};

use super::super::{
    finding::{Finding, Reason},
    object::Labels,
};
use super::membership::MESH;

/// What annotations of ours begin with.
const PREFIX: &str = "nodemesh.io/";
/// Name of the model that the replicas serve: a field of the service itself.
pub(crate) const MODEL: &str = "nodemesh.io/model";
/// How packets of clients outside the mesh are sent on: a field of the service too.
pub(crate) const PACKET_PATH: &str = "nodemesh.io/packet-path";

/// How the text of an annotation becomes the value of a field.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Number,
    /// Words with commas between them.
    List,
}

/// Annotation without its prefix, path of the field below `spec`, form.
const FIELDS: &[(&str, &[&str], Form)] = &[
    ("algorithm", &["loadBalancer", "algorithm"], Form::Text),
    ("client-key", &["clientKey"], Form::Text),
    (
        "connections-per-second",
        &["limits", "connectionsPerSecond"],
        Form::Number,
    ),
    ("locality", &["locality", "tiers"], Form::List),
    ("max-connections", &["limits", "connections"], Form::Number),
    (
        "max-connections-per-backend",
        &["limits", "perBackend", "connections"],
        Form::Number,
    ),
    (
        "max-connections-per-client",
        &["limits", "perClient", "connections"],
        Form::Number,
    ),
    ("max-requests", &["limits", "requests"], Form::Number),
    (
        "max-requests-per-backend",
        &["limits", "perBackend", "requests"],
        Form::Number,
    ),
    (
        "max-requests-per-client",
        &["limits", "perClient", "requests"],
        Form::Number,
    ),
    ("on-removal", &["onRemoval"], Form::Text),
    ("slow-start", &["slowStart", "window"], Form::Text),
];

/// Adds what `annotations` say to `spec`, the spec of a traffic policy.
pub(crate) fn read(annotations: &Labels, spec: &mut Map<String, Value>, findings: &mut Vec<Finding>) {
    for (key, text) in annotations {
        let Some(short) = key.strip_prefix(PREFIX) else {
            continue;
        };
        if [MESH, MODEL, PACKET_PATH].contains(&key.as_str()) {
            continue;
        }
        let Some((_, path, form)) = FIELDS.iter().find(|(known, ..)| *known == short) else {
            findings.push(unknown(key, short));
            continue;
        };
        match value(text, *form).and_then(|value| check(path, value)) {
            Ok(value) => insert(spec, path, value),
            Err(problem) => findings.push(Finding::new(
                Reason::InvalidAnnotation,
                format!("annotation {key}: {problem}; it has no effect"),
            )),
        }
    }
}

fn value(text: &str, form: Form) -> Result<Value, String> {
    match form {
        Form::Text => Ok(text.trim().into()),
        Form::List => Ok(text.split(',').map(|word| Value::from(word.trim())).collect()),
        Form::Number => text
            .trim()
            .parse::<i64>()
            .map(Value::from)
            .map_err(|_| format!("{text:?} is no whole number; use one such as \"64\"")),
    }
}

/// Lets the model judge: a policy that has nothing but this field.
fn check(path: &[&str], value: Value) -> Result<Value, String> {
    let mut spec = Map::new();
    spec.insert("targetRef".to_owned(), json!({"kind": Kind::Service.word()}));
    insert(&mut spec, path, value.clone());
    let manifest = Manifest::from_values([document(Kind::TrafficPolicy, json!({"name": "a"}), spec.into())]);
    let field = format!("spec.{}", path.join("."));
    let problems: Vec<String> = manifest
        .errors()
        .listed()
        .iter()
        .map(|error| error.problem.to_string())
        .collect();
    if problems.is_empty() {
        Ok(value)
    } else {
        Err(format!(
            "{} (the field {field} of a TrafficPolicy)",
            problems.join("; ")
        ))
    }
}

fn insert(fields: &mut Map<String, Value>, path: &[&str], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    if rest.is_empty() {
        fields.insert((*first).to_owned(), value);
        return;
    }
    let inner = fields.entry(*first).or_insert_with(|| Map::new().into());
    if let Value::Object(inner) = inner {
        insert(inner, rest, value);
    }
}

fn unknown(key: &str, short: &str) -> Finding {
    let near = FIELDS
        .iter()
        .map(|(known, ..)| (strsim::jaro_winkler(short, known), *known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let remedy = match near {
        Some((_, known)) => format!("did you mean {PREFIX}{known}?"),
        None => "see the list in docs/kubernetes.md, or use a TrafficPolicy".to_owned(),
    };
    Finding::new(
        Reason::InvalidAnnotation,
        format!("annotation {key}: there is none of this name; {remedy}"),
    )
}
