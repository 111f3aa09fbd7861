// SPDX-License-Identifier: Apache-2.0
//! Whether the definitions in the cluster are those of this control plane. The API server drops fields that a definition does not have, so what
//! an older one lacks is lost without a word, unless somebody says it.
//!
//! Run once by [`super::open`]. Invariant: nothing depends on it: whatever it finds is told and no more.

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind},
};
use nodemesh_model::{Keyword as _, Kind};
use serde_json::Value;

use super::crd;

/// Fields that one message names.
const MOST: usize = 5;
/// What helps against all of it.
const REMEDY: &str =
    "apply what `nodemesh-control crds` prints: Helm leaves definitions as they are when it upgrades";

/// Compares each definition, and tells what it lacks.
pub(super) async fn compare(client: Client) {
    let gvk = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let api: Api<DynamicObject> = Api::all_with(client, &ApiResource::from_gvk(&gvk));
    for (kind, ours) in Kind::WORDS.iter().zip(crd::definitions()) {
        let name = format!("{}.{}", crd::plural(kind.0), crd::GROUP);
        let theirs = match api.get_opt(&name).await {
            Ok(Some(theirs)) => theirs,
            // Who follows the kind tells that it is not there.
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(%name, %error, "cannot read a definition of the cluster to see whether it is of this release");
                continue;
            }
        };
        let lacking = lacking(&ours, &theirs.data);
        if let Some(first) = lacking
            .get(..MOST.min(lacking.len()))
            .filter(|first| !first.is_empty())
        {
            tracing::warn!(
                kind = kind.1,
                fields = first.join(", "),
                count = lacking.len(),
                remedy = REMEDY,
                "the definition in the cluster is older than this control plane; the API server drops fields that it does not have",
            );
        }
    }
}

/// Paths of the fields that the definition `theirs` lacks.
fn lacking(ours: &Value, theirs: &Value) -> Vec<String> {
    let spec = |definition: &Value| -> Option<Value> {
        let versions = definition["spec"]["versions"].as_array()?;
        let version = versions.iter().find(|version| version["name"] == crd::VERSION)?;
        Some(version["schema"]["openAPIV3Schema"]["properties"]["spec"].clone())
    };
    let mut found = Vec::new();
    if let (Some(ours), Some(theirs)) = (spec(ours), spec(theirs)) {
        collect(&ours, &theirs, "spec", &mut found);
    }
    found
}

fn collect(ours: &Value, theirs: &Value, path: &str, found: &mut Vec<String>) {
    if theirs["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    for (name, own) in ours["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match theirs["properties"].get(name) {
            Some(their) => collect(own, their, &path, found),
            None => found.push(path),
        }
    }
    for (inner, sign) in [("items", "[]"), ("additionalProperties", ".*")] {
        if let (Some(own), Some(their)) = (ours.get(inner), theirs.get(inner)) {
            collect(own, their, &format!("{path}{sign}"), found);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_older_definition_lacks_is_named_by_its_path() {
        for ours in crd::definitions() {
            assert_eq!(lacking(&ours, &ours), Vec::<String>::new());
        }
        let traffic = crd::definitions().remove(2);
        let mut older = traffic.clone();
        let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
        let fields = older.pointer_mut(spec).and_then(Value::as_object_mut).unwrap();
        fields.remove("onRemoval");
        fields["locality"]["properties"]
            .as_object_mut()
            .unwrap()
            .remove("strict");
        assert_eq!(
            lacking(&traffic, &older),
            ["spec.locality.strict", "spec.onRemoval"]
        );
        assert_eq!(
            lacking(&older, &traffic),
            Vec::<String>::new(),
            "a newer one lacks nothing"
        );
        let list = |fields: Value| json!({"items": {"properties": fields}});
        let mut found = Vec::new();
        collect(
            &list(json!({"a": {}})),
            &list(json!({})),
            "spec.rules",
            &mut found,
        );
        assert_eq!(found, ["spec.rules[].a"]);
    }
}
