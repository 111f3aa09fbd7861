// SPDX-License-Identifier: Apache-2.0
//! The control plane's log, to standard error.
//!
//! Invariant: initialised once per process, before anything else logs.

use anyhow::{Context as _, Result};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::LogFormat;

/// Starts logging.
pub fn init(filter: &str, format: LogFormat) -> Result<()> {
    let parsed = EnvFilter::builder().parse(filter).with_context(|| {
        format!(
            "`{filter}` is no log filter; use a level such as `info` or pairs such as `nodemesh_control=debug`"
        )
    })?;
    let registry = tracing_subscriber::registry().with(parsed);
    let output = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => registry.with(output.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(output.json()).try_init(),
    }
    .context("start logging")
}
