// SPDX-License-Identifier: Apache-2.0
//! What the agent tells through its socket: the CLI's tables and JSON, and the programs' log.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{fs, os::unix::fs::PermissionsExt as _};

use nodemesh_e2e::{
    eventually::eventually,
    single_node::{SingleNode, said},
};
use serde_json::{Value, json};

/// The service `a` on port 8000, with `r0`, and `r1` draining.
fn one_service(scene: &SingleNode) -> String {
    let backends = [
        scene.backend(0, ", weight: 5"),
        scene.backend(1, ", state: draining"),
    ];
    scene.service_of("a", 8000, &backends.join(", "))
}

/// The output of a CLI call that must succeed.
fn cli(scene: &SingleNode, arguments: &[&str]) -> String {
    let output = scene.agent.cli(arguments).unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn json(scene: &SingleNode, arguments: &[&str]) -> Value {
    let text = cli(scene, &[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
}

/// Rows of a table, headers first, with one space between two words.
fn table(scene: &SingleNode, arguments: &[&str]) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    cli(scene, arguments).lines().map(words).collect()
}

/// Checks the row `index` of a table as far as `expected` goes.
fn assert_row(rows: &[String], index: usize, expected: &str) {
    assert!(
        rows[index].starts_with(expected),
        "expected {expected:?} in {rows:#?}"
    );
}

/// Checks that an object has these fields, whatever others there are.
fn assert_fields(object: &Value, expected: &Value) {
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&object[key], value, "{key} of {object:#}");
    }
}

#[test]
fn backends_are_told_as_a_table_and_as_json() {
    let scene = SingleNode::started(one_service, &[]);
    assert!(scene.is_answered_by(8000, "r0"));
    let _held = scene.hold(8000, 2);
    let are_counted = |backends: &Value| backends[0]["connections_closed"] == 4;
    let backends = eventually("the counters", || json(&scene, &["backends"]), are_counted);
    assert_eq!(backends.as_array().unwrap().len(), 2, "{backends:#}");
    let (first, second) = (scene.replica(0), scene.replica(1));
    let expected = json!({
        "service": "models/a", "address": first, "workload": null, "weight": 5, "state": "active",
        "active_connections": 2, "connections_total": 6, "connections_closed": 4,
    });
    assert_fields(&backends[0], &expected);
    let mean = backends[0]["connect_seconds_mean"].as_f64();
    assert!(mean.is_some_and(|mean| mean > 0.0 && mean < 1.0), "{backends:#}");
    let expected = json!({
        "service": "models/a", "address": second, "weight": 1, "state": "draining",
        "active_connections": 0, "connections_total": 0, "connect_seconds_mean": null,
    });
    assert_fields(&backends[1], &expected);

    let rows = table(&scene, &["backends", "--service", "models/a"]);
    assert_row(
        &rows,
        0,
        "SERVICE ADDRESS WEIGHT STATE ACTIVE INFLIGHT TOTAL FAILED CONNECT TTFT50 WORKLOAD",
    );
    assert_row(&rows, 1, &format!("models/a {first} 5 active 2 0 6 0 "));
    assert_row(&rows, 2, &format!("models/a {second} 1 draining 0 0 0 0 - - -"));
    assert_eq!(
        table(&scene, &["backends", "--service", "models/none"]).len(),
        1,
        "only the headers"
    );
}

/// Refusals of a service, none of them for another reason than that there was no backend.
fn refused(no_backend: u64) -> Value {
    json!({"no_backend": no_backend, "policy": 0, "rate": 0, "connections": 0, "requests": 0})
}

#[test]
fn services_are_told_as_a_table_and_as_json() {
    let policy = "---\napiVersion: nodemesh.io/v1alpha1\nkind: TrafficPolicy\n\
                  metadata: {name: p, namespace: models}\nspec: {targetRef: {kind: Service, name: a}, \
                  loadBalancer: {algorithm: random}, sessionAffinity: {timeout: 90s}}\n";
    let two = |scene: &SingleNode| one_service(scene) + &scene.service("b", 8001, &[]) + policy;
    let scene = SingleNode::started(two, &[]);
    assert!(scene.is_answered_by(8000, "r0"));
    assert_eq!(scene.connect(8001, 2).errors["ECONNREFUSED"], 2);
    let are_counted = |services: &Value| services[0]["active_connections"] == 0;
    let services = eventually("the counters", || json(&scene, &["services"]), are_counted);
    assert_eq!(services.as_array().unwrap().len(), 2, "{services:#}");
    let (a, b) = (scene.address(8000), scene.address(8001));
    let expected = json!({
        "service": "models/a", "model": null, "address": a, "protocol": "TCP", "algorithm": "random",
        "session_affinity_seconds": 90, "backends": {"active": 1, "draining": 1}, "connections_total": 4,
        "refused": refused(0),
    });
    assert_fields(&services[0], &expected);
    let expected = json!({
        "service": "models/b", "address": b, "algorithm": "least-request", "session_affinity_seconds": 0,
        "backends": {}, "connections_total": 0, "refused": refused(2),
    });
    assert_fields(&services[1], &expected);

    let rows = table(&scene, &["services"]);
    assert_row(
        &rows,
        0,
        "SERVICE ADDRESS PROTOCOL ALGORITHM AFFINITY BACKENDS ACTIVE TOTAL REFUSED MODEL",
    );
    assert_row(
        &rows,
        1,
        &format!("models/a {a} TCP random 1m 30s 1 active, 1 draining 0 4 0 -"),
    );
    assert_row(
        &rows,
        2,
        &format!("models/b {b} TCP least-request - none 0 0 2 -"),
    );
}

#[test]
fn connections_are_told_as_a_table_and_as_json() {
    let scene = SingleNode::started(one_service, &[]);
    assert_eq!(json(&scene, &["connections"]), json!([]));
    let held = scene.hold(8000, 2);
    let connections = json(&scene, &["connections", "--vantage", "client"]);
    let expected = json!({
        "service": "models/a", "protocol": "TCP", "service_address": scene.address(8000),
        "backend": scene.replica(0), "state": "established", "client_pid": held.pid(), "client_workload": null,
        "vantage": "client", "tcp_state": "ESTAB", "phase": "idle", "requests_in_flight": 0, "stalled": false,
    });
    let listed = connections.as_array().unwrap();
    assert_eq!(listed.len(), 2, "{connections:#}");
    for connection in listed {
        assert_fields(connection, &expected);
        let client = connection["client"].as_str().unwrap();
        assert!(
            client.starts_with(&format!("{}:", scene.client.v4())),
            "{connections:#}"
        );
        let age = connection["age_seconds"].as_f64().unwrap();
        assert!((0.0..60.0).contains(&age), "{connections:#}");
    }
    let replica = scene.replica(0);
    let rows = table(
        &scene,
        &[
            "connections",
            "--wide",
            "--vantage",
            "client",
            "--backend",
            &replica,
        ],
    );
    assert_eq!(rows.len(), 3, "{rows:#?}");
    assert_row(
        &rows,
        0,
        "SERVICE CLIENT BACKEND VANTAGE PATH WIRE PHASE STALL REQUEST QUIET AGE UP DOWN REQS RTT DIALLED SEEN AS PROTOCOL STATE",
    );
    for part in [
        format!(" {replica} client socket "),
        format!(" {} - TCP ESTAB ", scene.address(8000)),
        format!(" - {} ", held.pid()),
    ] {
        assert!(rows[1].contains(&part), "{part} in {rows:#?}");
    }
    let other = scene.replica(1);
    assert_eq!(
        table(&scene, &["connections", "--backend", &other]).len(),
        1,
        "only the headers"
    );
    assert_eq!(
        table(&scene, &["connections", "--service", "models/b"]).len(),
        1,
        "only the headers"
    );
    drop(held);
    let left = || json(&scene, &["connections"]);
    eventually("the end of the connections", left, |left| *left == json!([]));
}

#[test]
fn status_is_told_as_text_and_as_json() {
    let scene = SingleNode::started(one_service, &[]);
    let status = json(&scene, &["status"]);
    assert_eq!(
        (&status["ready"], &status["problems"]),
        (&true.into(), &json!([])),
        "{status:#}"
    );
    assert_eq!(status["pid"], scene.agent.process().pid(), "{status:#}");
    let config = &status["config"];
    assert_eq!(
        config["path"],
        scene.agent.config().display().to_string(),
        "{status:#}"
    );
    assert_eq!(
        (&config["state"], &config["generation"]),
        (&"ok".into(), &1.into()),
        "{status:#}"
    );
    assert_eq!(status["datapath"]["maps"]["backends"]["entries"], 2, "{status:#}");
    let programs = status["datapath"]["programs"].as_object().unwrap();
    assert!(
        !programs.is_empty() && programs.values().all(|runs| *runs == true),
        "{status:#}"
    );
    let text = cli(&scene, &["status"]);
    for expected in [
        "ready    yes",
        "ok, generation 1 (1 in the kernel)",
        "backends 2/131072",
        "errors   none",
    ] {
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn without_an_agent_every_question_has_a_clear_answer() {
    let scene = SingleNode::new();
    for verb in ["status", "services", "backends", "connections", "log"] {
        let output = scene.agent.cli(&[verb]).unwrap();
        assert_eq!(
            (output.status.code(), output.stdout.len()),
            (Some(1), 0),
            "{verb}: {}",
            said(&output)
        );
        let socket = scene.agent.run_dir().join("agent.sock");
        let expected = format!(
            "nodemesh: no agent answers at {}; start `nodemesh-agent run`, or name its folder with --run-dir",
            socket.display()
        );
        assert!(said(&output).starts_with(&expected), "{verb}: {}", said(&output));
    }
}

#[test]
fn the_log_of_the_programs_can_be_turned_on_and_off() {
    let scene = SingleNode::started(one_service, &[]);
    let agent = scene.agent.process();
    let placed = || {
        agent
            .stderr()
            .iter()
            .filter(|line| line.contains("placed service="))
            .count()
    };
    assert!(scene.is_answered_by(8000, "r0"));
    assert_eq!(placed(), 0);

    // Nothing else is needed: what the agent itself says is another matter.
    assert!(cli(&scene, &["log", "--programs", "debug"]).contains("\nprograms  debug\n"));
    let address = scene.address(8000);
    let expected = format!("{} port=8000 backend=", address.trim_end_matches(":8000"));
    let logged = || {
        assert!(scene.is_answered_by(8000, "r0"));
        placed()
    };
    // The reconciler writes the level into the kernel a moment after the answer.
    eventually("the programs' log", logged, |count| *count > 0);
    agent
        .wait_for_log(|line| line.contains(&expected) && line.contains("backend_port=9000"))
        .unwrap();

    assert!(cli(&scene, &["log", "--programs", "off"]).contains("\nprograms  off\n"));
    let silent = || {
        let before = placed();
        assert!(scene.is_answered_by(8000, "r0"));
        // A question that is answered later than the connections were placed: what they logged is there by then.
        cli(&scene, &["connections"]);
        placed() - before
    };
    eventually("silence", silent, |count| *count == 0);
}

#[test]
fn an_invalid_filter_is_refused_and_changes_nothing() {
    let scene = SingleNode::started(one_service, &[]);
    for (arguments, message) in [
        (
            ["log", "--agent", "nodemesh=loud"],
            "`nodemesh=loud` is no log filter; use a level such as `info`",
        ),
        (
            ["log", "--programs", "loud"],
            "possible values: off, error, warn, info, debug, trace",
        ),
    ] {
        let output = scene.agent.cli(&arguments).unwrap();
        assert!(
            !output.status.success() && said(&output).contains(message),
            "{}",
            said(&output)
        );
    }
    assert_eq!(
        cli(&scene, &["log"]),
        "agent     info\nprograms  error\naccess    off\n"
    );
}

#[test]
fn only_root_may_talk_to_the_agent() {
    let scene = SingleNode::started(one_service, &[]);
    let socket = scene.agent.run_dir().join("agent.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn the_log_can_be_json() {
    let scene = SingleNode::new();
    scene.agent.configure(&one_service(&scene)).unwrap();
    let agent = scene.agent.launch(&["--log-format", "json"]).unwrap();
    agent
        .wait_for_log(|line| line.contains("\"message\":\"ready\""))
        .unwrap();
    let (status, log) = {
        agent.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
        agent.finish().unwrap()
    };
    assert!(status.success(), "{log}");
    for line in log.lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(
            event["level"].is_string() && event["fields"]["message"].is_string(),
            "{line}"
        );
    }
}
