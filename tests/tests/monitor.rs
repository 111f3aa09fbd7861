// SPDX-License-Identifier: Apache-2.0
//! `nodemesh monitor`: what is decided is seen as it happens, by whom it concerns, and a flood of it harms nobody.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{
    io::{Read as _, Write as _},
    ops::Range,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use nodemesh_agent::{
    api::{Event, EventKind},
    config::ADMIN_SOCKET,
};
use nodemesh_e2e::{
    eventually::eventually,
    monotonic::now_ns,
    process::Process,
    single_node::{Connects, SingleNode, said},
};
use serde_json::Value;

/// The ports of the services `models/a` and `models/b`, which have no backends.
const A: u16 = 8000;
const B: u16 = 8001;
const LOST: &str = "nodemesh_events_lost_total";

fn scene() -> SingleNode {
    SingleNode::started(
        |scene| scene.service_of("a", A, "") + &scene.service_of("b", B, ""),
        &[],
    )
}

/// `nodemesh monitor`, running.
fn monitor(scene: &SingleNode, arguments: &[&str]) -> Process {
    let folder = scene.agent.run_dir().display().to_string();
    let arguments = [&["--run-dir", &folder, "monitor"], arguments].concat();
    scene.client.spawn("nodemesh", &arguments).unwrap()
}

/// What the agent remembers.
fn remembered(scene: &SingleNode, arguments: &[&str]) -> String {
    let arguments = [&["monitor", "--follow=false"], arguments].concat();
    let output = scene.agent.cli(&arguments).unwrap();
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Is refused `count` times on `port`; returns the process that was.
fn refused(scene: &SingleNode, port: u16, count: u64) -> u32 {
    let (address, count_word) = (scene.address(port), count.to_string());
    let arguments = ["connect", &address, "--count", &count_word];
    let probe = scene.client.spawn("socket-probe", &arguments).unwrap();
    let pid = probe.pid();
    let (connects, _): (Connects, _) = probe.report().unwrap();
    assert_eq!(connects.errors.get("ECONNREFUSED"), Some(&count), "{connects:?}");
    assert_eq!(connects.ok, 0);
    pid
}

/// Events that were counted, of all kinds.
fn counted(scene: &SingleNode) -> u64 {
    scene.scrape().count("nodemesh_events_total", &[])
}

fn lost(scene: &SingleNode, stage: &str) -> u64 {
    scene.scrape().count(LOST, &[("stage", stage)])
}

#[test]
fn a_refused_connection_is_seen_as_it_happens() {
    let scene = scene();
    let text = monitor(&scene, &["--since", "1h"]);
    let json = monitor(&scene, &["--since", "1h", "-o", "json"]);
    let before = now_ns();
    let pid = refused(&scene, A, 1);
    let address = scene.address(A);

    let line = text.wait_for_line(|line| line.contains("models/a")).unwrap();
    for part in [
        format!("client=pid:{pid} reason=no_backend "),
        format!(" dialled={address} protocol=TCP"),
    ] {
        assert!(line.contains(&part), "{part} is not in {line}");
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    assert!(words[0].ends_with('Z') && words[1] == "refused", "{line}");

    let line = json.wait_for_line(|line| line.contains("models/a")).unwrap();
    let event: Event = serde_json::from_str(&line).unwrap();
    assert!((before..now_ns()).contains(&event.monotonic_ns), "{event:?}");
    assert!(event.client_cgroup.is_some_and(|cgroup| cgroup != 0), "{event:?}");
    let expected = Event {
        reason: Some("no_backend".to_owned()),
        service: Some("models/a".to_owned()),
        service_address: Some(address),
        protocol: Some("TCP".to_owned()),
        client_pid: Some(pid),
        client_cgroup: event.client_cgroup,
        ..Event::new(EventKind::Refused, event.time.clone(), event.monotonic_ns)
    };
    assert_eq!(event, expected);

    let labels = [("kind", "refused"), ("reason", "no_backend")];
    assert_eq!(scene.scrape().count("nodemesh_events_total", &labels), 1);
}

#[test]
fn without_a_past_only_what_comes_is_shown() {
    let scene = scene();
    refused(&scene, A, 1);
    eventually("the first event", || counted(&scene), |count| *count == 1);
    let now = monitor(&scene, &[]);
    let seen = || {
        refused(&scene, B, 1);
        now.stdout()
    };
    let lines = eventually("events to come", seen, |lines| !lines.is_empty());
    assert!(lines.iter().all(|line| line.contains("models/b")), "{lines:?}");
    assert_eq!(
        now.stop().unwrap().code(),
        None,
        "it goes on until it is told to end"
    );
}

/// How often it happened, by lines of JSON.
fn happened<'a>(lines: impl Iterator<Item = &'a str>) -> u64 {
    let count = |line| serde_json::from_str::<Event>(line).unwrap().count.unwrap_or(1);
    lines.map(count).sum()
}

#[test]
fn only_what_was_asked_for_is_shown() {
    let scene = scene();
    refused(&scene, A, 2);
    refused(&scene, B, 3);
    eventually("all events", || counted(&scene), |count| *count == 5);
    let backend = scene.replica(0);
    for (arguments, count) in [
        (&[][..], 5),
        (&["--since", "1h"], 5),
        (&["--since", "0s"], 0),
        (&["--service", "models/a"], 2),
        (&["--service", "models/b", "--kind", "refused"], 3),
        (&["--kind", "ejected,refused"], 5),
        (&["--kind", "ejected", "--kind", "readmitted"], 0),
        (&["--service", "models/none"], 0),
        (&["--backend", &backend], 0),
    ] {
        let shown = remembered(&scene, &[arguments, &["-o", "json"]].concat());
        assert_eq!(happened(shown.lines()), count, "{arguments:?}: {shown}");
        let lines = remembered(&scene, arguments).lines().count();
        assert_eq!(shown.lines().count(), lines, "{arguments:?}: {shown}");
    }
    let shown = remembered(&scene, &["--service", "models/a", "--output", "json"]);
    for line in shown.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["service"], "models/a");
    }
    for wrong in [["--kind", "refusal"], ["--backend", "10.0.0.1"]] {
        let output = scene.agent.cli(&[&["monitor"], &wrong[..]].concat()).unwrap();
        assert!(!output.status.success(), "{wrong:?}: {}", said(&output));
    }
}

#[test]
fn a_million_refusals_are_a_few_events_that_add_up() {
    const REFUSALS: u64 = 1_000_000;
    /// Lines that one of two services may cause in a second: one for each reason, and what was left.
    const PER_SECOND: u64 = 4;
    let scene = scene();
    let monitor = monitor(&scene, &["--since", "1h", "--output", "json"]);
    let began = Instant::now();
    let address = scene.address(A);
    let arguments = ["connect", &address, "--count", "999997", "--concurrency", "4"];
    let flood = scene.client.spawn("socket-probe", &arguments).unwrap();
    // Another service's refusals are told beside it.
    refused(&scene, B, 3);
    let (connects, _): (Connects, _) = flood.report().unwrap();
    assert_eq!(
        connects.errors.get("ECONNREFUSED"),
        Some(&(REFUSALS - 3)),
        "{connects:?}"
    );
    eventually(
        "every refusal, told",
        || counted(&scene),
        |told| *told == REFUSALS,
    );
    let all = || monitor.stdout();
    let lines = eventually("every refusal, shown", all, |lines| {
        happened(lines.iter().map(String::as_str)) == REFUSALS
    });
    let most = PER_SECOND * (began.elapsed().as_secs() + 1);
    assert!(
        lines.len() as u64 <= most,
        "{} events, {most} at most",
        lines.len()
    );
    let of_b = lines.iter().filter(|line| line.contains("models/b"));
    assert_eq!(happened(of_b.map(String::as_str)), 3);
    assert_eq!(lost(&scene, "recording"), 0);
    let refusals = [("service", "a"), ("reason", "no_backend")];
    assert_eq!(
        scene.scrape().count("nodemesh_refusals_total", &refusals),
        REFUSALS - 3
    );
}

#[test]
fn what_was_not_told_yet_is_told_by_the_next_agent() {
    let mut scene = scene();
    scene.agent.kill().unwrap();
    refused(&scene, A, 1_000);
    scene.agent.start(&[]).unwrap();
    eventually("every refusal, told", || counted(&scene), |told| *told == 1_000);
}

/// A UDP service without backends on so many ports, each of which tells of its own refusals.
fn wide(scene: &SingleNode, ports: Range<u16>) -> String {
    let ports: Vec<String> = ports
        .map(|port| format!("{{name: p{port}, port: {port}, protocol: UDP}}"))
        .collect();
    format!(
        "---\napiVersion: nodemesh.io/v1alpha1\nkind: Service\nmetadata: {{name: wide, namespace: models}}\n\
         spec: {{addresses: [{}], ports: [{}], backends: []}}\n",
        scene.address(A).rsplit_once(':').unwrap().0,
        ports.join(", ")
    )
}

/// Is refused once on each of these ports.
fn refused_on(scene: &SingleNode, ports: Range<u16>) {
    let count = ports.len().to_string();
    let targets: Vec<String> = ports.map(|port| scene.address(port)).collect();
    let arguments = ["udp", "--targets", &targets.join(","), "--count", &count];
    let probe = scene.client.spawn("socket-probe", &arguments).unwrap();
    let (report, _): (Value, _) = probe.report().unwrap();
    assert_eq!(
        report["errors"]["ECONNREFUSED"],
        targets.len(),
        "{}",
        report["errors"]
    );
}

#[test]
fn a_reader_that_stops_reading_takes_nothing_from_others() {
    const PORTS: Range<u16> = 10_000..22_000;
    let scene = SingleNode::started(|scene| scene.service_of("a", A, "") + &wide(scene, PORTS), &[]);
    let mut idle = UnixStream::connect(scene.agent.run_dir().join(ADMIN_SOCKET)).unwrap();
    idle.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(
        idle,
        "GET /v1/events?follow=true HTTP/1.1\r\nHost: nodemesh\r\n\r\n"
    )
    .unwrap();
    // The answer has begun: it listens.
    idle.read_exact(&mut [0]).unwrap();
    let attentive = monitor(&scene, &["--since", "1h", "--output", "json"]);
    refused(&scene, A, 1);
    attentive.wait_for_line(|line| line.contains("models/a")).unwrap();

    // What the programs found no room for is nobody's.
    let seen = || attentive.stdout().len() as u64 - 1 + lost(&scene, "recording");
    // In steps that a reader who reads can follow on a busy machine.
    for (step, first) in PORTS.step_by(1_000).enumerate() {
        refused_on(&scene, first..first + 1_000);
        let sum = (step as u64 + 1) * 1_000;
        eventually("every event at the other reader", seen, |seen| *seen == sum);
    }
    assert_eq!(
        lost(&scene, "reader"),
        0,
        "the idle one has not read yet, so it has missed nothing"
    );

    let mut answer = Vec::new();
    let mut part = vec![0; 1 << 16];
    while !String::from_utf8_lossy(&answer).contains("\"kind\":\"lost\"") {
        let count = idle
            .read(&mut part)
            .expect("a line that tells how many are missing");
        answer.extend_from_slice(&part[..count]);
    }
    assert!(lost(&scene, "reader") > 0);
    assert!(
        attentive
            .stdout()
            .iter()
            .all(|line| !line.contains("\"kind\":\"lost\""))
    );
    assert_eq!(lost(&scene, "naming"), 0);
}

#[test]
fn a_ring_that_overflows_harms_nobody() {
    const PORTS: Range<u16> = 10_000..18_000;
    const EVENTS: u64 = 8_000;
    let scene = SingleNode::started(|scene| scene.service_of("b", B, "") + &wide(scene, PORTS), &[]);
    let monitor = monitor(&scene, &["--since", "1h", "--output", "json"]);
    scene.agent.process().signal(Signal::SIGSTOP).unwrap();
    // As fast as ever, and with the same answer.
    for first in PORTS.step_by(1_000) {
        refused_on(&scene, first..first + 1_000);
    }
    scene.agent.process().signal(Signal::SIGCONT).unwrap();

    let told = || counted(&scene) + lost(&scene, "recording");
    eventually("every event, told or lost", told, |told| *told == EVENTS);
    assert!(
        lost(&scene, "recording") > EVENTS / 2,
        "the ring holds some 2,700"
    );
    let refusals = [("service", "wide"), ("reason", "no_backend")];
    assert_eq!(scene.scrape().count("nodemesh_refusals_total", &refusals), EVENTS);
    refused(&scene, B, 1);
    monitor.wait_for_line(|line| line.contains("models/b")).unwrap();
    assert!(scene.agent.status().unwrap().ready);
}
