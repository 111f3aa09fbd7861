// SPDX-License-Identifier: Apache-2.0
//! What the agent tells over HTTP: metrics that Prometheus accepts and that agree with the CLI, and probes.

use std::{collections::BTreeSet, fs};

use nodemesh_agent::{api::Backend, metrics::family};
use nodemesh_e2e::{
    attachment,
    eventually::eventually,
    model_scene::ModelScene,
    scrape::Scrape,
    single_node::{SingleNode, said},
};

/// The service `a` of `r0` on port 8000.
fn one_service(scene: &SingleNode) -> String {
    scene.service("a", 8000, &[0])
}

/// The service `two` on ports 8000 and 8001 with one and the same backend, so that series would be given twice.
fn two_ports(scene: &SingleNode) -> String {
    let (address, replica) = (scene.address(8000), scene.replica(0));
    let (address, replica) = (
        address.trim_end_matches(":8000"),
        replica.trim_end_matches(":9000"),
    );
    format!(
        "apiVersion: nodemesh.io/v1alpha1\nkind: Service\nmetadata: {{name: two, namespace: models}}\nspec:\n  \
         addresses: [{address}]\n  backends: [{{address: {replica}}}]\n  ports:\n  \
         - {{name: x, port: 8000, targetPort: 9000}}\n  - {{name: y, port: 8001, targetPort: 9000}}\n"
    )
}

/// One of the counters of a backend.
type Counter = fn(&Backend) -> u64;

#[test]
fn every_family_is_there_as_declared() {
    let scene = SingleNode::started(two_ports, &["--packet-interface", "br0"]);
    assert!(scene.is_answered_by(8000, "r0") && scene.is_answered_by(8001, "r0"));
    let scrape = scene.scrape();
    let announced: BTreeSet<&str> = scrape.kinds.keys().map(String::as_str).collect();
    // The self-test of the shortcut is not done where no policy asks for it.
    let families = || family::all().filter(|family| family.name != "nodemesh_shortcut_property");
    let declared: BTreeSet<&str> = families().map(|family| family.name).collect();
    assert_eq!(announced, declared);
    for family in families() {
        assert_eq!(scrape.kinds[family.name], family.kind.word(), "{}", family.name);
        let is_histogram = family.kind == family::Kind::Histogram;
        let sample = format!("{}{}", family.name, if is_histogram { "_count" } else { "" });
        let Some((labels, _)) = scrape.samples(&sample).next() else {
            panic!("no sample of {}: {scrape:?}", family.name);
        };
        let labels: BTreeSet<&str> = labels.keys().map(String::as_str).collect();
        let declared: BTreeSet<&str> = family.labels.iter().copied().collect();
        assert_eq!(labels, declared, "{}", family.name);
    }
}

#[test]
fn counters_agree_with_the_cli_and_count_each_connection_once() {
    let scene = SingleNode::started(|scene| two_ports(scene) + &scene.service("none", 8002, &[]), &[]);
    assert!(scene.is_answered_by(8000, "r0") && scene.is_answered_by(8001, "r0"));
    assert_eq!(scene.connect(8002, 3).ok, 0);
    let _held = scene.hold(8001, 2);
    let sum = |backends: &[Backend], of: Counter| -> u64 { backends.iter().map(of).sum() };
    let listed = || scene.agent.backends().unwrap();
    let backends = eventually("the ends", listed, |backends| {
        sum(backends, |one| one.connections_closed) == 8
    });
    let scrape = scene.scrape();
    let replica = scene.replica(0);
    let two = [
        ("namespace", "models"),
        ("service", "two"),
        ("backend", &*replica),
    ];
    let counters: [(&str, Counter, u64); 4] = [
        ("opened_total", |one| one.connections_total, 10),
        ("closed_total", |one| one.connections_closed, 8),
        ("active", |one| one.active_connections, 2),
        ("failed_total", |one| one.connections_failed.values().sum(), 0),
    ];
    for (name, of, expected) in counters {
        assert_eq!(sum(&backends, of), expected, "{name}: {backends:?}");
        let metric = scrape.count(&format!("nodemesh_connections_{name}"), &two);
        assert_eq!(metric, expected, "{name}: {scrape:?}");
    }
    let refused = [("service", "none"), ("reason", "no_backend")];
    assert_eq!(scrape.count("nodemesh_refusals_total", &refused), 3, "{scrape:?}");

    let duration = |suffix: &str| format!("nodemesh_connect_duration_seconds{suffix}");
    let established = scrape.count(&duration("_count"), &two);
    assert_eq!(established, 10, "{scrape:?}");
    let unbounded = [two[0], two[1], two[2], ("le", "+Inf")];
    assert_eq!(
        scrape.count(&duration("_bucket"), &unbounded),
        established,
        "{scrape:?}"
    );
    let seconds = scrape.sum(&duration("_sum"), &two);
    assert!(seconds > 0.0 && seconds < 10.0, "{scrape:?}");

    // Ten were placed and three refused; a program may run more often, never less.
    let connect4 = [("program", "connect4")];
    assert!(
        scrape.count("nodemesh_program_runs_total", &connect4) >= 13,
        "{scrape:?}"
    );
    let seconds = scrape.sum("nodemesh_program_run_seconds_total", &connect4);
    assert!(seconds > 0.0 && seconds < 1.0, "{scrape:?}");
}

/// The agent's metrics in a scene of models.
fn scrape(scene: &ModelScene) -> Scrape {
    let (code, text) = scene
        .bed
        .agent
        .http(&scene.bed.a, "/metrics")
        .expect("ask over HTTP");
    assert_eq!(code, 200, "{text}");
    Scrape::parse(&text).unwrap_or_else(|error| panic!("{error:#} in:\n{text}"))
}

/// Waits until both vantages of a service have counted this many successful requests, and nothing is open.
fn finished(scene: &ModelScene, service: &str, requests: u64) -> Scrape {
    let is_told = |scrape: &Scrape| {
        ["client", "server"].iter().all(|vantage| {
            let labels = [("service", service), ("vantage", vantage)];
            let success = [labels[0], labels[1], ("outcome", "success")];
            scrape.sum("nodemesh_requests_total", &success) >= requests as f64
                && scrape.sum("nodemesh_open_connections", &labels) == 0.0
        })
    };
    eventually("the ends of the requests", || scrape(scene), is_told)
}

/// Five requests of 3,000 bytes of prompt.
const FIVE_REQUESTS: [(&str, u64); 13] = [
    ("requests_total", 5),
    ("time_to_first_byte_seconds_count", 5),
    ("time_to_first_token_seconds_count", 5),
    ("stream_duration_seconds_count", 5),
    ("request_size_bytes_count", 5),
    ("response_size_bytes_count", 5),
    ("rtt_seconds_count", 5),
    ("metered_connections_total", 5),
    ("requests_in_flight", 0),
    ("request_bytes_in_flight", 0),
    ("stalled_streams", 0),
    ("ambiguous_sockets_total", 0),
    ("client_cancels_total", 0),
];

#[test]
fn the_meter_tells_what_the_server_did() {
    let behaviour = ["--prefill", "100ms", "--inter-token", "30ms", "--tokens", "10"];
    let scene = ModelScene::new(&[&behaviour], &[]);
    scene.send(0, 5, &["--prompt-bytes", "3000"]);
    let scrape = finished(&scene, "m1", 5);
    let replica = scene.models[0].replica.to_string();
    for vantage in ["client", "server"] {
        let labels = [
            ("namespace", "models"),
            ("service", "m1"),
            ("backend", &*replica),
            ("vantage", vantage),
        ];
        let count = |name: &str| scrape.count(&format!("nodemesh_{name}"), &labels);
        for (name, expected) in FIVE_REQUESTS {
            assert_eq!(count(name), expected, "{vantage} {name}: {scrape:#?}");
        }
        // Ten tokens each; the server emits by the clock, and what it catches up with comes at once.
        let chunks = count("chunks_total");
        assert!((30..=50).contains(&chunks), "{vantage}: {chunks}");
        assert_eq!(
            count("inter_token_latency_seconds_count"),
            chunks - 5,
            "{vantage}"
        );
        for (name, least, most) in [
            ("time_to_first_token_seconds_sum", 0.5, 3.0),
            ("inter_token_latency_seconds_sum", 1.0, 4.0),
            ("stream_duration_seconds_sum", 1.8, 6.0),
            ("request_size_bytes_sum", 15_000.0, 25_000.0),
        ] {
            let sum = scrape.sum(&format!("nodemesh_{name}"), &labels);
            assert!(least <= sum && sum <= most, "{vantage} {name} is {sum}");
        }
        for direction in ["request", "response"] {
            let labels = [labels[1], labels[3], ("direction", direction)];
            let bytes = scrape.count("nodemesh_transmit_bytes_total", &labels);
            assert_eq!(
                bytes,
                count(&format!("{direction}_size_bytes_sum")),
                "{vantage} {direction}"
            );
        }
    }
}

#[test]
fn a_node_that_does_well_says_so() {
    let scene = ModelScene::new(&[&["--tokens", "3"]], &[]);
    scene.send(0, 3, &[]);
    let scrape = finished(&scene, "m1", 3);
    for nothing in [
        "in_flight_corrections_total",
        "http2_streams_lost_total",
        "access_log_lost_total",
        "access_log_records_total",
        "connection_table_untracked_total",
        "connection_table_entries",
        "datapath_errors_total",
        "frontends_not_programmed",
    ] {
        assert_eq!(scrape.count(&format!("nodemesh_{nothing}"), &[]), 0, "{nothing}");
    }
    assert!(scrape.count("nodemesh_connection_table_limit", &[]) > 0);
    let path = [("path", "tracepoint")];
    assert_eq!(scrape.count("nodemesh_meter_path_info", &path), 1);
    let swept = |scrape: &Scrape| scrape.sum("nodemesh_sweep_duration_seconds", &[]) > 0.0;
    eventually("a sweep", || self::scrape(&scene), swept);
}

#[test]
fn backends_beyond_the_number_share_one_series() {
    let behaviour = ["--prefill", "1ms", "--inter-token", "2ms", "--tokens", "3"];
    let scene = ModelScene::new(
        &[&behaviour, &behaviour, &behaviour],
        &["--max-metered-backends", "1"],
    );
    for index in 0..3 {
        scene.send(index, 2, &[]);
    }
    let scrape = finished(&scene, "other", 4);
    let backends: BTreeSet<(&str, &str)> = scrape
        .samples("nodemesh_requests_in_flight")
        .map(|(labels, _)| (&*labels["backend"], &*labels["namespace"]))
        .collect();
    let own: Vec<&(&str, &str)> = backends
        .iter()
        .filter(|(backend, _)| *backend != "other")
        .collect();
    assert!(
        backends.contains(&("other", "")) && own.len() == 1 && own[0].1 == "models",
        "{backends:?}"
    );
    for vantage in ["client", "server"] {
        let all = [("vantage", vantage), ("outcome", "success")];
        assert_eq!(scrape.count("nodemesh_requests_total", &all), 6, "{vantage}");
    }
}

#[test]
fn connections_that_fail_are_counted_by_reason_and_not_measured() {
    // Nobody listens there.
    let closed = |scene: &SingleNode| {
        let backend = scene.backend(0, "").replace("port: 9000", "port: 9001");
        scene.service_of("a", 8000, &backend)
    };
    let scene = SingleNode::started(closed, &[]);
    let connects = scene.connect(8000, 3);
    assert_eq!(connects.errors.get("ECONNREFUSED"), Some(&3), "{connects:?}");
    let is_over = |scrape: &Scrape| scrape.count("nodemesh_connections_active", &[]) == 0;
    let scrape = eventually("the end of the connections", || scene.scrape(), is_over);
    let count = |name: &str, labels| scrape.count(name, labels);
    assert_eq!(
        count("nodemesh_connections_failed_total", &[("reason", "refused")]),
        3,
        "{scrape:?}"
    );
    assert_eq!(count("nodemesh_connections_failed_total", &[]), 3, "{scrape:?}");
    assert_eq!(count("nodemesh_connections_closed_total", &[]), 0, "{scrape:?}");
    assert_eq!(
        count("nodemesh_connect_duration_seconds_count", &[]),
        0,
        "{scrape:?}"
    );
}

#[test]
fn without_program_statistics_there_are_no_families_of_them() {
    let scene = SingleNode::started(one_service, &["--program-stats", "false"]);
    let scrape = scene.scrape();
    assert!(
        !scrape
            .kinds
            .keys()
            .any(|name| name.starts_with("nodemesh_program_")),
        "{scrape:?}"
    );
    assert!(scrape.kinds.contains_key("nodemesh_build_info"), "{scrape:?}");
}

#[test]
fn probes_tell_whether_the_kernel_runs_the_programs() {
    let scene = SingleNode::started(one_service, &[]);
    let get = |path| scene.agent.http(&scene.node, path).unwrap();
    assert_eq!(get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(get("/readyz"), (200, "ok\n".to_owned()));
    assert_eq!(get("/nothing").0, 404);
    // Somebody takes the folder of the links away, and with it the place for others.
    let links = scene.node.pins().link("");
    fs::remove_dir_all(&links).unwrap();
    let (code, reason) = eventually(
        "the end of readiness",
        || get("/readyz"),
        |(code, _)| *code != 200,
    );
    let expected = "connect4 is unpinned and cannot be put right: No such file or directory (os error 2)";
    assert!(code == 503 && reason.contains(expected), "{code}: {reason}");
    assert_eq!(
        get("/healthz").0,
        200,
        "a restart of the container would not be asked for"
    );
    let output = scene.agent.cli(&["status"]).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    assert!(
        text.contains("ready    no") && text.contains("! connect4 is unpinned"),
        "{text}"
    );
    let status = scene.agent.status().unwrap();
    assert!(!status.datapath.programs["connect4"], "{status:?}");
    assert!(
        scene.is_answered_by(8000, "r0"),
        "it is held open as long as the agent runs"
    );
    fs::create_dir(links).unwrap();
    let ready = || get("/readyz").0;
    eventually("readiness", ready, |code| *code == 200);
    let repairs = scene
        .scrape()
        .sum("nodemesh_attachment_repairs_total", &[("fault", "unpinned")]);
    assert!(repairs >= attachment::complete().len() as f64, "{repairs}");
}

#[test]
fn a_restart_mends_what_was_detached() {
    let mut scene = SingleNode::started(one_service, &[]);
    fs::remove_file(scene.node.pins().link("connect4")).unwrap();
    assert!(scene.agent.stop().unwrap().success());
    scene.agent.start(&[]).unwrap();
    assert_eq!(scene.agent.http(&scene.node, "/readyz").unwrap().0, 200);
    assert!(scene.is_answered_by(8000, "r0"));
}
