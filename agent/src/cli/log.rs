// SPDX-License-Identifier: Apache-2.0
//! `nodemesh log`.

use anyhow::Result;
use clap::Args;

use super::{Output, client::AdminClient, table};
use crate::{
    api::{LogStatus, Status},
    config::ProgramLogLevel,
};

/// Arguments of `nodemesh log`.
#[derive(Args, Debug)]
pub(super) struct Log {
    /// New filter of the agent's log, such as `debug` or `nodemesh_agent=debug`.
    #[arg(long, value_name = "FILTER")]
    agent: Option<String>,
    /// New level of the kernel programs' log.
    #[arg(long, value_enum)]
    programs: Option<ProgramLogLevel>,
}

impl Log {
    pub(super) fn run(&self, agent: &AdminClient, output: Output) -> Result<()> {
        let wanted = LogStatus {
            agent: self.agent.clone(),
            programs: self.programs,
        };
        let now = if wanted.agent.is_none() && wanted.programs.is_none() {
            agent.get::<Status>("/v1/status")?.log
        } else {
            agent.put("/v1/log", &wanted)?
        };
        if output == Output::Json {
            return table::print_json(&now);
        }
        let programs = now
            .programs
            .map_or_else(String::new, |level| format!("{level:?}").to_lowercase());
        table::print(&format!(
            "agent     {}\nprograms  {programs}",
            now.agent.unwrap_or_default()
        ))
    }
}
