// SPDX-License-Identifier: Apache-2.0
//! Verdicts on the kernel, the host and the hooks.

use super::*;
use crate::datapath::hooks::ForeignProgram;

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_the_kernel_lacks_is_named() {
    hold(&[
        Case(
            |facts| facts.lacking = vec!["CAP_SYS_ADMIN", "CAP_BPF"],
            "privileges",
            FAILURE,
            "CAP_SYS_ADMIN, CAP_BPF",
            "capabilities.add",
        ),
        Case(
            |facts| facts.lacking = vec!["CAP_SYS_ADMIN"],
            "privileges",
            WARNING,
            "run times",
            "CAP_SYS_ADMIN",
        ),
        Case(
            |facts| facts.kernel.release = "5.4.0-generic".into(),
            "kernel",
            WARNING,
            "5.4.0",
            "newer",
        ),
        Case(
            |facts| drop(facts.kernel.features.insert("ring_buffer", Answer::No)),
            "features",
            FAILURE,
            "ring_buffer",
            "Linux 5.8",
        ),
        Case(
            |facts| {
                facts
                    .kernel
                    .features
                    .extend([("sk_storage", Answer::No), ("iter_sk_storage", Answer::No)]);
            },
            "features",
            FAILURE,
            "sk_storage",
            "Linux 5.9",
        ),
        Case(
            |facts| {
                let features = &mut facts.kernel.features;
                features.insert("sock_addr", Answer::Unknown("EPERM".into()));
            },
            "features",
            WARNING,
            "sock_addr: EPERM",
            "root",
        ),
        Case(
            |facts| facts.kernel.btf_error = Some("no file".into()),
            "btf",
            FAILURE,
            "no file",
            "CONFIG_DEBUG_INFO_BTF",
        ),
        Case(
            |facts| facts.kernel.jit = Some(0),
            "jit",
            WARNING,
            "interpreted",
            "bpf_jit_enable=1",
        ),
        Case(
            |facts| facts.kernel.lockdown = Some("confidentiality".into()),
            "lockdown",
            FAILURE,
            "confidentiality",
            "lockdown=integrity",
        ),
        Case(
            |facts| facts.kernel.memlock.free = Answer::No,
            "memlock",
            FAILURE,
            "65536 bytes",
            "LimitMEMLOCK",
        ),
        Case(
            |facts| facts.kernel.memlock.free = Answer::Unknown("EPERM".into()),
            "memlock",
            WARNING,
            "EPERM",
            "root",
        ),
    ]);
}

#[test]
fn a_fallback_is_told_and_is_no_fault() {
    let mut facts = healthy();
    facts.kernel.features.insert("tp_send_length", Answer::No);
    (facts.kernel.memlock.free, facts.kernel.memlock.limit) = (Answer::No, None);
    facts.kernel.lockdown = Some("integrity".into());
    facts.clock.synchronized = Some(false);
    let findings = judge(&facts);
    assert!(
        findings.iter().all(|finding| finding.verdict == Verdict::Ok),
        "{findings:#?}"
    );
    let features = findings
        .iter()
        .find(|finding| finding.check == "features")
        .unwrap();
    assert!(
        features.found.contains("the meter takes them from packets"),
        "{features:?}"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_the_host_lacks_is_named() {
    hold(&[
        Case(
            |facts| {
                facts.cgroup.root = Err("no cgroup v2 hierarchy is mounted".into());
                facts.hooks.clear();
            },
            "cgroup",
            FAILURE,
            "no cgroup v2",
            "mount -t cgroup2",
        ),
        Case(
            |facts| facts.cgroup.socket_controllers = vec!["net_cls".into()],
            "cgroup",
            WARNING,
            "net_cls",
            "cgroup_no_v1=net_cls",
        ),
        Case(
            |facts| (facts.pins.on_bpffs, facts.pins.mountable) = (false, false),
            "bpffs",
            FAILURE,
            "not on a bpf file system",
            "mount -t bpf",
        ),
        Case(
            |facts| facts.pins.others = vec!["v99".into()],
            "bpffs",
            WARNING,
            "v99",
            "nodemesh cleanup",
        ),
        Case(
            |facts| facts.clock.now = 1_000,
            "clock",
            FAILURE,
            "1000 s after 1970",
            "set the clock",
        ),
        Case(
            |facts| facts.folders[0].error = Some("Read-only file system".into()),
            "folders",
            FAILURE,
            "Read-only",
            "--run-dir",
        ),
        Case(
            |facts| facts.folders[0].free = Some(1),
            "folders",
            WARNING,
            "1 bytes left",
            "make room",
        ),
        Case(
            |facts| facts.http = Some(("127.0.0.1:9464".into(), Some("Address already in use".into()))),
            "http",
            FAILURE,
            "127.0.0.1:9464",
            "--http",
        ),
    ]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn who_is_at_our_hooks_is_named() {
    fn beside(facts: &mut Facts, hook: usize, name: &str) {
        let program = ForeignProgram {
            id: 7,
            name: name.to_owned(),
        };
        facts.hooks[hook].others.push(program);
    }
    hold(&[
        Case(
            |facts| beside(facts, 0, "cil_sock4_conne"),
            "neighbours",
            WARNING,
            "Cilium",
            "socketLB",
        ),
        Case(
            |facts| beside(facts, 0, "calico_connect_"),
            "neighbours",
            WARNING,
            "Calico",
            "FelixConfiguration",
        ),
        Case(
            |facts| beside(facts, 0, "cgroup_connect4"),
            "neighbours",
            WARNING,
            "Kmesh",
            "dataplane-mode",
        ),
        Case(
            |facts| beside(facts, 0, "mb_sock_connect"),
            "neighbours",
            WARNING,
            "Merbridge",
            "Merbridge",
        ),
        Case(
            |facts| beside(facts, 0, "egress"),
            "neighbours",
            WARNING,
            "another nodemesh-agent",
            "cleanup",
        ),
        Case(
            |facts| beside(facts, 0, "mystery"),
            "neighbours",
            WARNING,
            "mystery (id 7)",
            "bpftool prog show",
        ),
        Case(
            |facts| facts.hooks[0].exclusive = Some("/sys/fs/cgroup/x".into()),
            "exclusive",
            FAILURE,
            "/sys/fs/cgroup/x",
            "bpftool cgroup detach",
        ),
        Case(
            |facts| facts.cni = vec!["Istio CNI".into()],
            "plugins",
            WARNING,
            "Istio",
            "excludeOutboundPorts",
        ),
        Case(
            |facts| facts.hooks[0].effective = false,
            "attachment",
            FAILURE,
            "connect4",
            "restart",
        ),
        Case(
            |facts| (facts.hooks[0].effective, facts.hooks[0].pinned) = (false, false),
            "attachment",
            FAILURE,
            "pins are gone",
            "restart",
        ),
        Case(
            |facts| facts.hooks[0].error = Some("EPERM".into()),
            "attachment",
            WARNING,
            "EPERM",
            "root",
        ),
    ]);
}

#[test]
fn a_meter_that_is_off_needs_no_programs_at_packets() {
    let mut facts = healthy();
    let egress = &mut facts.hooks[1];
    (egress.pinned, egress.effective) = (false, false);
    let attachment = |facts: &Facts| {
        let findings = judge(facts);
        let found = findings.into_iter().find(|finding| finding.check == "attachment");
        found.unwrap().verdict
    };
    assert_eq!(attachment(&facts), FAILURE);
    "off".clone_into(&mut answers(&mut facts).status.datapath.meter.path);
    assert_eq!(attachment(&facts), Verdict::Ok);
    facts.agent = AgentFacts::Absent;
    assert_eq!(attachment(&facts), Verdict::Ok);
}

#[test]
fn programs_that_only_watch_are_no_fault() {
    let mut facts = healthy();
    for (hook, name) in [
        (1, "sd_fw_egress"),
        (0, "sd_bind4"),
        (1, "mystery"),
        (1, "cil_from_netdev"),
    ] {
        let name = name.to_owned();
        facts.hooks[hook].others.push(ForeignProgram { id: 8, name });
    }
    facts.cni = vec!["Calico".into()];
    let findings = judge(&facts);
    assert!(
        findings.iter().all(|finding| finding.verdict == Verdict::Ok),
        "{findings:#?}"
    );
    let neighbours = findings
        .iter()
        .find(|finding| finding.check == "neighbours")
        .unwrap();
    assert!(
        neighbours.found.contains("sd_fw_egress (id 8) beside egress"),
        "{neighbours:?}"
    );
}

#[test]
fn a_shortcut_that_is_asked_for_and_off_is_told_with_the_reason() {
    let found = |reason: &str, enabled, objections: &[&str]| {
        let mut facts = healthy();
        let mut status = status();
        status.datapath.shortcut = State {
            enabled,
            reason: reason.into(),
            objections: objections.iter().map(|&text| text.into()).collect(),
            ..State::default()
        };
        let AgentFacts::Here(answers) = &mut facts.agent else {
            panic!("an agent runs");
        };
        answers.status = status;
        let findings = judge(&facts);
        let finding = findings.into_iter().find(|finding| finding.check == "shortcut");
        finding.map(|finding| (finding.verdict, finding.found))
    };
    assert_eq!(found("unused", false, &[]), None);
    assert_eq!(found("tested", true, &[]).unwrap().0, Verdict::Ok);
    let (verdict, text) = found("others", false, &["sockmap \"cilium\" (map 7)"]).unwrap();
    assert_eq!(verdict, Verdict::Warning);
    assert!(
        text.contains("cilium") && text.contains("others use maps of sockets"),
        "{text}"
    );
    assert_eq!(
        found("forced", true, &["peek: wrong"]).unwrap().0,
        Verdict::Warning
    );
}
