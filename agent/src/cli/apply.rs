// SPDX-License-Identifier: Apache-2.0
//! `nodemesh apply` and `nodemesh delete`.
//!
//! Invariant: every document is tried whatever became of the others, each has one line of outcome, and one failure is exit code 1.

use anyhow::{Result, bail};
use clap::Args;
use nodemesh_proto::v1::{ApplyRequest, DeleteRequest, apply_response::Outcome};
use tonic::Code;

use super::{
    documents::{self, Document, Identity},
    kind::{Kind, label},
    registry::{Client, Registry, block_on, explain},
    table,
};

/// Arguments of `nodemesh apply`.
#[derive(Args, Debug)]
pub(super) struct Apply {
    /// File with YAML or JSON documents, directory of such files, or - for standard input. May be repeated.
    #[arg(short, long, value_name = "FILE", required = true)]
    filename: Vec<String>,
    /// Namespace of documents that name none; others must be in it.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Have the control plane check the documents, and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    registry: Registry,
}

impl Apply {
    /// Applies the documents; the result is whether all could be.
    pub(super) fn run(&self) -> Result<bool> {
        let documents = documents::read(&self.filename)?;
        block_on(async {
            let mut client = self.registry.connect().await?;
            let mut is_well = true;
            for document in documents {
                let place = document.place.clone();
                let line = self.apply(&mut client, document).await;
                is_well &= tell(&place, line)?;
            }
            Ok(is_well)
        })
    }

    async fn apply(&self, client: &mut Client, document: Document) -> Result<String> {
        let (value, identity) = identified(document, self.namespace.as_deref())?;
        let request = ApplyRequest {
            resource: value.to_string(),
            expect_version: String::new(),
            dry_run: self.dry_run,
        };
        let shown = label(&identity.kind, &identity.namespace, &identity.name);
        let answer = match client.apply(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => bail!("{shown}: {}", explain(&status)),
        };
        for warning in &answer.warnings {
            eprintln!("warning: {shown}: {warning}");
        }
        let word = match answer.outcome() {
            Outcome::Created => "created",
            Outcome::Updated => "configured",
            Outcome::Unchanged => "unchanged",
            Outcome::Unspecified => "applied",
        };
        let dry = if self.dry_run { " (dry run)" } else { "" };
        let shown = answer
            .entry
            .map_or(shown, |entry| label(&entry.kind, &entry.namespace, &entry.name));
        Ok(format!("{shown} {word}{dry}"))
    }
}

/// Arguments of `nodemesh delete`.
#[derive(Args, Debug)]
pub(super) struct Delete {
    /// What to delete.
    #[arg(
        value_name = "KIND",
        required_unless_present = "filename",
        conflicts_with = "filename"
    )]
    kind: Option<Kind>,
    /// Names of what to delete.
    #[arg(
        value_name = "NAME",
        required_unless_present = "filename",
        conflicts_with = "filename"
    )]
    names: Vec<String>,
    /// Delete what these documents name: file, directory, or - for standard input. May be repeated.
    #[arg(short, long, value_name = "FILE")]
    filename: Vec<String>,
    /// Namespace; `default` if neither this nor a document names one.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Take it as done if there is no such resource.
    #[arg(long)]
    ignore_not_found: bool,
    #[command(flatten)]
    registry: Registry,
}

impl Delete {
    /// Deletes the resources; the result is whether all could be.
    pub(super) fn run(&self) -> Result<bool> {
        let targets = self.targets()?;
        block_on(async {
            let mut client = self.registry.connect().await?;
            let mut is_well = true;
            for (place, identity) in targets {
                let line = match identity {
                    Ok(identity) => self.delete(&mut client, identity).await,
                    Err(error) => Err(error),
                };
                is_well &= tell(&place, line)?;
            }
            Ok(is_well)
        })
    }

    fn targets(&self) -> Result<Vec<(String, Result<Identity>)>> {
        let Some(kind) = self.kind else {
            let documents = documents::read(&self.filename)?;
            let identity = |document: Document| {
                let place = document.place.clone();
                let identity = identified(document, self.namespace.as_deref()).map(|(_, identity)| identity);
                (place, identity)
            };
            return Ok(documents.into_iter().map(identity).collect());
        };
        let Some(kind) = kind.resource() else {
            bail!("only services, workloads, trafficpolicies and accesspolicies can be deleted");
        };
        let identity = |name: &String| {
            let identity = Identity {
                kind: kind.to_owned(),
                namespace: self.namespace.clone().unwrap_or_else(|| "default".to_owned()),
                name: name.clone(),
            };
            (name.clone(), Ok(identity))
        };
        Ok(self.names.iter().map(identity).collect())
    }

    async fn delete(&self, client: &mut Client, identity: Identity) -> Result<String> {
        let shown = label(&identity.kind, &identity.namespace, &identity.name);
        let request = DeleteRequest {
            kind: identity.kind,
            namespace: identity.namespace,
            name: identity.name,
            expect_version: String::new(),
        };
        match client.delete(request).await {
            Ok(_) => Ok(format!("{shown} deleted")),
            Err(status) if status.code() == Code::NotFound && self.ignore_not_found => {
                Ok(format!("{shown} not found"))
            }
            Err(status) => bail!("{shown}: {}", explain(&status)),
        }
    }
}

fn identified(document: Document, namespace: Option<&str>) -> Result<(serde_json::Value, Identity)> {
    let mut value = document.value.map_err(anyhow::Error::msg)?;
    let identity = documents::identify(&mut value, namespace).map_err(anyhow::Error::msg)?;
    Ok((value, identity))
}

/// Prints what became of the document at `place`; whether that is well.
fn tell(place: &str, line: Result<String>) -> Result<bool> {
    match line {
        Ok(line) => table::print(&line).map(|()| true),
        Err(error) => {
            eprintln!("error: {place}: {}", format!("{error:#}").replace('\n', "\n  "));
            Ok(false)
        }
    }
}
