// SPDX-License-Identifier: Apache-2.0
//! The agent's log, with that of the kernel programs merged in. The filter can be changed at run time.
//!
//! Invariant: initialised once per process, before anything else logs.

use anyhow::{Context as _, Result};
use tracing_subscriber::{
    EnvFilter, Registry, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use crate::config::LogFormat;

/// Changes the filter of the running agent.
#[derive(Clone, Debug)]
pub struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
}

impl LogFilter {
    /// Replaces the filter; an invalid one changes nothing.
    pub fn set(&self, filter: &str) -> Result<()> {
        self.handle
            .reload(parse(filter)?)
            .context("change the log filter")
    }

    /// The filter in force.
    pub fn current(&self) -> String {
        self.handle.with_current(ToString::to_string).unwrap_or_default()
    }
}

fn parse(filter: &str) -> Result<EnvFilter> {
    EnvFilter::builder().parse(filter).with_context(|| {
        format!(
            "`{filter}` is no log filter; use a level such as `info` or pairs such as `nodemesh_agent=debug`"
        )
    })
}

/// Starts logging to standard error.
pub fn init(filter: &str, format: LogFormat) -> Result<LogFilter> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let registry = tracing_subscriber::registry().with(filter);
    let output = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // Also routes the `log` crate, which aya-log writes to, into tracing.
    match format {
        LogFormat::Text => registry.with(output.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(output.json()).try_init(),
    }
    .context("start logging")?;
    Ok(LogFilter { handle })
}
