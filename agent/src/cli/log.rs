// SPDX-License-Identifier: Apache-2.0
//! `nodemesh log`.

use anyhow::Result;
use clap::Args;

use super::{Output, client::AdminClient, table};
use crate::{
    api::LogStatus,
    config::{AccessLogFormat, ProgramLogLevel},
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
    /// Switch the access log: one line per finished request and connection.
    #[arg(long, value_enum, value_name = "FORMAT")]
    access: Option<AccessLogFormat>,
    /// Write one of this many lines of the access log.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    access_sample: Option<u32>,
}

impl Log {
    pub(super) fn run(&self, agent: &AdminClient, output: Output) -> Result<()> {
        let wanted = LogStatus {
            agent: self.agent.clone(),
            programs: self.programs,
            access: self.access,
            access_sample: self.access_sample,
            ..LogStatus::default()
        };
        let asks_nothing = wanted == LogStatus::default();
        let now = if asks_nothing {
            agent.get("/v1/log")?
        } else {
            agent.put("/v1/log", &wanted)?
        };
        match output {
            Output::Json => table::print_json(&now),
            Output::Table => table::print(&describe(&now)),
        }
    }
}

fn describe(log: &LogStatus) -> String {
    let programs = log
        .programs
        .map_or_else(String::new, |level| format!("{level:?}").to_lowercase());
    format!(
        "agent     {}\nprograms  {programs}\naccess    {}",
        log.agent.as_deref().unwrap_or_default(),
        access(log)
    )
}

/// `json, 1 of 10; 123 written, 0 lost`.
pub(super) fn access(log: &LogStatus) -> String {
    let format = match log.access {
        None | Some(AccessLogFormat::Off) => return "off".to_owned(),
        Some(AccessLogFormat::Json) => "json",
        Some(AccessLogFormat::Logfmt) => "logfmt",
    };
    let sample = match log.access_sample {
        Some(sample) if sample > 1 => format!("1 of {sample}"),
        _ => "all".to_owned(),
    };
    let (written, lost) = (
        log.access_records.unwrap_or_default(),
        log.access_lost.unwrap_or_default(),
    );
    format!("{format}, {sample}; {written} written, {lost} lost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_log_has_a_line() {
        let mut log = LogStatus {
            agent: Some("info".into()),
            programs: Some(ProgramLogLevel::Error),
            access: Some(AccessLogFormat::Off),
            access_sample: Some(10),
            access_records: Some(3),
            access_lost: Some(1),
        };
        assert_eq!(describe(&log), "agent     info\nprograms  error\naccess    off");
        log.access = Some(AccessLogFormat::Logfmt);
        assert!(describe(&log).ends_with("\naccess    logfmt, 1 of 10; 3 written, 1 lost"));
        log.access_sample = Some(1);
        assert_eq!(access(&log), "logfmt, all; 3 written, 1 lost");
    }
}
