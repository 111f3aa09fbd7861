// SPDX-License-Identifier: Apache-2.0
//! Each verdict, on facts that differ from those of a healthy node in one place.

mod mesh;
mod node;

use std::collections::BTreeMap;

use super::*;
use crate::{
    api::{
        AttachmentStatus, BackendState, ConfigState, ConfigStatus, ControlStatus, DatapathStatus, LogStatus,
        MapUsage, MeterStatus, Service, Status,
    },
    check::{
        Verdict,
        facts::{
            AgentFacts, Answers, CgroupFacts, ClockFacts, FolderFacts, KernelFacts, MemlockFacts, PinFacts,
            SnapshotFacts,
        },
    },
    config::VERSION,
    datapath::{
        features::{Answer, FEATURES},
        hooks::HookUse,
    },
    shortcut::State,
};

fn hook(program: &'static str) -> HookUse {
    HookUse {
        program,
        pinned: true,
        effective: true,
        others: Vec::new(),
        exclusive: None,
        error: None,
    }
}

fn status() -> Status {
    Status {
        version: VERSION.to_owned(),
        pid: 7,
        uptime_seconds: 60,
        ready: true,
        problems: Vec::new(),
        config: ConfigStatus {
            path: "/etc/mesh.yaml".into(),
            state: ConfigState::Ok,
            generation: 1,
            applied_generation: 1,
            loaded_at: 0,
            errors: Vec::new(),
            warnings: Vec::new(),
            control: Some(ControlStatus {
                connected: Some("http://127.0.0.1:15010".into()),
                ..ControlStatus::default()
            }),
        },
        datapath: DatapathStatus {
            kernel: "6.18".into(),
            cgroup: "/sys/fs/cgroup".into(),
            pin_dir: "/sys/fs/bpf/nodemesh".into(),
            programs: BTreeMap::new(),
            attachment: AttachmentStatus::default(),
            maps: [("services", 10, 100), ("flows", 100, 100)]
                .map(|(name, entries, capacity)| (name.to_owned(), MapUsage { entries, capacity }))
                .into(),
            internal_errors: [("backend".to_owned(), 0)].into(),
            frontends_not_programmed: BTreeMap::new(),
            cgroups_missing: Vec::new(),
            shortcut: State::default(),
            meter: MeterStatus {
                connections: 1,
                connection_limit: 100,
                ..MeterStatus::default()
            },
            packet: None,
        },
        log: LogStatus::default(),
    }
}

fn service() -> Service {
    Service {
        service: "models/llama".into(),
        model: None,
        address: "10.96.0.1:8000".into(),
        protocol: "TCP".into(),
        algorithm: "p2c".into(),
        session_affinity_seconds: 0,
        backends: [(BackendState::Active, 2)].into(),
        active_connections: 0,
        connections_total: 0,
        refused: BTreeMap::new(),
    }
}

fn healthy() -> Facts {
    Facts {
        kernel: KernelFacts {
            release: "6.18.4".into(),
            features: FEATURES
                .iter()
                .map(|feature| (feature.name, Answer::Yes))
                .collect(),
            btf_error: None,
            jit: Some(1),
            lockdown: None,
            memlock: MemlockFacts {
                free: Answer::Yes,
                limit: Some(65_536),
            },
        },
        lacking: Vec::new(),
        cgroup: CgroupFacts {
            root: Ok("/sys/fs/cgroup".into()),
            mounts: vec!["/sys/fs/cgroup".into()],
            hybrid: false,
            socket_controllers: Vec::new(),
        },
        pins: PinFacts {
            folder: "/sys/fs/bpf/nodemesh".into(),
            on_bpffs: true,
            mountable: true,
            own: true,
            others: Vec::new(),
        },
        hooks: vec![hook("connect4"), hook("egress")],
        cni: Vec::new(),
        clock: ClockFacts {
            now: 1_800_000_000,
            synchronized: Some(true),
        },
        folders: vec![FolderFacts {
            flag: "--run-dir",
            path: "/run/nodemesh".into(),
            error: None,
            free: Some(1 << 30),
        }],
        http: None,
        agent: AgentFacts::Here(Box::new(Answers {
            status: status(),
            services: Ok(vec![service()]),
            memory: Some((100, 50)),
        })),
        files: Some(("/etc/mesh.yaml".into(), Ok(Vec::new()))),
        control_flags: None,
        control: vec![("http://127.0.0.1:15010".into(), None)],
        certificates: vec![("/pki/ca.pem".into(), Ok(86_400 * 90))],
        snapshot: Some(SnapshotFacts {
            path: "/var/lib/nodemesh/snapshot.jsonl".into(),
            content: Ok(Some((5, "417".into()))),
        }),
    }
}

fn answers(facts: &mut Facts) -> &mut Answers {
    match &mut facts.agent {
        AgentFacts::Here(answers) => answers,
        other => panic!("{other:?}"),
    }
}

/// What differs from a healthy node; the check that sees it, its verdict, and a word of what was found and of the remedy.
struct Case(fn(&mut Facts), &'static str, Verdict, &'static str, &'static str);

const FAILURE: Verdict = Verdict::Failure;
const WARNING: Verdict = Verdict::Warning;

fn hold(cases: &[Case]) {
    for (index, Case(change, check, verdict, found, remedy)) in cases.iter().enumerate() {
        let mut facts = healthy();
        change(&mut facts);
        let findings = judge(&facts);
        let bad: Vec<_> = findings
            .iter()
            .filter(|finding| finding.verdict > Verdict::Ok)
            .collect();
        let [finding] = bad.as_slice() else {
            panic!("case {index}: not one finding but {bad:?}");
        };
        assert_eq!(
            (finding.check.as_str(), finding.verdict),
            (*check, *verdict),
            "case {index}: {finding:?}"
        );
        assert!(finding.found.contains(found), "case {index}: {finding:?}");
        let told = finding.remedy.as_deref().unwrap_or_default();
        assert!(told.contains(remedy), "case {index}: {finding:?}");
    }
}

#[test]
fn a_healthy_node_has_nothing_but_good_findings() {
    let findings = judge(&healthy());
    assert!(findings.len() > 20, "{findings:#?}");
    for finding in findings {
        assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
        assert!(
            finding.remedy.is_none() && !finding.looked_at.is_empty(),
            "{finding:?}"
        );
    }
}

#[test]
fn before_the_first_start_nothing_is_missing() {
    let mut facts = healthy();
    facts.agent = AgentFacts::Absent;
    facts.pins.own = false;
    facts.http = Some(("127.0.0.1:9464".into(), None));
    facts.snapshot.as_mut().unwrap().content = Ok(None);
    for hook in &mut facts.hooks {
        (hook.pinned, hook.effective) = (false, false);
    }
    let findings = judge(&facts);
    assert!(
        findings.iter().all(|finding| finding.verdict == Verdict::Ok),
        "{findings:#?}"
    );
}
