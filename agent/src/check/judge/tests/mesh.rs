// SPDX-License-Identifier: Apache-2.0
//! Verdicts on where resources come from, on the agent and on its traffic.

use std::path::PathBuf;

use super::*;
use crate::api::PacketStatus;

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn where_resources_come_from_is_judged() {
    hold(&[
        Case(
            |facts| facts.files = Some((PathBuf::from("a.yaml"), Err(vec!["line 3: spec.ports".into()]))),
            "resources",
            FAILURE,
            "line 3: spec.ports",
            "correct the field",
        ),
        Case(
            |facts| facts.files = Some((PathBuf::from("a.yaml"), Ok(vec!["odd".into()]))),
            "resources",
            WARNING,
            "odd",
            "docs/configuration.md",
        ),
        Case(
            |facts| facts.control_flags = Some("--control http://10.0.0.1:1 would be plaintext".into()),
            "control",
            FAILURE,
            "plaintext",
            "flag",
        ),
        Case(
            |facts| facts.control[0].1 = Some("connect: Connection refused (os error 111)".into()),
            "control",
            FAILURE,
            "no control plane can be used",
            "start nodemesh-control",
        ),
        Case(
            |facts| {
                facts
                    .control
                    .push(("http://b:1".into(), Some("no answer within 8 s".into())));
            },
            "control",
            WARNING,
            "1 of 2",
            "firewall",
        ),
        Case(
            |facts| facts.control[0].1 = Some("invalid peer certificate: UnknownIssuer".into()),
            "control",
            FAILURE,
            "UnknownIssuer",
            "--control-ca",
        ),
        Case(
            |facts| facts.control[0].1 = Some("the control plane does not know who this is".into()),
            "control",
            FAILURE,
            "who this is",
            "--control-token-file",
        ),
        Case(
            |facts| facts.certificates[0].1 = Ok(-7200),
            "certificates",
            FAILURE,
            "expired 2 h ago",
            "issue",
        ),
        Case(
            |facts| facts.certificates[0].1 = Ok(7200),
            "certificates",
            WARNING,
            "in 2 h",
            "issue",
        ),
        Case(
            |facts| facts.certificates[0].1 = Err("no file".into()),
            "certificates",
            FAILURE,
            "no file",
            "issue",
        ),
        Case(
            |facts| facts.snapshot.as_mut().unwrap().content = Err("crc".into()),
            "snapshot",
            FAILURE,
            "crc",
            "move /var/lib/nodemesh/snapshot.jsonl away",
        ),
        Case(
            |facts| answers(facts).status.config.control.as_mut().unwrap().connected = None,
            "snapshot",
            WARNING,
            "5 s old (version 417)",
            "`control`",
        ),
    ]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn an_agent_that_does_not_answer_is_told_from_one_that_does_not_run() {
    hold(&[
        Case(
            |facts| facts.agent = AgentFacts::Absent,
            "agent",
            FAILURE,
            "no agent runs",
            "journalctl",
        ),
        Case(
            |facts| facts.agent = AgentFacts::Forbidden("/run/a".into()),
            "agent",
            FAILURE,
            "/run/a",
            "as root",
        ),
        Case(
            |facts| {
                facts.agent = AgentFacts::Silent {
                    socket: "/run/a".into(),
                    pid: "12".into(),
                    state: Some("T (stopped)".into()),
                    error: "late".into(),
                };
            },
            "agent",
            FAILURE,
            "12 in state T (stopped)",
            "kill -CONT 12",
        ),
        Case(
            |facts| answers(facts).status.version = "0.0.1".into(),
            "agent",
            WARNING,
            "0.0.1",
            "release",
        ),
        Case(
            |facts| {
                let status = &mut answers(facts).status;
                (status.ready, status.problems) = (false, vec!["the kernel does not run connect4".into()]);
            },
            "ready",
            FAILURE,
            "connect4",
            "nodemesh status",
        ),
        Case(
            |facts| answers(facts).status.config.errors = vec!["line 4".into()],
            "reload",
            FAILURE,
            "line 4",
            "correct",
        ),
        Case(
            |facts| {
                let repairs = &mut answers(facts).status.datapath.attachment.repairs;
                repairs.insert("unpinned".into(), 2);
            },
            "repairs",
            WARNING,
            "unpinned 2",
            "nodemesh status",
        ),
        Case(
            |facts| {
                let problems = vec!["eth0: gone; name another".to_owned()];
                let packet = PacketStatus {
                    problems,
                    ..PacketStatus::default()
                };
                answers(facts).status.datapath.packet = Some(packet);
            },
            "packet-path",
            FAILURE,
            "eth0: gone",
            "remedy",
        ),
        Case(
            |facts| answers(facts).memory = Some((100, 95)),
            "memory",
            WARNING,
            "95 of 100",
            "MemoryMax",
        ),
        Case(
            |facts| answers(facts).status.config.control.as_mut().unwrap().rejected = vec!["a: bad".into()],
            "xds",
            FAILURE,
            "a: bad",
            "nodemesh describe",
        ),
        Case(
            |facts| answers(facts).status.config.control.as_mut().unwrap().waiting = vec!["b".into()],
            "xds",
            WARNING,
            "incomplete: b",
            "log",
        ),
    ]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_happens_to_traffic_is_judged() {
    hold(&[
        Case(
            |facts| {
                answers(facts).services.as_mut().unwrap()[0].backends = [(BackendState::Draining, 2)].into();
            },
            "services",
            FAILURE,
            "models/llama at 10.96.0.1:8000",
            "nodemesh backends",
        ),
        Case(
            |facts| answers(facts).services = Err("gone".into()),
            "services",
            WARNING,
            "gone",
            "log",
        ),
        Case(
            |facts| {
                let maps = &mut answers(facts).status.datapath.maps;
                maps.insert(
                    "backends".into(),
                    MapUsage {
                        entries: 80,
                        capacity: 100,
                    },
                );
            },
            "maps",
            WARNING,
            "backends 80 of 100",
            "--max-backends",
        ),
        Case(
            |facts| answers(facts).status.datapath.meter.connections = 99,
            "maps",
            WARNING,
            "connections 99 of 100",
            "--max-connections",
        ),
        Case(
            |facts| {
                let missing = &mut answers(facts).status.datapath.frontends_not_programmed;
                missing.insert("a/b".into(), "no room in services".into());
            },
            "programmed",
            FAILURE,
            "no room in services",
            "--max-services",
        ),
        Case(
            |facts| {
                let errors = &mut answers(facts).status.datapath.internal_errors;
                errors.insert("connection_table".into(), 3);
            },
            "losses",
            WARNING,
            "connection_table 3",
            "--max-connections",
        ),
        Case(
            |facts| answers(facts).status.datapath.cgroups_missing = vec!["pods/x".into()],
            "workloads",
            WARNING,
            "pods/x",
            "path",
        ),
        Case(
            |facts| answers(facts).status.datapath.meter.stalled_client = 2,
            "streams",
            WARNING,
            "2 are stalled",
            "--stalled",
        ),
    ]);
}
