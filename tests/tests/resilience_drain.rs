// SPDX-License-Identifier: Apache-2.0
//! Drains: a replica goes, and no stream is cut.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{collections::BTreeMap, net::SocketAddr};

use nodemesh_agent::api::{Drained, Event, EventKind};
use nodemesh_e2e::{
    bed::{Bed, Counted, Family, connect, once},
    eventually::eventually,
    manifest::{Manifest, Policy, Service},
    monotonic::now_ns,
    process::{Place, Process},
    single_node::said,
    truth,
};
use serde_json::Value;
use tempfile::TempDir;

/// Where clients dial.
const TO: Family = Family::V4;

/// Model servers behind a service, in turn, and what they know of their exchanges.
struct Scene {
    bed: Bed,
    servers: BTreeMap<usize, Process>,
    flags: Vec<String>,
    folder: TempDir,
}

impl Scene {
    /// `count` servers with these flags.
    fn new(count: usize, flags: &[&str]) -> Self {
        let mut scene = Self {
            bed: Bed::new(),
            servers: BTreeMap::new(),
            flags: flags.iter().map(ToString::to_string).collect(),
            folder: TempDir::new().unwrap(),
        };
        for index in 0..count {
            scene.serve(index);
        }
        let manifest = scene.manifest(0..count);
        scene.bed.start(&manifest, &[]);
        scene
    }

    fn manifest(&self, servers: impl IntoIterator<Item = usize>) -> Manifest {
        let backends = servers.into_iter().map(|index| self.at(index));
        Manifest::of([Service::new("model", TO.vip(1)).to(backends)])
            .and(Policy::of("model").algorithm("round-robin"))
    }

    /// Starts the server `index`, or starts it again.
    fn serve(&mut self, index: usize) {
        let (listen, name) = (self.at(index).to_string(), format!("r{index}"));
        let truth = self.truth(index).display().to_string();
        let own = ["--listen", &listen, "--name", &name, "--truth", &truth].map(str::to_owned);
        let flags = [&own[..], &self.flags].concat();
        let server = self.bed.server.serve("model-server", &flags).unwrap();
        self.servers.insert(index, server);
    }

    fn at(&self, index: usize) -> SocketAddr {
        SocketAddr::new(TO.of(&self.bed.server), 9000 + index as u16)
    }

    fn truth(&self, index: usize) -> std::path::PathBuf {
        self.folder.path().join(format!("r{index}.jsonl"))
    }

    /// Starts a client.
    fn load(&self, flags: &[&str]) -> Process {
        let url = format!("http://{}", TO.vip(1));
        let arguments = [&["--url", &url], flags].concat();
        self.bed.client.spawn("load-client", &arguments).unwrap()
    }

    /// Open connections of a server.
    fn active(&self, index: usize) -> u64 {
        self.bed.backend(self.at(index)).active_connections
    }

    /// Runs `nodemesh drain` for a server.
    fn drain(&self, index: usize, flags: &[&str]) -> Drained {
        let target = self.at(index).to_string();
        let arguments = [&["drain", &target, "-o", "json"], flags].concat();
        let output = self.bed.agent.cli(&arguments).unwrap();
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Starts `nodemesh drain --wait`.
    fn waits(&self, index: usize) -> Process {
        let (folder, target) = (self.bed.agent.run_dir(), self.at(index).to_string());
        let folder = folder.display().to_string();
        let arguments = ["--run-dir", &folder, "drain", &target, "--wait", "-o", "json"];
        self.bed.client.spawn("nodemesh", &arguments).unwrap()
    }

    /// Asks the agent over HTTP, as a hook of the pod's does on its node.
    fn asks(&self, index: usize) -> Process {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/9464; printf 'GET /v1/drain?backend={} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3",
            self.at(index)
        );
        let place = Place {
            netns: self.bed.a.netns().path(),
            cgroup: self.bed.client.cgroup().into(),
        };
        Process::spawn(&place, "/bin/bash".as_ref(), &["-c", &script]).unwrap()
    }

    /// Events of a kind that the agent remembers, as `nodemesh monitor` tells them.
    fn events(&self, kind: EventKind) -> Vec<Event> {
        let arguments = ["monitor", "--follow=false", "--kind", kind.word(), "-o", "json"];
        let output = self.bed.agent.cli(&arguments).unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines();
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// When the last byte left a server.
    fn last_byte_ns(&self, index: usize) -> u64 {
        let exchanges = truth::read(&self.truth(index)).unwrap();
        assert!(
            exchanges.iter().all(truth::Exchange::is_complete),
            "{exchanges:#?}"
        );
        exchanges
            .iter()
            .filter_map(|exchange| exchange.last_write_ns)
            .max()
            .unwrap()
    }
}

/// The report of a client none of whose requests failed.
#[track_caller]
fn sound(client: Process) -> Value {
    let (report, status) = client.report::<Value>().unwrap();
    assert!(status.success(), "{report:#}");
    let failed = report["requests"]["failed"].as_object().unwrap();
    assert!(failed.values().all(|count| count == 0), "{report:#}");
    report
}

/// Requests that each server answered.
fn replicas(report: &Value) -> BTreeMap<String, u64> {
    let replicas = report["replicas"].as_object().unwrap();
    let count = |(name, replica): (&String, &Value)| (name.clone(), replica["requests"].as_u64().unwrap());
    replicas.iter().map(count).collect()
}

#[test]
fn a_drain_is_over_when_the_last_byte_has_left() {
    let scene = Scene::new(2, &["--prefill", "50ms", "--inter-token", "50ms"]);
    let load = scene.load(&["--requests", "8", "--concurrency", "8", "--max-tokens", "80"]);
    eventually(
        "streams at both",
        || [scene.active(0), scene.active(1)],
        |active| *active == [4, 4],
    );
    let left = scene.drain(0, &[]);
    assert!(!left.drained && left.backends[0].connections == 4, "{left:?}");
    let (mut cli, http) = (scene.waits(0), scene.asks(0));

    // From the first answer on nobody is sent there.
    let report = sound(scene.load(&["--requests", "20", "--max-tokens", "1"]));
    assert_eq!(replicas(&report), BTreeMap::from([("r1".to_owned(), 20)]));
    let is_early = scene.active(0) > 0;
    assert!(!is_early || !cli.has_ended(), "streams run on");

    cli.wait().unwrap();
    let answered_ns = now_ns();
    let told = eventually(
        "the answer",
        || serde_json::from_str::<Drained>(&cli.stdout().concat()).ok(),
        Option::is_some,
    );
    let told = told.unwrap();
    assert!(told.drained && told.backends[0].connections == 0, "{told:?}");
    let is_whole = |answer: &String| answer.contains("\"drained\":true") && answer.ends_with('}');
    let answer = eventually("the answer over HTTP", || http.stdout().join("\n"), is_whole);
    assert!(answer.contains(" 200 OK"), "{answer}");

    let report = sound(load);
    assert_eq!(report["requests"]["ok"], 8);
    assert_eq!(report["tokens"], 8 * 80);
    assert!(
        scene.last_byte_ns(0) <= answered_ns,
        "answered before the last byte had left"
    );
    assert_eq!(scene.bed.backend(scene.at(0)).connections_total, 4);
    let told = |kind| {
        let events = eventually("the event", || scene.events(kind), |events| !events.is_empty());
        assert_eq!(events.len(), 1, "{events:#?}");
        assert_eq!(events[0].service.as_deref(), Some("models/model"));
        assert_eq!(events[0].backend, Some(scene.at(0).to_string()));
        events[0].monotonic_ns
    };
    let (began_ns, ended_ns) = (told(EventKind::Draining), told(EventKind::Drained));
    assert!(began_ns < ended_ns && ended_ns > scene.last_byte_ns(0));
    scene.bed.assert_no_internal_error();
}

/// Panics unless `event` tells that a connection to the first server was closed for its drain.
#[track_caller]
fn assert_closed(scene: &Scene, event: &Event) {
    assert_eq!(event.reason.as_deref(), Some("drain"), "{event:?}");
    assert_eq!(event.backend, Some(scene.at(0).to_string()), "{event:?}");
    assert_eq!(event.service.as_deref(), Some("models/model"), "{event:?}");
    let client = event.client.as_ref().unwrap();
    assert!(
        client.starts_with(&format!("{}:", scene.bed.client.v4())),
        "{event:?}"
    );
    assert!(
        event.client_pid.is_some() && event.protocol.as_deref() == Some("TCP"),
        "{event:?}"
    );
}

#[test]
fn idle_connections_to_a_draining_replica_are_closed_between_requests() {
    let scene = Scene::new(
        2,
        &[
            "--prefill",
            "5ms",
            "--inter-token",
            "2ms",
            "--idle-timeout",
            "60s",
        ],
    );
    // Three requests of each connection, much further apart than the agent takes an idle one to be about to ask again.
    let load = scene.load(&[
        "--mode",
        "keep-alive",
        "--concurrency",
        "6",
        "--requests",
        "18",
        "--keep-alive-gap",
        "2s..3s",
        "--max-tokens",
        "4",
    ]);
    eventually(
        "connections to both",
        || [scene.active(0), scene.active(1)],
        |active| *active == [3, 3],
    );
    let told = scene.drain(0, &["--wait", "--timeout", "30s"]);
    assert!(told.drained, "{told:?}");
    let before = scene.bed.backend(scene.at(0));

    let report = sound(load);
    assert_eq!(report["requests"]["ok"], 18);
    assert_eq!(
        report["connections"], 9,
        "each of the three was opened again, once"
    );
    assert_eq!(
        scene.bed.backend(scene.at(0)).connections_total,
        before.connections_total
    );
    let closed = eventually(
        "the events",
        || scene.events(EventKind::Closed),
        |closed| closed.len() >= 3,
    );
    assert_eq!(closed.len(), 3, "{closed:#?}");
    for event in &closed {
        assert_closed(&scene, event);
    }
    let Counted { active, .. } = scene.bed.at_rest();
    assert_eq!(active, 0);
}

#[test]
fn a_drain_outlives_the_agent_until_it_is_undone() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(2);
    let manifest = Manifest::of([Service::new("echo", TO.vip(1)).to(replicas.iter().map(|r| r.at(TO)))]);
    bed.start(&manifest, &[]);
    let target = format!("models/echo/{}", replicas[0].at(TO));
    let drain = |bed: &Bed, flags: &[&str]| {
        let arguments = [&["drain", &target], flags].concat();
        let output = bed.agent.cli(&arguments).unwrap();
        (output.status.success(), said(&output))
    };
    let by_replica = |bed: &Bed| connect(&bed.client.place(), TO.vip(1), &["--count", "40"]).replicas;
    let (is_done, said) = drain(&bed, &["--undo"]);
    assert!(!is_done && said.contains("is not drained"), "{said}");

    assert!(drain(&bed, &["--wait"]).0);
    assert_eq!(by_replica(&bed), once("r1", 40));
    // A configuration that says nothing of it changes nothing.
    bed.apply(&manifest.clone().and(Service::new("other", TO.vip(2))));
    assert_eq!(by_replica(&bed), once("r1", 40));
    bed.agent.kill().unwrap();
    assert_eq!(by_replica(&bed), once("r1", 40));
    bed.agent.start(&[]).unwrap();
    assert_eq!(by_replica(&bed), once("r1", 40));

    assert!(drain(&bed, &["--undo"]).0);
    assert_eq!(by_replica(&bed).len(), 2, "it takes connections again");
    let (is_done, said) = drain(&bed, &["--undo"]);
    assert!(!is_done, "{said}");
    let output = bed.agent.cli(&["drain", "10.9.9.9:1"]).unwrap();
    assert!(!output.status.success());
    assert!(said.contains("is not drained on this node"), "{said}");
}

#[test]
fn a_rolling_restart_cuts_no_stream() {
    let mut scene = Scene::new(
        3,
        &["--prefill", "30ms", "--inter-token", "20ms", "--drain", "0s"],
    );
    // Streams of a second and more, one after the other, for as long as the restart takes.
    let load = scene.load(&["--concurrency", "9", "--max-tokens", "50", "--grace", "30s"]);
    for index in 0..3 {
        eventually(
            "streams at each",
            || [0, 1, 2].map(|index| scene.active(index)),
            |active| active.iter().all(|active| *active > 0),
        );
        let told = scene.drain(index, &["--wait", "--timeout", "60s"]);
        assert!(told.drained, "{told:?}");
        let server = scene.servers.remove(&index).unwrap();
        server.stop().unwrap();
        scene.serve(index);
        scene.drain(index, &["--undo"]);
    }
    eventually(
        "streams at each",
        || [0, 1, 2].map(|index| scene.active(index)),
        |active| active.iter().all(|active| *active > 0),
    );
    load.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    let report = sound(load);
    let requests = &report["requests"];
    assert!(requests["ok"].as_u64().unwrap() >= 18, "{report:#}");
    assert!(
        report["connect_errors"].as_object().unwrap().is_empty(),
        "{report:#}"
    );
    for index in 0..3 {
        let exchanges = truth::read(&scene.truth(index)).unwrap();
        let cut: Vec<_> = exchanges.iter().filter(|it| it.outcome.is_truncation()).collect();
        assert!(cut.is_empty(), "{cut:#?}");
    }
}
