// SPDX-License-Identifier: Apache-2.0
//! What the agent tells through its socket: the CLI's tables and JSON, and the programs' log.

use std::{fs, os::unix::fs::PermissionsExt as _};

use nodemesh_e2e::{
    eventually::eventually,
    single_node::{SingleNode, said},
};
use serde_json::Value;

/// A scene whose agent runs with `yaml` and `flags`.
fn started(yaml: impl Fn(&SingleNode) -> String, flags: &[&str]) -> SingleNode {
    let mut scene = SingleNode::new().unwrap();
    scene.agent.configure(&yaml(&scene)).unwrap();
    scene.agent.start(flags).unwrap();
    scene
}

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

/// Cells of a table, as `awk` sees them.
fn table(scene: &SingleNode, arguments: &[&str]) -> Vec<Vec<String>> {
    let text = cli(scene, arguments);
    text.lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect()
}

#[test]
fn backends_are_told_as_a_table_and_as_json() {
    let scene = started(one_service, &[]);
    assert!(scene.is_answered_by(8000, "r0").unwrap());
    let held = scene.hold(8000, 2).unwrap();
    eventually(
        "the counters",
        || json(&scene, &["backends"]),
        |backends| backends[0]["active_connections"] == 2,
    );
    let backends = json(&scene, &["backends"]);
    assert_eq!(backends.as_array().unwrap().len(), 2, "{backends:#}");
    let first = &backends[0];
    assert_eq!(first["service"], "models/a", "{backends:#}");
    assert_eq!(first["address"], scene.replica(0), "{backends:#}");
    assert_eq!(
        (&first["weight"], &first["state"]),
        (&5.into(), &"active".into()),
        "{backends:#}"
    );
    assert_eq!(first["connections_total"], 6, "{backends:#}");
    assert!(
        first["connect_seconds_mean"]
            .as_f64()
            .is_some_and(|mean| mean > 0.0 && mean < 1.0),
        "{backends:#}"
    );
    let second = &backends[1];
    assert_eq!(
        (&second["state"], &second["connections_total"]),
        (&"draining".into(), &0.into()),
        "{backends:#}"
    );
    assert_eq!(second["connect_seconds_mean"], Value::Null, "{backends:#}");

    let rows = table(&scene, &["backends", "--service", "models/a"]);
    assert_eq!(
        rows[0][..4],
        ["SERVICE", "ADDRESS", "WEIGHT", "STATE"],
        "{rows:?}"
    );
    assert_eq!(
        rows[1][..7],
        ["models/a", &scene.replica(0), "5", "active", "2", "6", "0"],
        "{rows:?}"
    );
    assert_eq!(
        rows[2][..7],
        ["models/a", &scene.replica(1), "1", "draining", "0", "0", "0"],
        "{rows:?}"
    );
    assert_eq!(
        table(&scene, &["backends", "--service", "models/none"]).len(),
        1,
        "only the headers"
    );
    drop(held);
}

#[test]
fn services_are_told_as_a_table_and_as_json() {
    let affinity = "---\napiVersion: nodemesh.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: p, namespace: models}\n\
                    spec: {targetRef: {kind: Service, name: a}, loadBalancer: {algorithm: random}, sessionAffinity: {timeout: 90s}}\n";
    let scene = started(
        |scene| one_service(scene) + &scene.service("b", 8001, &[]) + affinity,
        &[],
    );
    assert!(scene.is_answered_by(8000, "r0").unwrap());
    assert_eq!(scene.connect(8001, 2).unwrap().errors["ECONNREFUSED"], 2);
    let services = json(&scene, &["services"]);
    let (a, b) = (&services[0], &services[1]);
    assert_eq!(
        (&a["service"], &a["address"]),
        (&"models/a".into(), &scene.address(8000).into()),
        "{services:#}"
    );
    assert_eq!(
        (&a["protocol"], &a["algorithm"]),
        (&"TCP".into(), &"random".into()),
        "{services:#}"
    );
    assert_eq!(a["session_affinity_seconds"], 90, "{services:#}");
    assert_eq!(
        (&a["active_connections"], &a["connections_total"]),
        (&0.into(), &4.into()),
        "{services:#}"
    );
    assert_eq!(
        a["backends"],
        serde_json::json!({"active": 1, "draining": 1}),
        "{services:#}"
    );
    assert_eq!(b["refused"]["no_backend"], 2, "{services:#}");
    let rows = table(&scene, &["services"]);
    assert_eq!(
        rows[0][..6],
        [
            "SERVICE",
            "ADDRESS",
            "PROTOCOL",
            "ALGORITHM",
            "AFFINITY",
            "BACKENDS"
        ],
        "{rows:?}"
    );
    let a = [
        "models/a",
        &scene.address(8000),
        "TCP",
        "random",
        "1m",
        "30s",
        "1",
        "active,",
        "1",
        "draining",
    ];
    assert_eq!(rows[1][..10], a, "{rows:?}");
    let b = [
        "models/b",
        &scene.address(8001),
        "TCP",
        "least-request",
        "-",
        "none",
        "0",
        "0",
        "2",
    ];
    assert_eq!(rows[2][..9], b, "{rows:?}");
}

#[test]
fn connections_are_told_as_a_table_and_as_json() {
    let scene = started(one_service, &[]);
    assert_eq!(json(&scene, &["connections"]), serde_json::json!([]));
    let held = scene.hold(8000, 2).unwrap();
    let connections = json(&scene, &["connections"]);
    assert_eq!(connections.as_array().unwrap().len(), 2, "{connections:#}");
    for connection in connections.as_array().unwrap() {
        assert_eq!(connection["service"], "models/a", "{connections:#}");
        assert_eq!(
            connection["service_address"],
            scene.address(8000),
            "{connections:#}"
        );
        assert_eq!(connection["backend"], scene.replica(0), "{connections:#}");
        assert_eq!(connection["state"], "established", "{connections:#}");
        assert_eq!(connection["client_pid"], held.pid(), "{connections:#}");
        let client = format!("{}:", scene.client.v4());
        assert!(
            connection["client"]
                .as_str()
                .is_some_and(|found| found.starts_with(&client)),
            "{connections:#}"
        );
        assert!(
            connection["age_seconds"]
                .as_f64()
                .is_some_and(|age| (0.0..60.0).contains(&age)),
            "{connections:#}"
        );
    }
    let rows = table(&scene, &["connections", "--backend", &scene.replica(0)]);
    assert_eq!(
        rows[0][..5],
        ["SERVICE", "PROTOCOL", "CLIENT", "BACKEND", "STATE"],
        "{rows:?}"
    );
    assert_eq!((rows.len(), &*rows[1][4]), (3, "established"), "{rows:?}");
    assert_eq!(
        table(&scene, &["connections", "--backend", &scene.replica(1)]).len(),
        1
    );
    assert_eq!(table(&scene, &["connections", "--service", "models/b"]).len(), 1);
    drop(held);
    eventually(
        "the end of the connections",
        || json(&scene, &["connections"]),
        |left| *left == serde_json::json!([]),
    );
}

#[test]
fn status_is_told_as_text_and_as_json() {
    let scene = started(one_service, &[]);
    let status = json(&scene, &["status"]);
    assert_eq!(
        (&status["ready"], &status["problems"]),
        (&true.into(), &serde_json::json!([])),
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
    let scene = SingleNode::new().unwrap();
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
    let scene = started(one_service, &[]);
    let agent = scene.agent.process();
    let placed = || {
        agent
            .stderr()
            .iter()
            .filter(|line| line.contains("placed service="))
            .count()
    };
    assert!(scene.is_answered_by(8000, "r0").unwrap());
    assert_eq!(placed(), 0);

    // Nothing else is needed: what the agent itself says is another matter.
    assert!(cli(&scene, &["log", "--programs", "debug"]).ends_with("\nprograms  debug\n"));
    let address = scene.address(8000);
    let expected = format!("{} port=8000 backend=", address.trim_end_matches(":8000"));
    let logged = || {
        assert!(scene.is_answered_by(8000, "r0").unwrap());
        placed()
    };
    // The reconciler writes the level into the kernel a moment after the answer.
    eventually("the programs' log", logged, |count| *count > 0);
    agent
        .wait_for_log(|line| line.contains(&expected) && line.contains("backend_port=9000"))
        .unwrap();

    assert!(cli(&scene, &["log", "--programs", "off"]).ends_with("\nprograms  off\n"));
    let silent = || {
        let before = placed();
        assert!(scene.is_answered_by(8000, "r0").unwrap());
        // A question that is answered later than the connections were placed: what they logged is there by then.
        cli(&scene, &["connections"]);
        placed() - before
    };
    eventually("silence", silent, |count| *count == 0);
}

#[test]
fn an_invalid_filter_is_refused_and_changes_nothing() {
    let scene = started(one_service, &[]);
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
    assert_eq!(cli(&scene, &["log"]), "agent     info\nprograms  error\n");
}

#[test]
fn only_root_may_talk_to_the_agent() {
    let scene = started(one_service, &[]);
    let socket = scene.agent.run_dir().join("agent.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn the_log_can_be_json() {
    let scene = SingleNode::new().unwrap();
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
