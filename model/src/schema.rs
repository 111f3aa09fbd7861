// SPDX-License-Identifier: Apache-2.0
//! The JSON schema of each kind, from the types that documents are read with: the one schema of files, API and custom resources.
//!
//! Called by the control plane, which makes the custom resource definitions of it. Source: Kubernetes documentation, "Specifying a
//! structural schema". Invariant: structural: no references, no `additionalProperties` beside properties, one type per value.

use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde_json::{Value, json};

use crate::{
    keyword::{Keyword, Kind},
    wire,
};

/// The schema of the `spec` of `kind`.
pub fn spec_schema(kind: Kind) -> Value {
    match kind {
        Kind::Service => schema::<wire::ServiceSpec>(),
        Kind::Workload => schema::<wire::WorkloadSpec>(),
        Kind::TrafficPolicy => schema::<wire::TrafficPolicySpec>(),
        Kind::AccessPolicy => schema::<wire::AccessPolicySpec>(),
    }
}

/// The words of a keyword, for an `enum`.
pub(crate) fn words<K: Keyword>() -> Vec<&'static str> {
    K::WORDS.iter().map(|(_, word)| *word).collect()
}

fn schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.remove("title");
    structural(&mut schema);
    schema.to_value()
}

/// Leaves out what a structural schema must not have, and what only repeats the type in Rust.
fn structural(schema: &mut Schema) {
    fn visit(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                if fields.contains_key("properties")
                    && fields.get("additionalProperties") == Some(&json!(false))
                {
                    fields.remove("additionalProperties");
                }
                if fields.get("type").is_some_and(Value::is_string) {
                    // An absent field and a null are the same to the documents; a cluster has absent ones only.
                    fields.remove("nullable");
                }
                fields.values_mut().for_each(visit);
            }
            Value::Array(items) => items.iter_mut().for_each(visit),
            _ => {}
        }
    }
    let mut value = schema.clone().to_value();
    visit(&mut value);
    if let Ok(visited) = Schema::try_from(value) {
        *schema = visited;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_are_structural_and_explain_every_field() {
        fn check(path: &str, schema: &Value) {
            assert!(schema["type"].is_string(), "{path}: {schema}");
            assert!(
                schema["description"].is_string() || path.ends_with(']'),
                "{path}: {schema}"
            );
            for word in ["$ref", "anyOf", "oneOf", "allOf", "nullable"] {
                assert!(schema.get(word).is_none(), "{path} has {word}");
            }
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                check(&format!("{path}.{name}"), field);
            }
            if let Some(items) = schema.get("items") {
                check(&format!("{path}[]"), items);
            }
        }
        for (kind, word) in Kind::WORDS {
            check(word, &spec_schema(*kind));
        }
    }
}
