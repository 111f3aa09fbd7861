// SPDX-License-Identifier: Apache-2.0
//! `nodemesh check`.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf};

use anyhow::Result;
use clap::Args;

use super::{Format, table};
use crate::{
    check::{Finding, Report, Scene, Verdict},
    control::ControlArgs,
};

/// Arguments of `nodemesh check`: those of the agent, of which a running one knows its own.
#[derive(Args, Debug)]
pub(super) struct Check {
    /// The agent's file or directory of resources.
    #[arg(long, env = "NODEMESH_CONFIG", value_name = "PATH")]
    config: Option<PathBuf>,
    #[command(flatten)]
    control: ControlArgs,
    /// The agent's folder for the last state of the control plane.
    #[arg(long, env = "NODEMESH_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The cgroup whose processes are in the mesh.
    #[arg(long, env = "NODEMESH_CGROUP", value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// The agent's folder for maps and links.
    #[arg(long, env = "NODEMESH_PIN_DIR", value_name = "DIR")]
    pin_dir: Option<PathBuf>,
    /// Address of the agent's metrics.
    #[arg(long, env = "NODEMESH_HTTP", value_name = "IP:PORT")]
    http: Option<SocketAddr>,
    /// Show only what is not as it should be.
    #[arg(short, long)]
    quiet: bool,
}

impl Check {
    /// Prints the findings; the result is whether everything works.
    pub(super) fn run(&self, run_dir: &std::path::Path, format: Format) -> Result<bool> {
        let report = Report::make(&self.scene(run_dir));
        match format {
            Format::Json => table::print_json(&report)?,
            Format::Yaml => table::print(table::yaml(&report)?.trim_end())?,
            Format::Table => table::print(&text(&report, self.quiet))?,
        }
        Ok(report.verdict() < Verdict::Failure)
    }

    fn scene(&self, run_dir: &std::path::Path) -> Scene {
        Scene {
            config: self.config.clone(),
            control: self.control.clone(),
            state_dir: self.state_dir.clone(),
            cgroup: self.cgroup.clone(),
            pin_dir: self.pin_dir.clone(),
            run_dir: Some(run_dir.into()),
            http: self.http,
        }
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Warning => "WARNING",
        Verdict::Failure => "FAILURE",
    }
}

/// What is wrong comes last, where a terminal shows it.
fn text(report: &Report, quiet: bool) -> String {
    let mut text = String::new();
    let mut findings: Vec<&Finding> = report
        .findings
        .iter()
        .filter(|finding| !quiet || finding.verdict > Verdict::Ok)
        .collect();
    findings.sort_by_key(|finding| finding.verdict);
    for finding in findings {
        let Finding {
            check,
            verdict,
            looked_at,
            found,
            remedy,
        } = finding;
        let _ = writeln!(text, "{:<8} {check:<13} {found}", word(*verdict));
        if *verdict > Verdict::Ok {
            let _ = writeln!(text, "{:<22} looked at: {looked_at}", "");
        }
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "{:<22} remedy: {remedy}", "");
        }
    }
    let count = |wanted| {
        report
            .findings
            .iter()
            .filter(|finding| finding.verdict == wanted)
            .count()
    };
    let _ = write!(
        text,
        "{}: {} ok, {} warnings, {} failures",
        if report.in_flight {
            "in flight"
        } else {
            "before the start"
        },
        count(Verdict::Ok),
        count(Verdict::Warning),
        count(Verdict::Failure)
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_comes_last_and_alone_if_asked() {
        let finding = |check: &str, verdict, remedy: Option<&str>| Finding {
            check: check.to_owned(),
            verdict,
            looked_at: "there".to_owned(),
            found: "that".to_owned(),
            remedy: remedy.map(str::to_owned),
        };
        let report = Report {
            version: String::new(),
            in_flight: true,
            findings: vec![
                finding("a", Verdict::Failure, Some("mend it")),
                finding("b", Verdict::Ok, None),
            ],
        };
        let all = text(&report, false);
        let expected = "ok       b             that\nFAILURE  a             that\n                       looked at: there\n                       remedy: mend it\nin flight: 1 ok, 0 warnings, 1 failures";
        assert_eq!(all, expected);
        assert!(text(&report, true).starts_with("FAILURE"));
        assert_eq!(report.verdict(), Verdict::Failure);
    }
}
