// SPDX-License-Identifier: Apache-2.0
//! One source of resources (a file, or a request) after parsing: the valid resources and the errors of the others.
//!
//! ```text
//! text --yaml--> Value --wire--> Document<Spec> --TryFrom--> Service | Workload | TrafficPolicy | AccessPolicy
//! ```
//!
//! Kept by the agent per file, so that only a changed file is parsed again; put together by `Resources::merge`.
//! Invariant: each document is either a resource or at least one error here.

mod again;

use std::{collections::HashMap, sync::Arc};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    invalid::{Findings, InvalidResource, InvalidResources, Problem},
    keyword::{self, Kind},
    name::{DEFAULT_NAMESPACE, ResourceName},
    resource::Resource,
    value, wire, yaml,
};

/// The resources of one source.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    documents: Vec<Document>,
    errors: InvalidResources,
}

/// A valid resource and its place.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Document {
    /// Number in the source, from 1; empty documents are not counted.
    pub number: usize,
    /// What it defines.
    pub resource: Resource,
}

impl Manifest {
    /// Parses YAML text of any number of documents; JSON is YAML.
    ///
    /// After a syntax error the rest of the text is not read.
    pub fn parse(text: &str) -> Self {
        let mut manifest = Self::default();
        let mut number = 0;
        yaml::for_each_document(text, |document| {
            number += 1;
            match document {
                Ok(value) => manifest.add(number, value),
                Err(problem) => manifest.reject(number, &Header::default(), problem.into()),
            }
        });
        manifest
    }

    /// Parses a later version of a text, of which `former` is the manifest: at the cost of the documents that changed.
    ///
    /// Resources with the same content keep the allocation that they have in `former`, as by [`Manifest::sharing`].
    pub fn parse_again(text: &str, former_text: &str, former: &Self) -> Self {
        let parsed = again::patched(text, former_text, former).unwrap_or_else(|| Self::parse(text));
        parsed.sharing(former)
    }

    /// Reads one resource from each value; `null` is skipped.
    pub fn from_values(values: impl IntoIterator<Item = Value>) -> Self {
        let mut manifest = Self::default();
        for (index, value) in values.into_iter().filter(|value| !value.is_null()).enumerate() {
            manifest.add(index + 1, value);
        }
        manifest
    }

    /// Puts resources together that are valid already; they are numbered in order.
    pub fn from_resources(resources: impl IntoIterator<Item = Resource>) -> Self {
        let documents = resources.into_iter().zip(1..);
        Self {
            documents: documents
                .map(|(resource, number)| Document { number, resource })
                .collect(),
            errors: InvalidResources::default(),
        }
    }

    /// Takes the allocation of each resource of `previous` that has the same content, so that pointers tell what changed.
    #[must_use]
    pub fn sharing(mut self, previous: &Self) -> Self {
        let known: HashMap<(Kind, &ResourceName), &Resource> = previous
            .resources()
            .map(|old| ((old.kind(), &old.metadata().name), old))
            .collect();
        for Document { resource, .. } in &mut self.documents {
            if let Some(old) = known.get(&(resource.kind(), &resource.metadata().name)) {
                resource.share(old);
            }
        }
        self
    }

    /// The valid resources with their places, in order.
    pub fn documents(&self) -> &[Document] {
        &self.documents
    }

    /// The valid resources, in order.
    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.documents.iter().map(|document| &document.resource)
    }

    /// What is wrong with the other documents.
    pub fn errors(&self) -> &InvalidResources {
        &self.errors
    }

    fn add(&mut self, number: usize, value: Value) {
        let header = Header::of(&value);
        match kind(&value).and_then(|kind| resource(kind, value)) {
            Ok(resource) => self.documents.push(Document { number, resource }),
            Err(findings) => self.reject(number, &header, findings),
        }
    }

    fn reject(&mut self, document: usize, header: &Header, findings: Findings) {
        self.errors.omit(findings.omitted);
        for finding in findings.listed {
            self.errors.push(InvalidResource {
                file: None,
                document,
                kind: header.kind.clone(),
                name: header.name.clone(),
                field: finding.field,
                problem: finding.problem,
            });
        }
    }
}

/// What a document calls itself, whether or not the rest of it is valid.
#[derive(Default)]
struct Header {
    kind: Option<String>,
    name: Option<String>,
}

impl Header {
    fn of(value: &Value) -> Self {
        let text = |pointer| value.pointer(pointer).and_then(Value::as_str);
        let namespace = text("/metadata/namespace").unwrap_or(DEFAULT_NAMESPACE);
        Self {
            kind: text("/kind").map(str::to_owned),
            name: text("/metadata/name").map(|name| format!("{namespace}/{name}")),
        }
    }
}

/// The kind of a document of this API version.
fn kind(value: &Value) -> Result<Kind, Findings> {
    let mut findings = Findings::default();
    if !value.is_object() {
        findings.add("", Problem::NotAResource { found: value.into() });
        return Err(findings);
    }
    let version = required(value, "apiVersion", "apiVersion: nodemesh.io/v1alpha1").and_then(|found| {
        if found == wire::API_VERSION {
            Ok(())
        } else {
            Err(Problem::ApiVersion {
                found: found.to_owned(),
            })
        }
    });
    findings.check("apiVersion", version);
    let kind = required(value, "kind", "kind: Service").and_then(keyword::parse);
    match findings.check("kind", kind) {
        Some(kind) if findings.is_empty() => Ok(kind),
        _ => Err(findings),
    }
}

fn required<'a>(value: &'a Value, field: &str, example: &'static str) -> Result<&'a str, Problem> {
    match value.get(field) {
        None | Some(Value::Null) => Err(Problem::Missing { example }),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(Problem::WrongType {
            found: other.into(),
            expected: "text",
        }),
    }
}

fn resource(kind: Kind, value: Value) -> Result<Resource, Findings> {
    Ok(match kind {
        Kind::Service => Resource::Service(read(value)?),
        Kind::Workload => Resource::Workload(read(value)?),
        Kind::TrafficPolicy => Resource::TrafficPolicy(read(value)?),
        Kind::AccessPolicy => Resource::AccessPolicy(read(value)?),
    })
}

fn read<S, T>(value: Value) -> Result<Arc<T>, Findings>
where
    S: DeserializeOwned,
    T: TryFrom<wire::Document<S>, Error = Findings>,
{
    let document: wire::Document<S> = value::read(value)?;
    T::try_from(document).map(Arc::new)
}

#[cfg(test)]
mod tests;
