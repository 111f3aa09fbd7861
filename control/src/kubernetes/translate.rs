// SPDX-License-Identifier: Apache-2.0
//! Objects of the cluster to documents of the mesh: pure functions, one file per object.
//!
//! Called by `mesh` for each object whose inputs have changed. Invariant: what cannot be expressed is a [`Finding`] and left out; the
//! rest of the object holds. The documents are checked by `model` like those of everybody else.

use nodemesh_model::{Kind, ResourceName, document::document};
use serde_json::{Map, Value, json};

use super::{
    finding::{Finding, Reason},
    object::{Labels, ObjectName},
};

pub(super) mod annotations;
pub(super) mod custom;
pub(super) mod endpoints;
pub(super) mod membership;
pub(super) mod network_policy;
mod packet_path;
pub(super) mod pod;
pub(super) mod service;

/// A document and its name in the mesh.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    pub(super) kind: Kind,
    pub(super) name: ResourceName,
    pub(super) value: Value,
}

/// What an object comes down to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Translation {
    pub(super) documents: Vec<Document>,
    pub(super) findings: Vec<Finding>,
    /// What the object came down to before stays: it is not valid now.
    pub(super) keeps_former: bool,
}

impl Translation {
    fn note(&mut self, reason: Reason, message: impl Into<String>) {
        self.findings.push(Finding::new(reason, message));
    }

    /// Adds the resource `name` of `kind`; one whose name the mesh cannot have is noted.
    fn put(&mut self, kind: Kind, name: &ObjectName, labels: &Labels, spec: Map<String, Value>) {
        match ResourceName::new(&name.namespace, &name.name) {
            Ok(resource) => {
                let mut metadata = json!({"namespace": &*name.namespace, "name": &*name.name});
                if !labels.is_empty() {
                    metadata["labels"] = json!(labels);
                }
                self.documents.push(Document {
                    kind,
                    name: resource,
                    value: document(kind, metadata, spec.into()),
                });
            }
            Err(problem) => self.note(
                Reason::NotSupported,
                format!("metadata.name: {problem}; it is not in the mesh"),
            ),
        }
    }
}
