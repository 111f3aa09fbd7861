// SPDX-License-Identifier: Apache-2.0
//! The agent goes and comes back, is killed, or is removed for good: connections do not notice.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use nodemesh_agent::api::{Backend, BackendState};
use nodemesh_e2e::{
    attachment,
    eventually::eventually,
    process::Process,
    single_node::{DIRECT, SingleNode, said},
    topology::Pod,
};
use serde_json::Value;

/// A scene whose agent runs with the service `a` of `r0` on port 8000.
fn started() -> SingleNode {
    SingleNode::started(|scene| scene.service("a", 8000, &[0]), &[])
}

/// The backend that the agent lists at `address`.
fn backend(scene: &SingleNode, address: &str) -> Backend {
    let backends = scene.agent.backends().unwrap();
    let found = backends.iter().find(|backend| backend.address == address);
    found
        .unwrap_or_else(|| panic!("no {address} in {backends:?}"))
        .clone()
}

/// Waits until the counters of `r0` are (active, total).
fn wait_for_counts(scene: &SingleNode, active: u64, total: u64) {
    let address = scene.replica(0);
    let counts = || {
        let found = backend(scene, &address);
        (found.active_connections, found.connections_total)
    };
    eventually("the counters", counts, |counts| *counts == (active, total));
}

#[test]
fn sigterm_ends_the_agent_at_once_and_leaves_the_data_path() {
    let mut scene = started();
    let socket = scene.agent.run_dir().join("agent.sock");
    assert!(socket.exists());
    let agent = scene.agent.take_process();
    let asked = Instant::now();
    agent.signal(Signal::SIGTERM).unwrap();
    let (status, log) = agent.finish().unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(
        asked.elapsed() < Duration::from_secs(3),
        "it took {:?}",
        asked.elapsed()
    );
    assert!(log.contains("the agent ends; the data path stays"), "{log}");
    assert!(!socket.exists());
    assert_eq!(
        attachment::links(&scene.node.pins()).unwrap(),
        attachment::complete()
    );
    assert!(scene.is_answered_by(8000, "r0"));
}

#[test]
fn a_connected_client_of_the_socket_does_not_hold_the_end_up() {
    let mut scene = started();
    let idle = std::os::unix::net::UnixStream::connect(scene.agent.run_dir().join("agent.sock")).unwrap();
    let asked = Instant::now();
    assert!(scene.agent.stop().unwrap().success());
    assert!(
        asked.elapsed() < Duration::from_secs(3),
        "it took {:?}",
        asked.elapsed()
    );
    drop(idle);
}

#[test]
fn a_restart_adopts_counters_and_open_connections() {
    let mut scene = started();
    assert!(scene.is_answered_by(8000, "r0"));
    let held = scene.hold(8000, 2);
    wait_for_counts(&scene, 2, 6);
    assert!(scene.agent.stop().unwrap().success());
    // Counted while nobody watches.
    assert!(scene.is_answered_by(8000, "r0"));
    scene.agent.start(&[]).unwrap();
    let log = scene.agent.process();
    log.wait_for_log(|line| line.contains("adopted the rows of a former agent services=1 backends=1"))
        .unwrap();
    wait_for_counts(&scene, 2, 10);
    assert_eq!(scene.agent.connections().unwrap().len(), 2);
    assert!(held.stop().is_ok());
    wait_for_counts(&scene, 0, 10);
    assert!(scene.is_answered_by(8000, "r0"));
    wait_for_counts(&scene, 0, 14);
    assert_eq!(
        attachment::links(&scene.node.pins()).unwrap(),
        attachment::complete()
    );
}

#[test]
fn a_configuration_changed_while_the_agent_was_down_is_applied_at_its_start() {
    let mut scene = started();
    let both = scene.service("a", 8000, &[0]) + &scene.service("gone", 8001, &[0]);
    scene.agent.reconfigure(&both).unwrap();
    assert!(scene.is_answered_by(8000, "r0") && scene.is_answered_by(8001, "r0"));
    let held = scene.hold(8001, 1);
    assert!(scene.agent.stop().unwrap().success());
    let backends = [scene.backend(0, ", weight: 7"), scene.backend(1, ", weight: 3")];
    scene
        .agent
        .configure(&scene.service_of("a", 8000, &backends.join(", ")))
        .unwrap();
    assert!(scene.is_answered_by(8000, "r0") && scene.is_answered_by(8001, "r0"));

    scene.agent.start(&[]).unwrap();
    assert!(scene.is_answered_by(8001, DIRECT));
    let listed = scene.agent.backends().unwrap();
    let of_a = |index| {
        let address = scene.replica(index);
        let is_right = |backend: &&Backend| backend.service == "models/a" && backend.address == address;
        listed
            .iter()
            .find(is_right)
            .unwrap_or_else(|| panic!("no {address} of a in {listed:?}"))
    };
    // The same id, with its counters, and a new one.
    assert_eq!((of_a(0).weight, of_a(0).connections_total), (7, 8), "{listed:?}");
    assert_eq!((of_a(1).weight, of_a(1).connections_total), (3, 0), "{listed:?}");
    // The service that is gone has one socket left.
    let left: Vec<&Backend> = listed
        .iter()
        .filter(|backend| backend.service != "models/a")
        .collect();
    assert_eq!(left.len(), 1, "{listed:?}");
    assert_eq!(
        (left[0].state, left[0].active_connections),
        (BackendState::Draining, 1),
        "{listed:?}"
    );
    drop(held);
    eventually(
        "the end of what drained",
        || scene.agent.backends().unwrap().len(),
        |count| *count == 2,
    );
    let services = scene.agent.services().unwrap();
    assert_eq!(services.len(), 1, "{services:?}");
    assert_eq!(scene.agent.status().unwrap().datapath.maps["services"].entries, 1);
}

/// A model server on `pod`, at port 9100.
fn model_server(pod: &Pod, name: &str) -> Process {
    let listen = format!("{}:9100", pod.v4());
    pod.serve(
        "model-server",
        &[
            "--listen",
            &listen,
            "--name",
            name,
            "--prefill",
            "5ms",
            "--inter-token",
            "5ms",
        ],
    )
    .unwrap()
}

/// Sum over all backends.
fn sum(scene: &SingleNode, of: fn(&Backend) -> u64) -> u64 {
    scene.agent.backends().unwrap().iter().map(of).sum()
}

/// Waits until 32 connections were placed since there were `before`, and gives how many there are now.
fn wait_for_load(scene: &SingleNode, before: u64) -> u64 {
    let placed = || sum(scene, |backend| backend.connections_total);
    eventually("load", placed, |now| *now >= before + 32)
}

#[test]
fn streams_do_not_notice_five_restarts() {
    let mut scene = SingleNode::new();
    let pods = ["m0", "m1"].map(|name| scene.node.pod(name).unwrap());
    let _servers = pods.each_ref().map(|pod| model_server(pod, "m"));
    let backends = pods
        .each_ref()
        .map(|pod| format!("{{address: {}, port: 9100}}", pod.v4()));
    let service = scene.service_of("llama", 8003, &backends.join(", "));
    scene.agent.configure(&service).unwrap();
    scene.agent.start(&[]).unwrap();
    let url = format!("http://{}", scene.address(8003));
    let flags = ["--url", &url, "--concurrency", "16", "--max-tokens", "20"];
    let load = scene.client.spawn("load-client", &flags).unwrap();
    let mut placed = 0;
    for restart in 0..5 {
        // Each time, some streams are open.
        placed = wait_for_load(&scene, placed);
        if restart % 2 == 0 {
            scene.agent.kill().unwrap();
        } else {
            assert!(scene.agent.stop().unwrap().success());
        }
        scene.agent.start(&[]).unwrap();
    }
    wait_for_load(&scene, placed);
    load.signal(Signal::SIGTERM).unwrap();
    let (report, status): (Value, _) = load.report().unwrap();
    assert!(status.success(), "{report:#}");
    let failed = report["requests"]["failed"].as_object().unwrap();
    assert!(
        !failed.is_empty() && failed.values().all(|count| *count == 0),
        "{report:#}"
    );
    assert!(report["requests"]["ok"].as_u64() >= Some(5 * 32), "{report:#}");
    // Each one went through the kernel, and was counted exactly once whoever was looking.
    let counts = || {
        [
            sum(&scene, |one| one.active_connections),
            sum(&scene, |one| one.connections_total),
        ]
    };
    let connections = report["connections"].as_u64().unwrap();
    eventually("the counters", counts, |counts| *counts == [0, connections]);
}

#[test]
fn cleanup_refuses_while_the_agent_runs() {
    let mut scene = started();
    let output = scene.agent.cleanup().unwrap();
    let expected = format!(
        "another agent runs on this node with pid {}",
        scene.agent.process().pid()
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains(&expected), "{}", said(&output));
    assert!(scene.is_answered_by(8000, "r0"));
    assert!(scene.agent.stop().unwrap().success());
    assert!(scene.agent.cleanup().unwrap().status.success());
}

#[test]
fn cleanup_leaves_what_is_not_the_agents() {
    let mut scene = started();
    let (file, folder) = (
        scene.agent.run_dir().join("other.pid"),
        scene.node.pins().path().join("other"),
    );
    fs::write(&file, "1").unwrap();
    fs::create_dir_all(folder.join("links")).unwrap();
    assert!(scene.agent.stop().unwrap().success());
    // `--run-dir /run --pin-dir /sys/fs/bpf` must not be a catastrophe.
    let output = scene.agent.cleanup().unwrap();
    assert!(file.exists(), "{}", said(&output));
    assert!(folder.join("links").exists(), "{}", said(&output));
    let answers = || scene.answers(8000);
    eventually("the end of the data path", answers, |answers| {
        answers.contains(DIRECT) && answers.len() == 1
    });
}

#[test]
fn cleanup_removes_everything_but_open_connections() {
    let mut scene = SingleNode::new();
    let pod = scene.node.pod("m0").unwrap();
    let _server = model_server(&pod, "m0");
    let backend = format!("{{address: {}, port: 9100}}", pod.v4());
    let yaml = scene.service("a", 8000, &[0]) + &scene.service_of("llama", 8003, &backend);
    scene.agent.configure(&yaml).unwrap();
    scene.agent.start(&[]).unwrap();
    let url = format!("http://{}", scene.address(8003));
    // A second of tokens.
    let mut load = scene
        .client
        .spawn(
            "load-client",
            &["--url", &url, "--requests", "1", "--max-tokens", "200"],
        )
        .unwrap();
    let states = || {
        scene
            .agent
            .connections()
            .unwrap()
            .into_iter()
            .map(|found| found.state)
            .collect::<Vec<_>>()
    };
    eventually("the stream", states, |states| *states == ["established"]);
    assert!(scene.agent.stop().unwrap().success());

    let output = scene.agent.cleanup().unwrap();
    assert!(
        output.status.success() && said(&output).contains("open connections live on"),
        "{}",
        said(&output)
    );
    assert!(!scene.node.pins().path().exists() && !scene.agent.run_dir().exists());
    // The kernel detaches a link when its last reference is gone, which is a little later.
    eventually(
        "the end of the data path",
        || scene.answers(8000),
        |answers| answers.contains(DIRECT) && answers.len() == 1,
    );
    assert!(
        !load.has_ended(),
        "the stream outlives the data path: {:?}",
        load.stdout()
    );
    let (report, _): (Value, _) = load.report().unwrap();
    assert_eq!(
        (&report["requests"]["ok"], &report["tokens"]),
        (&1.into(), &200.into()),
        "{report:#}"
    );

    let output = scene.agent.cleanup().unwrap();
    assert!(
        output.status.success() && said(&output).contains("removed 0 pinned"),
        "{}",
        said(&output)
    );
    assert!(!scene.agent.run_dir().exists());
    scene.agent.start(&[]).unwrap();
    assert!(scene.is_answered_by(8000, "r0"), "after a fresh start");
}
