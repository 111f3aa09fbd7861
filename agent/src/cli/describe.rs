// SPDX-License-Identifier: Apache-2.0
//! `nodemesh describe`: all that the control plane knows of one thing.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use clap::Args;
use nodemesh_proto::v1::{BackendsRequest, GetRequest, NodesRequest};

use super::{
    Format, get,
    kind::Kind,
    registry::{Client, Registry, block_on, explain},
    table,
};

/// Arguments of `nodemesh describe`.
#[derive(Args, Debug)]
pub(super) struct Describe {
    /// What to show.
    #[arg(value_name = "KIND")]
    kind: Kind,
    /// Its name.
    #[arg(value_name = "NAME")]
    name: String,
    /// Its namespace.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    #[command(flatten)]
    registry: Registry,
}

impl Describe {
    pub(super) fn run(&self, format: Format) -> Result<()> {
        let text = block_on(async {
            let mut client = self.registry.connect().await?;
            match self.kind.resource() {
                Some(kind) => self.resource(&mut client, kind, format).await,
                None if self.kind == Kind::Nodes => self.node(&mut client, format).await,
                None => bail!("backends have no description; use `nodemesh get backends SERVICE`"),
            }
        })?;
        table::print(text.trim_end())
    }

    async fn resource(&self, client: &mut Client, kind: &str, format: Format) -> Result<String> {
        let request = GetRequest {
            kind: kind.to_owned(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        };
        let answer = client.get(request).await.map_err(|status| explain(&status))?;
        let Some(entry) = answer.into_inner().entry else {
            bail!("the control plane's answer is not what this version of the CLI expects");
        };
        let value = get::resource(&entry)?;
        if format == Format::Json {
            return Ok(serde_json::to_string_pretty(&value)?);
        }
        let mut text = String::new();
        if format == Format::Table {
            writeln!(text, "# version {}", entry.version)?;
            if entry.lease != 0 {
                writeln!(
                    text,
                    "# registered with lease {}; gone when it is not renewed",
                    entry.lease
                )?;
            }
        }
        text.push_str(&table::yaml(&value)?);
        if format == Format::Table && self.kind == Kind::Services {
            let request = BackendsRequest {
                namespace: self.namespace.clone(),
                service: self.name.clone(),
            };
            // A control plane that cannot tell the load has said the rest.
            if let Ok(answer) = client.backends(request).await {
                let loads = answer.into_inner().backends;
                writeln!(
                    text,
                    "\n# load, as the nodes report it\n{}",
                    table::text(&get::backend_table(&loads))
                )?;
            }
        }
        Ok(text)
    }

    async fn node(&self, client: &mut Client, format: Format) -> Result<String> {
        let answer = client
            .nodes(NodesRequest {})
            .await
            .map_err(|status| explain(&status))?;
        let nodes = answer.into_inner().nodes;
        let Some(node) = nodes.iter().find(|node| node.id == self.name) else {
            bail!("no node {:?} is connected; see `nodemesh get nodes`", self.name);
        };
        let value = get::node_value(node);
        match format {
            Format::Json => Ok(serde_json::to_string_pretty(&value)?),
            Format::Table | Format::Yaml => table::yaml(&value),
        }
    }
}
