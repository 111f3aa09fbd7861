// SPDX-License-Identifier: Apache-2.0
//! Whether an agent runs, and what it says of itself.

use super::source::some;
use crate::{
    api::Status,
    check::{
        Finding,
        facts::{AgentFacts, Answers, Facts},
    },
    config::VERSION,
};

/// Share of its memory, in percent, above which the agent is close to being ended by the kernel.
const NEARLY_FULL: u64 = 90;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let looked_at = "the lock and the admin socket in --run-dir";
    match &facts.agent {
        AgentFacts::Absent if facts.pins.own => vec![Finding::failure(
            "agent",
            looked_at,
            "no agent runs; the programs that it left place connections by the last state, and changes do not reach this node",
            "start nodemesh-agent; its log (`journalctl -u nodemesh-agent`, `kubectl logs --previous`) says why it ended",
        )],
        AgentFacts::Absent => vec![Finding::ok(
            "agent",
            looked_at,
            "no agent runs, and none has left anything",
        )],
        AgentFacts::Forbidden(socket) => vec![Finding::failure(
            "agent",
            looked_at,
            format!("this user may not talk to the agent at {}", socket.display()),
            "run this as root; the socket must belong to root with mode 0600",
        )],
        AgentFacts::Silent {
            socket,
            pid,
            state,
            error,
        } => vec![Finding::failure(
            "agent",
            looked_at,
            format!(
                "process {pid}{} holds the lock but does not answer at {}: {error}",
                state
                    .as_ref()
                    .map(|state| format!(" in state {state}"))
                    .unwrap_or_default(),
                socket.display()
            ),
            format!(
                "if it is stopped, `kill -CONT {pid}`; if it hangs, `kill -9 {pid}` and start it again: no connection notices either"
            ),
        )],
        AgentFacts::Here(answers) => running(answers),
    }
}

fn running(answers: &Answers) -> Vec<Finding> {
    let status = &answers.status;
    let mut findings = vec![version(status), ready(status)];
    findings.extend(reload(status));
    findings.extend(rejected(status));
    findings.extend(repairs(status));
    findings.extend(packet_path(status));
    findings.extend(answers.memory.map(memory));
    findings.extend(shortcut(status));
    findings
}

/// Nothing where nobody asks for it.
fn shortcut(status: &Status) -> Option<Finding> {
    let (looked_at, state) = ("datapath.shortcut of /v1/status", &status.datapath.shortcut);
    if matches!(&*state.reason, "" | "unused") {
        return None;
    }
    if state.objections.is_empty() {
        let on = if state.enabled { "on" } else { "off" };
        let found = format!("the shortcut is {on}: {}", state.why());
        return Some(Finding::ok("shortcut", looked_at, found));
    }
    let objections = state.objections.join("; ");
    let (found, remedy) = if state.enabled {
        (
            format!("the shortcut may be taken in spite of {objections}"),
            "run the agent with --shortcut auto, unless what it serves does not mind",
        )
    } else {
        (
            format!(
                "a policy asks for the shortcut, which is off: {}: {objections}",
                state.why()
            ),
            "take `shortcut` out of the policies of this node, or see docs/datapath.md for what --shortcut force does",
        )
    };
    Some(Finding::warning("shortcut", looked_at, found, remedy))
}

fn version(status: &Status) -> Finding {
    let looked_at = "versions of the agent and of this program";
    if status.version == VERSION {
        return Finding::ok(
            "agent",
            looked_at,
            format!("{}, pid {}", status.version, status.pid),
        );
    }
    Finding::warning(
        "agent",
        looked_at,
        format!("the agent is {}, this program {VERSION}", status.version),
        "use the programs of one release; restart the agent if its file was replaced",
    )
}

fn ready(status: &Status) -> Finding {
    let looked_at = "what the agent says of itself (`nodemesh status`)";
    if status.ready {
        return Finding::ok(
            "ready",
            looked_at,
            "the configuration has reached the kernel and every program runs",
        );
    }
    Finding::failure(
        "ready",
        looked_at,
        some(&status.problems),
        "the findings above name the cause; `nodemesh status` and the agent's log have the details",
    )
}

/// A reload that was refused. With files, the finding `resources` shows the file as it is now.
fn reload(status: &Status) -> Option<Finding> {
    let errors = &status.config.errors;
    (!errors.is_empty()).then(|| {
        Finding::failure(
            "reload",
            "the last reload of the agent",
            format!(
                "it was refused, the configuration before it is in force: {}",
                some(errors)
            ),
            "correct the field that the message names; the agent reads it again at once",
        )
    })
}

fn rejected(status: &Status) -> Option<Finding> {
    let control = status.config.control.as_ref()?;
    let looked_at = "resources that came from the control plane";
    if !control.rejected.is_empty() {
        return Some(Finding::failure(
            "xds",
            looked_at,
            format!("refused: {}", some(&control.rejected)),
            "correct the resource at the control plane (`nodemesh describe`); what it replaces stays in force",
        ));
    }
    if !control.waiting.is_empty() {
        return Some(Finding::warning(
            "xds",
            looked_at,
            format!("incomplete: {}", some(&control.waiting)),
            "the control plane announced a resource and did not send it: look at its log",
        ));
    }
    Some(Finding::ok(
        "xds",
        looked_at,
        format!("version {}, {} NACKs so far", control.version, control.nacks),
    ))
}

/// What other tools did to what is attached.
fn repairs(status: &Status) -> Option<Finding> {
    let attachment = &status.datapath.attachment;
    let counts: Vec<String> = attachment
        .repairs
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(what, count)| format!("{what} {count}"))
        .collect();
    (!counts.is_empty()).then(|| {
        Finding::warning(
            "repairs",
            "what the agent put right of what is attached, since it started",
            some(&counts),
            "`nodemesh status` names the last one: keep the tool that did it (a cleaner of bpf file systems, another mesh, a test) away from --pin-dir and from the cgroup's hooks",
        )
    })
}

/// Nothing on a node without one.
fn packet_path(status: &Status) -> Option<Finding> {
    let packet = status.datapath.packet.as_ref()?;
    let looked_at = "what the agent says of the packet path (`nodemesh status`)";
    if packet.problems.is_empty() {
        let interfaces = packet.interfaces.iter().map(|interface| interface.name.clone());
        let interfaces: Vec<String> = interfaces.collect();
        let found = format!(
            "{} of {} flows, on {}",
            packet.flows,
            packet.flow_limit,
            some(&interfaces)
        );
        return Some(Finding::ok("packet-path", looked_at, found));
    }
    Some(Finding::failure(
        "packet-path",
        looked_at,
        some(&packet.problems),
        "each of them names its remedy; sockets of this node are served all the same",
    ))
}

fn memory((limit, used): (u64, u64)) -> Finding {
    let looked_at = "memory.max and memory.current of the agent's cgroup";
    let found = format!("{used} of {limit} bytes, maps included");
    if used.saturating_mul(100) >= limit.saturating_mul(NEARLY_FULL) {
        return Finding::warning(
            "memory",
            looked_at,
            found,
            "raise the limit (resources.limits.memory, MemoryMax), or lower --max-backends, --max-metered-backends and --max-connections before a `nodemesh cleanup`",
        );
    }
    Finding::ok("memory", looked_at, found)
}
