// SPDX-License-Identifier: Apache-2.0
//! `nodemesh check` alone names the cause of each planted fault, and the remedy: what a newcomer has.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

#[path = "check/faults.rs"]
mod faults;

use std::process::Command;

use nodemesh_agent::check::{Finding, Report, Verdict};
use nodemesh_e2e::{
    process::{Place, Process, binary},
    single_node::SingleNode,
};

/// What `nodemesh check` says on a node.
pub struct Checked {
    report: Report,
    code: Option<i32>,
}

impl Checked {
    /// On the node of `scene`, as the agent's unit would run it.
    pub fn on(scene: &SingleNode, flags: &[&str]) -> Self {
        Self::after(scene, ":", &[], flags)
    }

    /// In a mount namespace of its own after the shell commands `preparation`, by way of the command `prefix`.
    pub fn after(scene: &SingleNode, preparation: &str, prefix: &[&str], flags: &[&str]) -> Self {
        let script = format!("set -e; {preparation}; exec \"$0\" \"$@\"");
        let mut command = ["--mount", "sh", "-c", &script].map(str::to_owned).to_vec();
        command.extend(prefix.iter().map(|&word| word.to_owned()));
        command.push(binary("nodemesh").display().to_string());
        command.extend(arguments(scene, flags));
        let place = Place {
            netns: scene.node.netns().path(),
            cgroup: scene.client.cgroup().into(),
        };
        let mut process = Process::spawn(&place, "/usr/bin/unshare".as_ref(), &command).unwrap();
        let status = process.wait().unwrap();
        let (said, errors) = process.output();
        let report = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}\n{errors}"));
        Self {
            report,
            code: status.code(),
        }
    }

    /// What is not as it should be.
    pub fn bad(&self) -> Vec<&Finding> {
        let findings = self.report.findings.iter();
        findings.filter(|finding| finding.verdict > Verdict::Ok).collect()
    }

    /// That the finding of `check` has this verdict, tells of `found`, and that its remedy has `remedy` in it.
    pub fn names(&self, check: &str, verdict: Verdict, found: &str, remedy: &str) {
        let bad = self.bad();
        let says = |finding: &&&Finding| {
            finding.check == check
                && finding.verdict == verdict
                && finding.found.contains(found)
                && finding
                    .remedy
                    .as_deref()
                    .is_some_and(|told| told.contains(remedy))
        };
        assert!(
            bad.iter().any(|finding| says(&finding)),
            "no {verdict:?} of `{check}` with {found:?} and {remedy:?} in {bad:#?}"
        );
        assert_eq!(
            self.code,
            Some(i32::from(self.report.verdict() == Verdict::Failure))
        );
    }

    /// That nothing else is a failure, so that the cause is not one of many.
    pub fn names_only(&self, check: &str, verdict: Verdict, found: &str, remedy: &str) {
        self.names(check, verdict, found, remedy);
        let bad = self.bad();
        assert!(bad.iter().all(|finding| finding.check == check), "{bad:#?}");
    }
}

/// The agent's flags of `scene`, those that `flags` names apart.
fn arguments(scene: &SingleNode, flags: &[&str]) -> Vec<String> {
    let own = [
        ("--run-dir", scene.agent.run_dir()),
        ("--cgroup", scene.node.cgroup().to_owned()),
        ("--pin-dir", scene.node.pins().path().to_owned()),
        ("--state-dir", scene.agent.state_dir()),
        ("--config", scene.agent.config()),
    ];
    let mut arguments = ["check", "-o", "json"].map(str::to_owned).to_vec();
    for (flag, value) in own {
        let other = flag == "--config" && flags.contains(&"--control");
        if !flags.contains(&flag) && !other {
            arguments.extend([flag.to_owned(), value.display().to_string()]);
        }
    }
    arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
    arguments
}

#[test]
fn a_healthy_node_has_nothing_wrong_before_the_start_and_in_flight() {
    let mut scene = SingleNode::configured();
    let before = Checked::on(&scene, &[]);
    assert!(
        before.bad().is_empty() && before.code == Some(0) && !before.report.in_flight,
        "{:#?}",
        before.bad()
    );
    scene.agent.start(&[]).unwrap();
    let in_flight = Checked::on(&scene, &[]);
    assert!(
        in_flight.bad().is_empty() && in_flight.code == Some(0) && in_flight.report.in_flight,
        "{:#?}",
        in_flight.bad()
    );
    // A running agent tells where its configuration and its pins are.
    let alone = scene.agent.cli(&["check", "-o", "json"]).unwrap();
    let report: Report = serde_json::from_slice(&alone.stdout).unwrap();
    let attachment = report
        .findings
        .iter()
        .find(|finding| finding.check == "attachment")
        .unwrap();
    assert!(attachment.found.starts_with("all "), "{attachment:?}");
    assert!(
        report
            .findings
            .iter()
            .any(|finding| finding.check == "resources" && finding.found == "valid")
    );
}

#[test]
fn people_read_what_is_wrong_and_what_to_do() {
    let scene = SingleNode::configured();
    scene.agent.configure("kind: Nonsense\n").unwrap();
    let output = Command::new(binary("nodemesh"))
        .args(["--run-dir".as_ref(), scene.agent.run_dir().as_os_str()])
        .args(["check", "--quiet", "--config"])
        .arg(scene.agent.config())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("FAILURE  resources") && said.contains("remedy: ") && !said.contains("\nok "),
        "{said}"
    );
}
