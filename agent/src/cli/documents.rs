// SPDX-License-Identifier: Apache-2.0
//! Reads the documents that `apply` and `delete` are given: files, directories of them, or standard input, each with any number of
//! YAML or JSON documents. Their content is the control plane's business.
//!
//! Invariant: a document keeps its place (file and number), and what cannot be read is an error of that place while the rest goes on.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::source::files::is_manifest;

/// Largest input.
const MAX_BYTES: u64 = 256 << 20;

/// A document and where it stands.
#[derive(Debug)]
pub(super) struct Document {
    /// `mesh.yaml, document 3`.
    pub(super) place: String,
    /// What it says; its syntax error.
    pub(super) value: Result<Value, String>,
}

/// What of a document says which resource it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

/// Reads the documents of each of `paths`; `-` is standard input.
pub(super) fn read(paths: &[String]) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    for path in paths {
        if path == "-" {
            parse("standard input", &text(io::stdin().lock())?, &mut documents);
            continue;
        }
        for file in files(Path::new(path))? {
            let shown = file.display().to_string();
            let open = fs::File::open(&file).with_context(|| format!("open {shown}"))?;
            parse(
                &shown,
                &text(open).with_context(|| format!("read {shown}"))?,
                &mut documents,
            );
        }
    }
    if documents.is_empty() {
        bail!("there is no document in {}", paths.join(", "));
    }
    Ok(documents)
}

fn text(from: impl io::Read) -> Result<String> {
    let mut text = String::new();
    from.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        bail!("more than {} MiB; split it", MAX_BYTES >> 20);
    }
    Ok(text)
}

fn files(path: &Path) -> Result<Vec<std::path::PathBuf>> {
    let shown = path.display();
    if !fs::metadata(path).with_context(|| format!("{shown}"))?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(|| format!("list {shown}"))? {
        let file = entry?.path();
        let is_json = file.extension().is_some_and(|extension| extension == "json");
        if (is_manifest(&file) || is_json) && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        bail!("{shown}: no *.yaml, *.yml or *.json file is in it");
    }
    files.sort();
    Ok(files)
}

fn parse(file: &str, text: &str, documents: &mut Vec<Document>) {
    let options = serde_saphyr::options! {
        // As the agent reads them: only `true` and `false` are booleans.
        strict_booleans: true,
        with_snippet: false,
    };
    let mut reader = text.as_bytes();
    let mut number = 0;
    for value in serde_saphyr::read_with_options::<_, Value>(&mut reader, options) {
        let value = value.map_err(|error| error.to_string());
        if matches!(value, Ok(Value::Null)) {
            continue;
        }
        number += 1;
        let place = format!("{file}, document {number}");
        match value {
            Ok(mut list) if list["kind"] == "List" && list["items"].is_array() => {
                let items = list["items"]
                    .as_array_mut()
                    .map(std::mem::take)
                    .unwrap_or_default();
                let numbered = items.into_iter().enumerate();
                documents.extend(numbered.map(|(index, item)| Document {
                    place: format!("{place}, item {}", index + 1),
                    value: Ok(item),
                }));
            }
            value => documents.push(Document { place, value }),
        }
    }
}

/// Fills in the namespace of the flags where the document names none, and refuses one that contradicts it.
pub(super) fn identify(value: &mut Value, namespace: Option<&str>) -> Result<Identity, String> {
    let text =
        |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    if let Some(wanted) = namespace {
        match text(value, "/metadata/namespace") {
            None if value["metadata"].is_object() => value["metadata"]["namespace"] = json!(wanted),
            Some(found) if found != wanted => {
                return Err(format!(
                    "metadata.namespace: {found:?} is not {wanted:?}, the namespace of -n; correct one of them"
                ));
            }
            _ => {}
        }
    }
    Ok(Identity {
        kind: text(value, "/kind").unwrap_or_else(|| "resource".to_owned()),
        namespace: text(value, "/metadata/namespace").unwrap_or_else(|| "default".to_owned()),
        name: text(value, "/metadata/name").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<Document> {
        let mut documents = Vec::new();
        parse("a.yaml", text, &mut documents);
        documents
    }

    #[test]
    fn documents_are_numbered_and_empty_ones_are_none() {
        let documents = parsed("# nothing\n---\nkind: Service\n---\n\n---\nkind: Workload\n");
        let told: Vec<(&str, &Value)> = documents
            .iter()
            .map(|document| (&*document.place, &document.value.as_ref().unwrap()["kind"]))
            .collect();
        assert_eq!(
            told,
            [
                ("a.yaml, document 1", &json!("Service")),
                ("a.yaml, document 2", &json!("Workload"))
            ]
        );
    }

    #[test]
    fn json_and_lists_are_documents_too() {
        let documents = parsed(r#"{"kind": "List", "items": [{"kind": "Service"}, {"kind": "Workload"}]}"#);
        let kinds: Vec<String> = documents
            .iter()
            .map(|it| it.value.as_ref().unwrap()["kind"].to_string())
            .collect();
        assert_eq!(kinds, ["\"Service\"", "\"Workload\""]);
        assert_eq!(documents[1].place, "a.yaml, document 1, item 2");
    }

    #[test]
    fn a_syntax_error_is_one_of_its_document() {
        let documents = parsed("kind: Service\n---\nkind: [\n");
        assert!(documents[0].value.is_ok());
        assert!(documents[1].value.is_err() && documents[1].place.contains("document 2"));
    }

    #[test]
    fn a_directory_is_read_in_order_and_an_empty_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        assert!(
            read(std::slice::from_ref(&path))
                .unwrap_err()
                .to_string()
                .contains("*.yaml")
        );
        for (name, kind) in [
            ("b.yaml", "B"),
            ("a.json", "A"),
            (".hidden.yaml", "C"),
            ("d.txt", "D"),
        ] {
            fs::write(folder.path().join(name), format!("{{\"kind\": \"{kind}\"}}")).unwrap();
        }
        let kinds: Vec<String> = read(&[path])
            .unwrap()
            .iter()
            .map(|it| it.value.as_ref().unwrap()["kind"].to_string())
            .collect();
        assert_eq!(kinds, ["\"A\"", "\"B\""]);
    }

    #[test]
    fn the_namespace_of_the_flags_is_filled_in_and_not_overruled() {
        let mut bare = json!({"kind": "Service", "metadata": {"name": "chat"}});
        let identity = identify(&mut bare, Some("prod")).unwrap();
        assert_eq!(
            (identity.namespace.as_str(), &bare["metadata"]["namespace"]),
            ("prod", &json!("prod"))
        );
        let mut other = json!({"kind": "Service", "metadata": {"name": "chat", "namespace": "dev"}});
        assert!(
            identify(&mut other, Some("prod"))
                .unwrap_err()
                .contains("metadata.namespace")
        );
        assert_eq!(identify(&mut other, None).unwrap().namespace, "dev");
        assert_eq!(
            identify(&mut json!({"kind": "Service"}), None).unwrap().namespace,
            "default"
        );
        assert_eq!(identify(&mut json!([1]), Some("prod")).unwrap().kind, "resource");
    }
}
