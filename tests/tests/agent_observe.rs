// SPDX-License-Identifier: Apache-2.0
//! What people see of the meter: `connections`, `top` and `status`, against model servers whose behaviour is known.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use nodemesh_e2e::{
    eventually::eventually,
    model_scene::ModelScene,
    process::{Process, binary},
    single_node::said,
};
use serde_json::{Value, json};

/// The stream of a service as it is listed; null without one.
fn stream_of(scene: &ModelScene, service: &str, vantage: &str) -> Value {
    let filters = ["--service", service, "--vantage", vantage, "--phase", "stream"];
    let mut listed = scene.json(&[&["connections"], &filters[..]].concat());
    listed.pop().unwrap_or_default()
}

/// Stalled streams of a service, at each vantage.
fn stalled_streams(lines: &[Value], service: &str) -> Vec<Value> {
    let all = lines
        .iter()
        .filter(|line| line["service"] == service && line["backend"] == "*");
    all.map(|line| line["stalled_streams"].clone()).collect()
}

#[test]
fn a_wedged_stream_is_told_from_a_slow_one() {
    let quick = ["--prefill", "20ms", "--inter-token", "10ms", "--tokens", "40"];
    let slow = ["--prefill", "20ms", "--inter-token", "600ms", "--tokens", "1000"];
    let scene = ModelScene::new(&[&quick, &slow], &[]);
    // The mesh has to know the usual pace of the first one.
    scene.send(0, 3, &[]);
    scene.control(0, &json!({"failure": "wedge-decode"}));
    let wedged = scene.client(0, &["--requests", "1", "--timeout", "120s"]);
    let _slow = scene.client(1, &["--requests", "1", "--timeout", "120s"]);
    for vantage in ["client", "server"] {
        let one = |service: &str| stream_of(&scene, service, vantage);
        let told = eventually(
            "a stalled stream",
            || one("models/m1"),
            |told| told["stalled"] == true,
        );
        let quiet = told["quiet_seconds"].as_f64().unwrap();
        assert!(
            quiet > 1.0 && told["request_age_seconds"].as_f64().unwrap() >= quiet,
            "{told:#}"
        );
        assert_eq!(
            (&told["wire"], &told["requests_in_flight"]),
            (&json!("http1"), &json!(1)),
            "{told:#}"
        );

        let told = eventually(
            "a slow stream",
            || one("models/m2"),
            |told| told["request_age_seconds"].as_f64() > Some(3.0),
        );
        assert_eq!(told["stalled"], false, "{told:#}");
        let stalled = scene.rows(&["connections", "--stalled", "--vantage", vantage]);
        assert_eq!(stalled.len(), 1, "{stalled:?}");
        assert_eq!((&*stalled[0][0], &*stalled[0][7]), ("models/m1", "stalled"));
    }
    let seen = |lines: &Vec<Value>| {
        stalled_streams(lines, "models/m1") == [1, 1] && stalled_streams(lines, "models/m2") == [0, 0]
    };
    let top = || scene.json(&["top", "--once", "--interval", "200ms"]);
    eventually("the stalled stream at both vantages", top, seen);
    let status = scene.cli(&["status"]);
    assert!(status.contains("stalled 1 as client, 1 as server"), "{status}");

    scene.control(0, &json!({"failure": "none"}));
    let (report, _) = wedged.report::<Value>().unwrap();
    assert_eq!(report["requests"]["ok"], 1, "{report:#}");
    assert!(scene.rows(&["connections", "--stalled"]).is_empty());
}

#[test]
fn connections_are_filtered_and_sorted() {
    let scene = ModelScene::new(
        &[
            &["--prefill", "60s"],
            &["--inter-token", "50ms", "--tokens", "100000"],
        ],
        &[],
    );
    let waiting: Vec<Process> = (0..2).map(|_| scene.client(0, &[])).collect();
    let client =
        |arguments: &[&str]| scene.json(&[&["connections", "--vantage", "client"], arguments].concat());
    eventually(
        "two open requests",
        || client(&["--phase", "request"]).len(),
        |count| *count == 2,
    );
    let streaming = scene.client(1, &["--prompt-bytes", "20000"]);
    let stream = eventually(
        "a stream",
        || client(&["--phase", "stream"]),
        |listed| listed.len() == 1,
    );
    assert_eq!(stream[0]["client_pid"], streaming.pid());
    let pids = |arguments: &[&str]| -> Vec<u64> {
        client(arguments)
            .iter()
            .map(|one| one["client_pid"].as_u64().unwrap())
            .collect()
    };
    let expected = [waiting[0].pid(), waiting[1].pid(), streaming.pid()].map(u64::from);
    let sorted = pids(&[]);
    assert_eq!(
        (sorted.len(), sorted[2]),
        (3, expected[2]),
        "the youngest comes last"
    );
    assert_eq!(pids(&["--sort", "bytes", "--limit", "1"]), [expected[2]]);
    assert_eq!(
        pids(&["--backend", &scene.models[1].replica.to_string()]),
        [expected[2]]
    );
    assert_eq!(pids(&["--service", "models/m2"]), [expected[2]]);
    assert!(pids(&["--older-than", "1h"]).is_empty());
    assert!(pids(&["--phase", "opaque"]).is_empty());
    let quiet = client(&["--sort", "quiet"]);
    assert_ne!(
        quiet[0]["client_pid"], expected[2],
        "a stream is less quiet than a wait"
    );

    let output = scene
        .bed
        .agent
        .cli(&["connections", "--backend", "replica"])
        .unwrap();
    assert!(
        !output.status.success() && said(&output).contains("write ip:port"),
        "{}",
        said(&output)
    );
}

#[test]
fn both_ends_of_a_connection_are_told_alike() {
    let scene = ModelScene::new(&[&["--inter-token", "50ms", "--tokens", "100000"]], &[]);
    let streaming = scene.client(0, &["--prompt-bytes", "20000"]);
    let told = |vantage| {
        let is_stream = |told: &Value| *told != Value::Null;
        eventually("a stream", || stream_of(&scene, "models/m1", vantage), is_stream)
    };
    let (client, server) = (told("client"), told("server"));
    for key in ["client", "backend", "request_bytes", "wire", "phase"] {
        assert_eq!(client[key], server[key], "{key}: {client:#} {server:#}");
    }
    assert_eq!(
        (&client["client_pid"], &server["client_pid"]),
        (&json!(streaming.pid()), &json!(0))
    );
    let dialled = scene.models[0].address.to_string();
    assert_eq!(
        (&client["service_address"], &server["service_address"]),
        (&json!(dialled), &server["backend"])
    );
    assert_eq!(client["tcp_state"], "ESTAB", "{client:#}");
    assert!(client["request_bytes"].as_u64() > Some(20_000), "{client:#}");
    assert!(client["rtt_seconds"].as_f64() > Some(0.0), "{client:#}");
}

#[test]
fn watching_prints_one_table_after_the_other() {
    let scene = ModelScene::new(&[&["--inter-token", "20ms", "--tokens", "100000"]], &[]);
    let _streaming = scene.client(0, &[]);
    let mut watch = Command::new(binary("nodemesh"))
        .arg("--run-dir")
        .arg(scene.bed.agent.run_dir())
        .args([
            "connections",
            "-w",
            "--interval",
            "50ms",
            "--vantage",
            "client",
            "--phase",
            "stream",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut bytes = Vec::new();
    // Headers, a stream and a blank line, again and again, without a terminal's control sequences.
    while bytes.len() < 3 {
        let line = lines.next().expect("the next line").unwrap();
        assert!(!line.contains('\u{1b}'), "{line:?}");
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first() == Some(&"models/m1") {
            assert_eq!(
                (words[3], words[4], words[5], words[6]),
                ("client", "socket", "http1", "stream"),
                "{line}"
            );
            bytes.push(words[12].to_owned());
        }
    }
    watch.kill().unwrap();
    watch.wait().unwrap();
}

/// Four requests at a time, each with a prefill of 0.3 s and 19 gaps of 30 ms: about 4.6 per second, and 92 chunks.
fn assert_is_usual(line: &Value) {
    let expected = [
        ("requests_per_second", 2.0..=6.0),
        ("chunks_per_second", 40.0..=120.0),
        ("time_to_first_token_p50", 0.25..=0.5),
        ("inter_token_latency_p50", 0.025..=0.05),
        ("errors_per_second", 0.0..=0.0),
        ("stalled_streams", 0.0..=0.0),
        ("requests_in_flight", 3.0..=4.0),
        ("open_connections", 4.0..=4.0),
    ];
    for (key, range) in expected {
        let is_right = line[key].as_f64().is_some_and(|value| range.contains(&value));
        assert!(is_right, "{key} is not in {range:?}: {line:#}");
    }
}

#[test]
fn top_tells_what_the_client_measures() {
    let flags = ["--prefill", "300ms", "--inter-token", "30ms", "--tokens", "20"];
    let scene = ModelScene::new(&[&flags, &["--failure", "error"]], &[]);
    let _load = scene.client(0, &["--concurrency", "4", "--mode", "keep-alive"]);
    let _failing = scene.client(1, &["--rate", "20", "--allow-failures"]);
    let busy = |lines: &Vec<Value>| {
        let requests = |service: &str| {
            let of_service = lines.iter().filter(|line| line["service"] == service);
            of_service
                .map(|line| line["requests_per_second"].as_f64().unwrap())
                .collect::<Vec<f64>>()
        };
        // A sum and a replica for each vantage.
        ["models/m1", "models/m2"]
            .iter()
            .all(|service| requests(service).len() == 4 && requests(service).iter().all(|rate| *rate > 0.0))
    };
    let top = || scene.json(&["top", "--once", "--interval", "2s"]);
    for line in eventually("traffic at both vantages", top, busy) {
        if line["service"] == "models/m2" {
            assert!(line["errors_per_second"].as_f64() > Some(5.0), "{line:#}");
        } else {
            assert_is_usual(&line);
        }
    }
    let filters = ["--service", "models/m1", "--vantage", "server"];
    let table = scene.rows(&[&["top", "--once", "--interval", "100ms"], &filters[..]].concat());
    assert_eq!(table.len(), 2, "{table:?}");
    let replica = scene.models[0].replica.to_string();
    assert_eq!(
        (&*table[0][1], &*table[1][1], &*table[1][2]),
        ("*", &*replica, "server")
    );
    let backends = scene.json(&["backends", "--service", "models/m1"]);
    assert!(
        backends[0]["requests_in_flight"].as_u64() >= Some(1),
        "{backends:#?}"
    );
    let median = backends[0]["time_to_first_token_seconds_p50"].as_f64();
    assert!(
        median.is_some_and(|median| (0.25..=0.5).contains(&median)),
        "{backends:#?}"
    );
}
