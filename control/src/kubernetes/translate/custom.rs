// SPDX-License-Identifier: Apache-2.0
//! A custom resource of ours: the document itself.
//!
//! Called by `mesh`. Invariant: one that is not valid is noted field by field, and what it said before it was changed holds.

use nodemesh_model::{Kind, Manifest};
use serde_json::Value;

use super::{
    super::{finding::Reason, object::ObjectName},
    Document, Translation,
};

/// What the resource `name` of `kind` comes down to.
pub(crate) fn translate(kind: Kind, name: &ObjectName, document: &Value) -> Translation {
    let mut translation = Translation::default();
    let manifest = Manifest::from_values([document.clone()]);
    for error in manifest.errors().listed() {
        let field = if error.field.is_empty() {
            "spec"
        } else {
            &error.field
        };
        translation.note(Reason::Invalid, format!("{field}: {}", error.problem));
    }
    if let Some(resource) = manifest.resources().next() {
        translation.documents.push(Document {
            kind,
            name: resource.metadata().name.clone(),
            value: document.clone(),
        });
    } else if translation.findings.is_empty() {
        translation.note(Reason::Invalid, format!("{name}: is no resource of the mesh"));
    }
    translation.keeps_former = translation.documents.is_empty();
    translation
}
