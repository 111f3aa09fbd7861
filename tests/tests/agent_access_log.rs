// SPDX-License-Identifier: Apache-2.0
//! The access log: its lines are what the client did, it is switched at run time, rotated and sampled.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::sys::signal::Signal;
use nodemesh_e2e::{eventually::eventually, model_scene::ModelScene, single_node::said};
use serde_json::{Value, json};

/// Lines of requests seen from `vantage`.
fn requests<'a>(lines: &'a [Value], vantage: &str) -> Vec<&'a Value> {
    let wanted = |line: &&Value| line["kind"] == "request" && line["vantage"] == vantage;
    lines.iter().filter(wanted).collect()
}

/// The scene, with the access log on and known to be.
fn logging() -> ModelScene {
    let scene = ModelScene::new(
        &[&["--prefill", "50ms", "--inter-token", "5ms", "--tokens", "8"]],
        &[],
    );
    scene.send(0, 3, &[]);
    assert!(scene.cli(&["log"]).ends_with("\naccess    off\n"));
    assert!(
        scene
            .cli(&["log", "--access", "json"])
            .contains("\naccess    json, all; ")
    );
    // The reconciler tells the programs a moment after the answer.
    let tried = || {
        scene.send(0, 1, &[]);
        scene.access_lines().len()
    };
    eventually("the access log", tried, |count| *count > 0);
    scene
}

/// Lines of requests at each vantage.
fn counts(scene: &ModelScene) -> [usize; 2] {
    let lines = scene.access_lines();
    ["client", "server"].map(|vantage| requests(&lines, vantage).len())
}

#[test]
fn every_request_has_a_line_at_both_ends() {
    let scene = logging();
    // The last request of the switching may have been logged at one end only.
    let first = eventually(
        "as many lines from both",
        || counts(&scene),
        |[client, server]| client == server,
    );
    let started = SystemTime::now();
    let report = scene.send(0, 7, &["--mode", "keep-alive"]);
    let expected = first.map(|count| count + 7);
    eventually(
        "seven lines from each vantage",
        || counts(&scene),
        |counts| *counts == expected,
    );
    let lines = scene.access_lines();
    for vantage in ["client", "server"] {
        for line in requests(&lines, vantage).iter().rev().take(7) {
            assert_tells_the_request(line, &scene, started);
        }
    }
    let last = requests(&lines, "client").into_iter().rev().take(7);
    let bytes: u64 = last.map(|line| line["response_bytes"].as_u64().unwrap()).sum();
    let bodies = report["bytes"].as_u64().unwrap();
    assert!(
        bytes > bodies && bytes < bodies * 2,
        "{bytes} with headers and framing, {bodies} without"
    );
    let ended = || {
        let lines = scene.access_lines();
        let ends = lines
            .iter()
            .filter(|line| line["kind"] == "connection" && line["requests"] == 7);
        ends.count()
    };
    eventually("the end of the connection at both ends", ended, |ends| *ends == 2);
}

fn assert_tells_the_request(line: &Value, scene: &ModelScene, started: SystemTime) {
    let model = &scene.models[0];
    let expected = json!({
        "service": model.name, "backend": model.replica.to_string(), "outcome": "success", "status": "2xx",
        "protocol": "http1", "cancel": null, "client_workload": null, "stream": 0,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&line[key], value, "{key} of {line:#}");
    }
    // Eight tokens and a last event; the server emits by the clock, and what it catches up with comes at once.
    assert!((2..=9).contains(&line["chunks"].as_u64().unwrap()), "{line:#}");
    let first = line["time_to_first_token_seconds"].as_f64().unwrap();
    let duration = line["duration_seconds"].as_f64().unwrap();
    // The server emits by the clock: where it was late for the first token, the others follow it the faster.
    assert!(first >= 0.05 && duration > first, "{line:#}");
    let time = time_of_day(line["time"].as_str().unwrap());
    let latest = SystemTime::now() + Duration::from_secs(1);
    assert!(time >= started && time <= latest, "{line:#}");
}

#[test]
fn the_access_log_can_be_switched_off() {
    let scene = logging();
    assert!(
        scene
            .cli(&["log", "--access", "off"])
            .ends_with("\naccess    off\n")
    );
    let silent = || {
        let before = scene.access_lines().len();
        scene.send(0, 1, &[]);
        scene.cli(&["status"]);
        scene.access_lines().len() - before
    };
    eventually("silence", silent, |count| *count == 0);
    let told = scene.logs();
    assert_eq!(told["access_lost"], 0, "{told:#}");
    assert_eq!(told["access_records"], scene.access_lines().len(), "{told:#}");
}

/// A time of the access log: RFC 3339, UTC.
fn time_of_day(text: &str) -> SystemTime {
    let output = Command::new("date")
        .args(["-d", text, "+%s.%N"])
        .output()
        .unwrap();
    let seconds: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
    // The clock is told in microseconds, cut off.
    UNIX_EPOCH + Duration::from_secs_f64(seconds + 0.000_001)
}

fn count_requests(path: &Path) -> usize {
    let text = fs::read_to_string(path).unwrap_or_default();
    let requests = text
        .lines()
        .filter(|line| line.starts_with("kind=request ") && line.contains(" vantage=client "));
    requests.count()
}

#[test]
fn the_access_log_follows_a_rotation() {
    let folder = std::env::temp_dir().join(format!("nodemesh-access-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    let (file, rotated) = (folder.join("access.log"), folder.join("access.log.1"));
    let path = file.display().to_string();
    let scene = ModelScene::new(
        &[&["--prefill", "1ms", "--inter-token", "1ms", "--tokens", "2"]],
        &["--access-log", "logfmt", "--access-log-file", &path],
    );
    scene.send(0, 5, &[]);
    eventually("five lines", || count_requests(&file), |count| *count == 5);
    fs::rename(&file, &rotated).unwrap();
    scene.bed.agent.process().signal(Signal::SIGHUP).unwrap();
    eventually("a new file", || file.exists(), |exists| *exists);
    scene.send(0, 4, &[]);
    let counts = || [count_requests(&rotated), count_requests(&file)];
    eventually("nine lines in two files", counts, |counts| *counts == [5, 4]);
    let mut scene = scene;
    assert!(
        scene.bed.agent.stop().unwrap().success(),
        "SIGHUP ended the agent"
    );
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn an_agent_that_ends_writes_every_line_and_one_that_is_killed_leaves_them_to_the_next() {
    let json = ["--access-log", "json"];
    let mut scene = ModelScene::new(
        &[&["--prefill", "1ms", "--inter-token", "1ms", "--tokens", "2"]],
        &json,
    );
    scene.send(0, 1, &[]);
    eventually(
        "lines of both ends",
        || counts(&scene),
        |counts| *counts == [1, 1],
    );
    scene.send(0, 40, &["--concurrency", "8"]);
    let mut agent = scene.bed.agent.take_process();
    agent.signal(Signal::SIGTERM).unwrap();
    assert!(agent.wait().unwrap().success());
    let lines = || {
        agent
            .stdout()
            .iter()
            .filter(|line| line.contains("\"kind\":\"request\""))
            .count()
    };
    eventually("a line of each request at both ends", lines, |lines| *lines == 82);

    scene.send(0, 3, &[]);
    scene.bed.agent.start(&json).unwrap();
    scene.send(0, 1, &[]);
    eventually(
        "not what nobody saw",
        || counts(&scene),
        |counts| *counts == [1, 1],
    );
    scene.bed.agent.kill().unwrap();
    scene.send(0, 5, &[]);
    scene.bed.agent.start(&json).unwrap();
    eventually("what waited", || counts(&scene), |counts| *counts == [5, 5]);
    assert_eq!(scene.logs()["access_lost"], 0);
}

#[test]
fn a_sample_is_a_sample() {
    let scene = ModelScene::new(
        &[&["--prefill", "0ms", "--inter-token", "0ms", "--tokens", "1"]],
        &["--access-log", "json", "--access-log-sample", "10"],
    );
    assert_eq!(scene.logs()["access_sample"], 10);
    scene.send(0, 1_000, &["--concurrency", "8", "--mode", "keep-alive"]);
    let logged = || requests(&scene.access_lines(), "client").len();
    // 100 expected, 9.5 is the standard deviation.
    eventually("a tenth of the lines", logged, |count| (50..150).contains(count));
    let output = scene.bed.agent.cli(&["log", "--access-sample", "0"]).unwrap();
    assert!(!output.status.success(), "{}", said(&output));
}
