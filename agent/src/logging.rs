// SPDX-License-Identifier: Apache-2.0
//! The agent's log, with that of the kernel programs merged in. The filter can be changed at run time.
//!
//! Invariant: initialised once per process, before anything else logs.

mod recent;

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use tracing_subscriber::{
    EnvFilter, Registry, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use crate::config::LogFormat;
use recent::RecentLog;

/// Changes the filter of the running agent.
#[derive(Clone, Debug)]
pub struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
    /// The filter as it was asked for.
    asked: Arc<Mutex<String>>,
    recent: RecentLog,
}

impl LogFilter {
    /// Replaces the filter; an invalid one changes nothing.
    pub fn set(&self, filter: &str) -> Result<()> {
        self.handle
            .reload(parse(filter)?)
            .context("change the log filter")?;
        filter.clone_into(&mut self.asked.lock().expect("no holder panics"));
        Ok(())
    }

    /// The last lines of the log.
    pub fn recent(&self) -> String {
        self.recent.text()
    }

    /// The filter in force.
    pub fn current(&self) -> String {
        self.asked.lock().expect("no holder panics").clone()
    }
}

/// Target of the programs' messages. Always let through: what the programs say is decided by the level that they are told.
const PROGRAMS: &str = "nodemesh_ebpf=trace";

fn parse(filter: &str) -> Result<EnvFilter> {
    let parsed = EnvFilter::builder().parse(filter).with_context(|| {
        format!(
            "`{filter}` is no log filter; use a level such as `info` or pairs such as `nodemesh_agent=debug`"
        )
    })?;
    Ok(parsed.add_directive(PROGRAMS.parse().context("the directive for the programs")?))
}

/// Starts logging to standard error; the last lines are kept.
pub fn init(filter: &str, format: LogFormat) -> Result<LogFilter> {
    let asked = Arc::new(Mutex::new(filter.to_owned()));
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let recent = RecentLog::default();
    let registry = tracing_subscriber::registry().with(filter);
    let output = tracing_subscriber::fmt::layer().with_writer(recent.clone());
    // Also routes the `log` crate, which aya-log writes to, into tracing.
    match format {
        LogFormat::Text => registry.with(output.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(output.json()).try_init(),
    }
    .context("start logging")?;
    Ok(LogFilter {
        handle,
        asked,
        recent,
    })
}
