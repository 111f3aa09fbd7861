// SPDX-License-Identifier: Apache-2.0
//! The agent is killed, replaced and removed while messages take the shortcut and wait to be read there: every byte arrives, once and in
//! order.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{collections::BTreeMap, net::SocketAddr};

use nodemesh_agent::datapath::{
    link::{At, Fault, Link, Running, Target},
    programs::{PROGRAMS, ProgramSpec},
};
use nodemesh_e2e::{
    agent::Build,
    bed::{Bed, Family},
    eventually::eventually,
    manifest::{Manifest, Policy, Service},
    process::binary,
    real::stream::{StreamServer, Streams},
    scrape::Scrape,
    topology::Pod,
};
use serde_json::json;

const FORCE: [&str; 2] = ["--shortcut", "force"];
/// Connections of a test: with their pauses, some have unread messages at any moment.
const STREAMS: usize = 4;

/// Clients and a server on one node, and streams between them.
struct Scene {
    bed: Bed,
    server: StreamServer,
    pod: Pod,
}

impl Scene {
    fn new() -> Self {
        let mut bed = Bed::new();
        let pod = bed.a.pod("streams").unwrap();
        let server = StreamServer::start(&pod, (pod.v4(), 9_000).into());
        bed.start(&manifest(&pod, true), &FORCE);
        Self { bed, server, pod }
    }

    fn begin(&self) -> Streams {
        Streams::begin(&self.bed.client.place(), Family::V4.vip(1), STREAMS)
    }

    fn scrape(&self) -> Scrape {
        let (_, text) = self.bed.agent.http(&self.bed.a, "/metrics").unwrap();
        Scrape::parse(&text).unwrap()
    }

    /// Messages that went by `route` so far.
    fn messages(&self, route: &str) -> u64 {
        self.scrape()
            .count("nodemesh_shortcut_messages_total", &[("route", route)])
    }

    fn enrolled(&self) -> u64 {
        self.scrape().count("nodemesh_shortcut_sockets", &[])
    }

    /// Waits until both ends of this many connections are enrolled.
    fn all_enrolled(&self, connections: usize) {
        eventually(
            "both ends are enrolled",
            || self.enrolled(),
            |count| *count == 2 * connections as u64,
        );
    }

    /// Waits until this many more messages went by `route`.
    fn await_messages(&self, route: &str, count: u16) {
        let all = || {
            let scrape = self.scrape();
            let samples = scrape.samples("nodemesh_shortcut_messages_total");
            samples
                .map(|(labels, count)| (labels["route"].clone(), count))
                .collect::<BTreeMap<_, _>>()
        };
        let enough = all()[route] + f64::from(count);
        eventually(route, all, |messages| messages[route] >= enough);
    }
}

fn manifest(pod: &Pod, enabled: bool) -> Manifest {
    let service = Service::new("streams", Family::V4.vip(1)).to([(pod.v4(), 9_000).into()]);
    Manifest::of([service]).and(Policy::of("streams").set("shortcut", json!({"enabled": enabled})))
}

#[test]
fn a_kill_another_build_and_a_switch_lose_nothing_and_count_all() {
    let mut scene = Scene::new();
    let streams = scene.begin();
    scene.await_messages("shortcut", 200);

    scene.bed.agent.kill().unwrap();
    scene.bed.agent.start(&FORCE).unwrap();
    scene.await_messages("shortcut", 200);

    // As another build of the same ABI: every program is loaded anew.
    scene.bed.agent.kill().unwrap();
    scene.bed.agent.disown_programs().unwrap();
    scene.bed.agent.start(&FORCE).unwrap();
    scene.await_messages("shortcut", 200);

    // Off and on again on the same connections.
    for _ in 0..3 {
        scene.bed.apply(&manifest(&scene.pod, false));
        eventually("nobody is enrolled", || scene.enrolled(), |count| *count == 0);
        let handed = scene.messages("shortcut");
        scene.bed.apply(&manifest(&scene.pod, true));
        scene.all_enrolled(STREAMS);
        scene.await_messages("shortcut", 200);
        assert!(scene.messages("shortcut") > handed);
    }
    let later = scene.begin();
    scene.await_messages("shortcut", 200);

    let carried = [streams, later].map(|streams| streams.end(&scene.server));
    for vantage in ["client", "server"] {
        let counted = |direction| {
            let labels = [("vantage", vantage), ("direction", direction)];
            scene.scrape().count("nodemesh_transmit_bytes_total", &labels)
        };
        let sum = [carried[0].up + carried[1].up, carried[0].down + carried[1].down];
        for (told, sum) in ["request", "response"].map(counted).into_iter().zip(sum) {
            assert_eq!(told, sum, "{vantage}");
        }
    }
    scene.bed.at_rest();
    scene.bed.assert_no_internal_error();
}

/// Some hundred thousand messages per second, and programs that are replaced between any two of them.
#[test]
fn programs_that_are_replaced_under_load_count_each_message_once() {
    const CONNECTIONS: u64 = 32;
    const MESSAGE: u64 = 1024;
    /// The request with which a connection begins.
    const FIRST: u64 = "GET /exchange HTTP/1.1\r\nHost: bench\r\n\r\n".len() as u64;
    let mut bed = Bed::new();
    let pod = bed.a.pod("answers").unwrap();
    let (program, address) = (binary("bench").display().to_string(), (pod.v4(), 9_000).into());
    let _server = pod
        .serve(
            &program,
            &["short-serve".to_owned(), SocketAddr::to_string(&address)],
        )
        .unwrap();
    bed.start(&manifest(&pod, true), &FORCE);
    let talk = [
        "short-talk",
        &Family::V4.vip(1).to_string(),
        "exchange",
        "--connections=32",
        "--millis=10000",
    ]
    .map(str::to_owned);
    let mut talk = bed.client.spawn(&program, &talk).unwrap();
    talk.wait_for_line(|line| line == "connected").unwrap();
    talk.write_line("go").unwrap();
    let is_told = |line: &str| line.starts_with('{');
    while !talk.stdout().iter().any(|line| is_told(line)) {
        bed.agent.kill().unwrap();
        bed.agent.disown_programs().unwrap();
        bed.agent.start(&FORCE).unwrap();
    }
    let line = talk.wait_for_line(is_told).unwrap();
    talk.wait().unwrap();
    let told: serde_json::Value = serde_json::from_str(&line).unwrap();
    let exchanges = told["count"].as_u64().unwrap();
    let (_, text) = bed.agent.http(&bed.a, "/metrics").unwrap();
    let scrape = Scrape::parse(&text).unwrap();
    let counted = |direction| {
        let labels = [("vantage", "client"), ("direction", direction)];
        scrape.count("nodemesh_transmit_bytes_total", &labels)
    };
    // Each connection begins with a request of its own, which is answered too, and ends with one that is not.
    let messages = exchanges + CONNECTIONS;
    assert_eq!(
        counted("request"),
        messages * MESSAGE + CONNECTIONS * FIRST,
        "{line}"
    );
    // The end may have come in the middle of an answer.
    let rest = counted("response").wrapping_sub(messages * MESSAGE);
    assert!(rest < MESSAGE, "{line}: {rest} bytes more than was answered");
}

#[test]
fn another_abi_and_back_again_lose_nothing() {
    let mut scene = Scene::new();
    let streams = scene.begin();
    scene.await_messages("shortcut", 200);
    for build in [Build::Next, Build::Own] {
        scene.bed.agent.kill().unwrap();
        scene.bed.agent.start_build(build, &FORCE).unwrap();
        // The programs of the other ABI leave everything to TCP: these are of sockets that left and came back.
        scene.await_messages("shortcut", 200);
        scene.all_enrolled(STREAMS);
        let new = scene.begin();
        scene.await_messages("shortcut", 200);
        new.end(&scene.server);
    }
    streams.end(&scene.server);
    scene.bed.at_rest();
    scene.bed.assert_no_internal_error();
}

#[test]
fn a_cleanup_loses_nothing_and_leaves_nothing() {
    let mut scene = Scene::new();
    let streams = scene.begin();
    scene.await_messages("shortcut", 200);
    scene.bed.agent.kill().unwrap();
    let output = scene.bed.agent.cleanup().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!scene.bed.a.pins().path().join("v4").exists());
    streams.end(&scene.server);
    let again = Streams::begin(&scene.bed.client.place(), (scene.pod.v4(), 9_000).into(), 1);
    again.end(&scene.server);
}

/// The program that every send of an enrolled socket runs.
fn hand_over() -> &'static ProgramSpec {
    PROGRAMS.iter().find(|spec| spec.name == "hand_over").unwrap()
}

#[test]
fn a_foreign_program_at_the_map_is_replaced() {
    let [ours, theirs] = [Scene::new(), Scene::new()];
    let running = |scene: &Scene| {
        Running::of_pinned(hand_over(), &scene.bed.a.pins())
            .unwrap()
            .unwrap()
    };
    let (own, foreign) = (running(&ours), running(&theirs));
    let pins = ours.bed.a.pins();
    let cgroup = std::fs::File::open(ours.bed.a.cgroup()).unwrap();
    let target = Target {
        at: At::Cgroup(&cgroup),
        pins: &pins,
    };
    let link = Link::sockets("short_socks", &pins).unwrap();
    link.mend(Fault::Replaced, hand_over(), &foreign, target).unwrap();
    let repairs = || ours.bed.agent.status().unwrap().datapath.attachment.repairs["replaced"];
    eventually("the repair", repairs, |repairs| *repairs == 1);
    assert_eq!(running(&ours).id(), own.id());
    let streams = ours.begin();
    ours.await_messages("shortcut", 100);
    streams.end(&ours.server);
}
