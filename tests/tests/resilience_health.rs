// SPDX-License-Identifier: Apache-2.0
//! A replica that is wedged is left alone and comes back when it goes on; one that is slow, in a long prefill or idle is not taken for
//! one.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use nodemesh_agent::api::{Event, EventKind, Phase};
use nodemesh_e2e::{
    bed::{Bed, Family, ModelServer},
    eventually::eventually,
    manifest::{Manifest, Policy, Service},
    monotonic::now_ns,
    process::Process,
    topology::Pod,
};
use serde_json::{Value, json};

/// From the moment a replica freezes until it gets no new connection.
const EJECTED_WITHIN: Duration = Duration::from_secs(3);
/// From the moment it goes on until it does again.
const READMITTED_WITHIN: Duration = Duration::from_secs(2);
/// A token each 20 ms, for longer than any test takes.
const STREAMING: [&str; 6] = ["--prefill", "10ms", "--inter-token", "20ms", "--tokens", "100000"];
const STREAMS: usize = 8;

/// The service `echo` of these replicas, in turn, with more fields of its policy.
fn service(replicas: &[&ModelServer], fields: &[(&str, Value)]) -> Manifest {
    let backends: Vec<SocketAddr> = replicas.iter().map(|replica| replica.address).collect();
    let policy = Policy::of("echo").algorithm("round-robin");
    let policy = fields
        .iter()
        .fold(policy, |policy, (field, value)| policy.set(field, value.clone()));
    Manifest::of([Service::new("echo", Family::V4.vip(1)).to(backends)]).and(policy)
}

/// A client of the service `echo`.
fn client(bed: &Bed, flags: &[&str]) -> Process {
    let url = format!("http://{}", Family::V4.vip(1));
    bed.client
        .spawn("load-client", &[&["--url", &url], flags].concat())
        .unwrap()
}

/// Sends `count` short requests, each on a connection of its own, all of which must be answered.
fn ask(bed: &Bed, count: u64) {
    let number = count.to_string();
    let flags = ["--mode", "one-shot", "--requests", &number, "--max-tokens", "1"];
    all_ok(client(bed, &flags), count);
}

fn all_ok(client: Process, count: u64) {
    let (report, _) = client.report::<Value>().unwrap();
    assert_eq!(report["requests"]["ok"], count, "{report:#}");
}

fn since(event: &Event, start_ns: u64) -> Duration {
    Duration::from_nanos(event.monotonic_ns.saturating_sub(start_ns))
}

/// Replicas of which one will be wedged while it streams.
struct Scene {
    bed: Bed,
    pod: Pod,
    wedged: ModelServer,
    _well: ModelServer,
    _streams: Process,
}

impl Scene {
    /// Open streams at two replicas in a pod of the node of the client if `is_near`, which both ends are seen of; else in one of a node
    /// without an agent.
    fn new(is_near: bool, fields: &[(&str, Value)]) -> Self {
        let mut bed = Bed::new();
        let node = if is_near { &bed.a } else { &bed.b };
        let pod = node.pod("models").unwrap();
        let [wedged, well] = [9000, 9001].map(|port| ModelServer::start(&pod, port, &STREAMING));
        bed.start(&service(&[&wedged, &well], fields), &[]);
        let number = STREAMS.to_string();
        let streams = client(&bed, &["--requests", &number, "--concurrency", &number]);
        let begun = Instant::now();
        eventually(
            "every stream is open, for long enough to know its pace",
            || bed.agent.connections().unwrap(),
            |connections| {
                let open = connections.iter().filter(|one| one.phase == Phase::Stream);
                open.count() == STREAMS && begun.elapsed() > Duration::from_secs(1)
            },
        );
        Self {
            bed,
            pod,
            wedged,
            _well: well,
            _streams: streams,
        }
    }

    /// Connections that the wedged replica ever got.
    fn given(&self) -> u64 {
        self.bed.backend(self.wedged.address).connections_total
    }

    /// Freezes a replica and lets it go on; holds what happens against the limits.
    fn play(&self, freeze: impl Fn(&ModelServer), thaw: impl Fn(&ModelServer)) {
        assert_eq!(self.given(), STREAMS as u64 / 2);
        // Clients keep coming: half of them to the frozen replica, until it is out.
        let flags = [
            "--mode",
            "one-shot",
            "--rate",
            "10",
            "--concurrency",
            "100",
            "--max-tokens",
            "1",
        ];
        let arrivals = client(&self.bed, &flags);
        let frozen_at = now_ns();
        freeze(&self.wedged);
        let ejected = self.bed.eventually_events(EventKind::Ejected, 1);
        let took = since(&ejected[0], frozen_at);
        assert_eq!(ejected[0].backend, Some(self.wedged.address.to_string()));
        assert_eq!(ejected[0].reason.as_deref(), Some("silence"));
        assert!(took <= EJECTED_WITHIN, "ejected {took:?} after it froze");
        let given = self.given();
        ask(&self.bed, 40);
        assert_eq!(self.given(), given, "it was left alone");
        drop(arrivals);

        let thawed_at = now_ns();
        thaw(&self.wedged);
        let readmitted = self.bed.eventually_events(EventKind::Readmitted, 1);
        let back = since(&readmitted[0], thawed_at);
        assert_eq!(readmitted[0].backend, Some(self.wedged.address.to_string()));
        assert!(back <= READMITTED_WITHIN, "readmitted {back:?} after it went on");
        println!("ejected {took:?} after it froze, readmitted {back:?} after it went on");
        ask(&self.bed, 4);
        assert_eq!(self.given(), given + 2);
        assert_eq!(self.bed.events(EventKind::Ejected).len(), 1, "once");
        self.bed.assert_no_internal_error();
    }
}

#[test]
fn a_stopped_process_gets_nothing_new_after_3_s_and_is_back_2_s_after_it_goes_on() {
    let scene = Scene::new(false, &[]);
    let signal = |signal| move |replica: &ModelServer| replica.process().signal(signal).unwrap();
    scene.play(signal(Signal::SIGSTOP), signal(Signal::SIGCONT));
}

#[test]
fn an_engine_that_freezes_while_its_health_is_200_is_found_out() {
    let check = json!({"kind": "http", "path": "/health", "interval": "200ms", "from": "every-node"});
    let scene = Scene::new(true, &[("healthChecks", check)]);
    let netns = scene.pod.netns();
    let freeze = |replica: &ModelServer| {
        replica.behave(netns, &json!({"failure": "freeze", "failure_after": 0}));
        assert!(replica.health(netns).contains(" 200 "));
    };
    let thaw = |replica: &ModelServer| replica.behave(netns, &json!({"failure": "none"}));
    scene.play(freeze, thaw);
}

/// A minute of prefill and two seconds of patience, at a twentieth and a tenth of that.
#[test]
fn a_long_prefill_and_an_idle_replica_are_never_ejected() {
    let mut bed = Bed::new();
    let flags = [
        "--prefill",
        "2ms",
        "--inter-token",
        "1ms",
        "--idle-timeout",
        "1h",
        "--early-headers",
    ];
    let [slow, idle] = [9000, 9001].map(|port| ModelServer::start(&bed.server, port, &flags));
    bed.start(&service(&[&slow, &idle], &[]), &[]);
    // Its usual pace is known, and far from what comes.
    ask(&bed, 20);
    slow.behave(bed.server.netns(), &json!({"prefill_ms": 4_000}));
    let silence = json!({"silence": {"streams": 1, "minimum": "200ms"}});
    bed.apply(&service(&[&slow, &idle], &[("outlierDetection", silence)]));
    // Each worker keeps its connection. The two at the idle replica say nothing between their first request and their second.
    let flags = [
        "--mode",
        "keep-alive",
        "--requests",
        "6",
        "--concurrency",
        "4",
        "--max-tokens",
        "1",
        "--think",
        "4s",
    ];
    let begun = Instant::now();
    all_ok(client(&bed, &flags), 6);
    assert!(begun.elapsed() >= Duration::from_secs(4));
    assert_eq!(
        [&slow, &idle].map(|replica| bed.backend(replica.address).connections_total),
        [12, 12]
    );
    for kind in [EventKind::Ejected, EventKind::Probed] {
        assert_eq!(bed.events(kind), []);
    }
    bed.at_rest();
    bed.assert_no_internal_error();
}
