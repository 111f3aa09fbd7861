// SPDX-License-Identifier: Apache-2.0
//! The source that the flags name, whichever it is. Opened by `app` before the kernel is touched.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::watch;

use super::{SourceStatus, Version, control::ControlSource, local::FileSource, watch::SourceWatch};
use crate::{config::AgentConfig, control::ControlClient, xds::identity::USER_AGENT};

/// A source, with what tells when it changes.
#[derive(Debug)]
pub enum Input {
    /// YAML files of this node.
    Files(FileSource, SourceWatch),
    /// A control plane.
    Control(ControlSource, ControlClient),
}

impl Input {
    /// Opens the source of `config`. Files must be valid; a control plane need not be there.
    pub fn open(config: &AgentConfig) -> Result<Self> {
        if let Some(path) = &config.config {
            // Watching begins before the first read, so that no change falls between the two.
            let watch = SourceWatch::new(path);
            let source = FileSource::load(path, config.place()?)
                .map_err(|errors| anyhow!("the configuration is invalid:\n  {}", errors.join("\n  ")))?;
            let watch = watch.with_context(|| format!("watch {}", path.display()))?;
            return Ok(Self::Files(source, watch));
        }
        config.control.check()?;
        let urls: Vec<String> = config.control.control.iter().map(ToString::to_string).collect();
        let source = ControlSource::open(urls.join(","), &config.state_dir, config.place()?)?;
        Ok(Self::Control(
            source,
            ControlClient::new(config.control.clone(), USER_AGENT),
        ))
    }

    /// What became of the configuration.
    pub fn status(&self) -> watch::Receiver<Arc<SourceStatus>> {
        match self {
            Self::Files(source, _) => source.status(),
            Self::Control(source, _) => source.status(),
        }
    }

    /// What is desired now; `None` while a control plane has not said it yet.
    pub fn desired(&self) -> Option<Version> {
        match self {
            Self::Files(source, _) => Some(source.desired()),
            Self::Control(source, _) => source.desired(),
        }
    }
}
