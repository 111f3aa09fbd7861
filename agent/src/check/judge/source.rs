// SPDX-License-Identifier: Apache-2.0
//! Whether resources can be had: from files, from control planes, from the disk.

use std::{collections::BTreeSet, path::Path};

use crate::check::{
    Finding,
    facts::{AgentFacts, Facts, SnapshotFacts},
};

/// Seconds before its end at which a certificate is worth a word.
const EXPIRES_SOON: i64 = 7 * 86_400;
/// Lines that are shown of many.
const SHOWN: usize = 5;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(facts.files.as_ref().map(|(path, read)| files(path, read)));
    findings.extend(facts.control_flags.as_ref().map(|error| {
        Finding::failure(
            "control",
            "the flags about the control plane",
            error,
            "correct the flag that the message names",
        )
    }));
    findings.extend(control(facts));
    findings.extend(
        facts
            .certificates
            .iter()
            .map(|(path, left)| certificate(path, left)),
    );
    findings.extend(facts.snapshot.as_ref().map(|found| snapshot(found, facts)));
    let absent = matches!(facts.agent, AgentFacts::Absent);
    if facts.files.is_none() && facts.control.is_empty() && facts.control_flags.is_none() && absent {
        findings.push(Finding::ok(
            "resources",
            "--config and --control",
            "neither was given, so no resources were looked at: give this command the agent's flags or environment",
        ));
    }
    findings
}

/// The first of many lines.
pub(super) fn some(lines: &[String]) -> String {
    let shown = lines[..lines.len().min(SHOWN)].join("; ");
    match lines.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

fn files(path: &Path, read: &Result<Vec<String>, Vec<String>>) -> Finding {
    let looked_at = format!("{}, read as the agent does (--config)", path.display());
    match read {
        Err(errors) => Finding::failure(
            "resources",
            looked_at,
            format!("invalid: {}", some(errors)),
            "correct the field that the message names; until then a running agent keeps the last good configuration, and one that starts ends",
        ),
        Ok(warnings) if warnings.is_empty() => Finding::ok("resources", looked_at, "valid"),
        Ok(warnings) => Finding::warning(
            "resources",
            looked_at,
            some(warnings),
            "see docs/configuration.md about the fields that the message names",
        ),
    }
}

fn control(facts: &Facts) -> Option<Finding> {
    let down: Vec<String> = facts
        .control
        .iter()
        .filter_map(|(url, error)| Some(format!("{url}: {}", error.as_ref()?)))
        .collect();
    let looked_at = "each URL of --control, by connecting and asking for one resource";
    let errors = facts.control.iter().filter_map(|(_, error)| error.as_deref());
    let remedy = errors.map(reachable).collect::<BTreeSet<_>>();
    let remedy = remedy.into_iter().collect::<Vec<_>>().join("; ");
    match (facts.control.len(), down.len()) {
        (0, _) => None,
        (all, 0) => Some(Finding::ok(
            "control",
            looked_at,
            format!("{all} of {all} control planes answer"),
        )),
        (all, out) if out < all => Some(Finding::warning(
            "control",
            looked_at,
            format!("{out} of {all} control planes cannot be used: {}", some(&down)),
            remedy,
        )),
        _ => Some(Finding::failure(
            "control",
            looked_at,
            format!("no control plane can be used: {}", some(&down)),
            remedy,
        )),
    }
}

/// What to do about an error of connecting.
fn reachable(error: &str) -> &'static str {
    const KNOWN: [(&[&str], &str); 5] = [
        (
            &["refused"],
            "nothing listens there: start nodemesh-control, or correct the port of --control",
        ),
        (
            &["certificate", "tls", "UnknownIssuer"],
            "its certificate is not trusted: --control-ca must name the authority, --control-name the name that it is for",
        ),
        (
            &["who this is", "not allowed"],
            "give the agent an identity that the access file knows: --control-token-file, or --control-cert and --control-key",
        ),
        (
            &["no answer", "timed out", "deadline", "unreachable"],
            "packets do not get there: look at routes, firewalls and NetworkPolicies",
        ),
        (
            &["lookup", "resolve", "Name or service"],
            "the name is not in DNS: correct the host of --control",
        ),
    ];
    let fits = |words: &[&str]| words.iter().any(|word| error.contains(word));
    KNOWN.iter().find(|(words, _)| fits(words)).map_or(
        "correct what the message names, and look at the log of nodemesh-control",
        |(_, remedy)| remedy,
    )
}

fn certificate(path: &Path, left: &Result<i64, String>) -> Finding {
    let shown = path.display();
    let looked_at = format!("validity of {shown}");
    let remedy = "issue a new one and put it into the place of the file; it is read for each connection";
    match left {
        Err(error) => Finding::failure("certificates", looked_at, format!("{shown}: {error}"), remedy),
        Ok(left) if *left <= 0 => Finding::failure(
            "certificates",
            looked_at,
            format!("{shown} expired {} h ago", -left / 3600),
            remedy,
        ),
        Ok(left) if *left < EXPIRES_SOON => Finding::warning(
            "certificates",
            looked_at,
            format!("{shown} expires in {} h", left / 3600),
            remedy,
        ),
        Ok(left) => Finding::ok(
            "certificates",
            looked_at,
            format!("{shown} is valid for {} days", left / 86_400),
        ),
    }
}

fn snapshot(snapshot: &SnapshotFacts, facts: &Facts) -> Finding {
    let path = snapshot.path.display();
    let looked_at = format!("{path}, read as the agent does");
    let unconnected = facts
        .agent
        .status()
        .and_then(|status| status.config.control.as_ref())
        .is_some_and(|control| control.connected.is_none());
    match &snapshot.content {
        Err(error) => Finding::failure(
            "snapshot",
            looked_at,
            error,
            format!(
                "move {path} away: the agent writes a new one at the next change; until then it starts without a state while no control plane answers"
            ),
        ),
        Ok(None) => Finding::ok(
            "snapshot",
            looked_at,
            "there is none yet: an agent that starts waits for the control plane",
        ),
        Ok(Some((age, version))) if unconnected => Finding::warning(
            "snapshot",
            looked_at,
            format!(
                "the state in force is {age} s old (version {version}), and no control plane is connected"
            ),
            "the finding `control` says why; connections are placed by this state until then",
        ),
        Ok(Some((age, version))) => Finding::ok(
            "snapshot",
            looked_at,
            format!("version {version}, written {age} s ago"),
        ),
    }
}
