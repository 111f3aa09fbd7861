// SPDX-License-Identifier: Apache-2.0
//! `nodemesh get`: what the control plane has, as tables, JSON or YAML; once, or again at each change.
//!
//! Invariant: what `-o yaml` and `-o json` print of resources can be applied again.

mod rows;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use nodemesh_proto::v1::{
    BackendsRequest, Entry, GetRequest, ListRequest, NodesRequest, WatchEvent, WatchRequest, watch_event,
};
use serde_json::{Value, json};
use tonic::Code;

use super::{
    Format,
    kind::Kind,
    registry::{Client, Registry, block_on, explain},
    screen::Screen,
    table,
};

/// Arguments of `nodemesh get`.
#[derive(Args, Debug)]
pub(super) struct Get {
    /// What to show.
    #[arg(value_name = "KIND")]
    kind: Kind,
    /// Only the one of this name; of backends those of this service.
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Namespace.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    /// All namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Show every change until interrupted; nodes and backends every two seconds.
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    registry: Registry,
}

/// Time between two looks at what cannot be watched.
const INTERVAL: Duration = Duration::from_secs(2);

impl Get {
    pub(super) fn run(&self, format: Format) -> Result<()> {
        block_on(async {
            let mut client = self.registry.connect().await?;
            match self.kind.resource() {
                Some(kind) => self.resources(&mut client, kind, format).await,
                None if self.watch => self.look_again(&mut client, format).await,
                None => {
                    let (text, _) = self.look(&mut client, format).await?;
                    table::print(&text)
                }
            }
        })
    }

    fn scope(&self) -> String {
        if self.all_namespaces {
            String::new()
        } else {
            self.namespace.clone()
        }
    }

    async fn resources(&self, client: &mut Client, kind: &str, format: Format) -> Result<()> {
        loop {
            let (entries, revision) = self.list(client, kind).await?;
            table::print(&self.render(&entries, format)?)?;
            if !self.watch {
                return Ok(());
            }
            self.follow(client, kind, revision, format).await?;
        }
    }

    /// Shows changes until the control plane keeps no more of them, so that a list is needed again.
    async fn follow(&self, client: &mut Client, kind: &str, revision: i64, format: Format) -> Result<()> {
        let request = WatchRequest {
            kind: kind.to_owned(),
            namespace: self.scope(),
            from_revision: revision,
        };
        let answer = client.watch(request).await.map_err(|status| explain(&status))?;
        let mut events = answer.into_inner();
        loop {
            match events.message().await {
                Ok(Some(event)) => self.show(&event, format)?,
                Ok(None) => bail!("the control plane ended the watch"),
                Err(status) if status.code() == Code::OutOfRange => return Ok(()),
                Err(status) => return Err(explain(&status)),
            }
        }
    }

    /// The entries that were asked for, and the revision that they show.
    async fn list(&self, client: &mut Client, kind: &str) -> Result<(Vec<Entry>, i64)> {
        if let Some(name) = self.name.as_ref().filter(|_| !self.watch) {
            if self.all_namespaces {
                bail!("a name is one of a namespace; give -n in place of -A");
            }
            let request = GetRequest {
                kind: kind.to_owned(),
                namespace: self.namespace.clone(),
                name: name.clone(),
            };
            let answer = client.get(request).await.map_err(|status| explain(&status))?;
            return Ok((answer.into_inner().entry.into_iter().collect(), 0));
        }
        let request = ListRequest {
            kind: kind.to_owned(),
            namespace: self.scope(),
        };
        let answer = client
            .list(request)
            .await
            .map_err(|status| explain(&status))?
            .into_inner();
        let mut entries = answer.entries;
        entries.retain(|entry| self.name.as_ref().is_none_or(|name| entry.name == *name));
        Ok((entries, answer.revision))
    }

    fn show(&self, event: &WatchEvent, format: Format) -> Result<()> {
        let Some(entry) = &event.entry else { return Ok(()) };
        if self.name.as_ref().is_some_and(|name| entry.name != *name) {
            return Ok(());
        }
        let word = match event.r#type() {
            watch_event::Type::Put => "PUT",
            watch_event::Type::Delete => "DELETE",
            _ => return Ok(()),
        };
        if format == Format::Table {
            let name = super::kind::label(&entry.kind, &entry.namespace, &entry.name);
            let detail = match event.r#type() {
                watch_event::Type::Put => rows::summary(entry)?,
                _ => String::new(),
            };
            return table::print(format!("{word:<7} {name} {detail}").trim_end());
        }
        let object = match event.r#type() {
            watch_event::Type::Put => resource(entry)?,
            _ => json!({"kind": entry.kind, "metadata": {"namespace": entry.namespace, "name": entry.name}}),
        };
        let value = json!({"type": word, "revision": event.revision, "object": object});
        match format {
            Format::Yaml => table::print(&format!("---\n{}", table::yaml(&value)?.trim_end())),
            _ => table::print(&value.to_string()),
        }
    }

    fn render(&self, entries: &[Entry], format: Format) -> Result<String> {
        if format == Format::Table {
            let kind = self.kind.resource().unwrap_or_default();
            return Ok(table::text(&rows::resources(kind, entries, self.all_namespaces)?));
        }
        let objects = entries.iter().map(resource).collect::<Result<Vec<Value>>>()?;
        if format == Format::Yaml {
            let documents = objects.iter().map(table::yaml).collect::<Result<Vec<String>>>()?;
            return Ok(documents.join("---\n").trim_end().to_owned());
        }
        let is_one = self.name.is_some() && objects.len() == 1;
        let shown = if is_one {
            objects.into_iter().next().unwrap_or_default()
        } else {
            json!({"kind": "List", "items": objects})
        };
        Ok(serde_json::to_string_pretty(&shown)?)
    }

    async fn look_again(&self, client: &mut Client, format: Format) -> Result<()> {
        let mut screen = Screen::new();
        loop {
            let (text, count) = self.look(client, format).await?;
            let title = format!("{count}, every 2s");
            if !screen.draw(&title, &text)? {
                return Ok(());
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// What is not a resource, and how much of it there is.
    async fn look(&self, client: &mut Client, format: Format) -> Result<(String, usize)> {
        if self.kind == Kind::Nodes {
            let answer = client
                .nodes(NodesRequest {})
                .await
                .map_err(|status| explain(&status))?;
            let mut nodes = answer.into_inner().nodes;
            nodes.retain(|node| self.name.as_ref().is_none_or(|name| node.id == *name));
            if let (Some(name), true) = (&self.name, nodes.is_empty()) {
                bail!("no node {name:?} is connected");
            }
            let values: Vec<Value> = nodes.iter().map(node_value).collect();
            return Ok((rows::shown(format, &values, || rows::nodes(&nodes))?, nodes.len()));
        }
        let request = BackendsRequest {
            namespace: self.scope(),
            service: self.name.clone().unwrap_or_default(),
        };
        let answer = client
            .backends(request)
            .await
            .map_err(|status| explain(&status))?;
        let backends = answer.into_inner().backends;
        let values: Vec<Value> = backends.iter().map(rows::backend_value).collect();
        Ok((
            rows::shown(format, &values, || rows::backends(&backends))?,
            backends.len(),
        ))
    }
}

/// The resource of an entry.
pub(super) fn resource(entry: &Entry) -> Result<Value> {
    Ok(serde_json::from_str(&entry.resource)?)
}

pub(super) use rows::{backends as backend_table, node_value};
