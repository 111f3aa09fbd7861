// SPDX-License-Identifier: Apache-2.0
//! What the agent tells over HTTP: metrics that Prometheus accepts and that agree with the CLI, and probes.

use std::{collections::BTreeSet, fs};

use nodemesh_agent::{api::Backend, metrics::FAMILIES};
use nodemesh_e2e::{
    eventually::eventually,
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
    let scene = SingleNode::started(two_ports, &[]);
    let scrape = scene.scrape();
    let announced: BTreeSet<&str> = scrape.kinds.keys().map(String::as_str).collect();
    let declared: BTreeSet<&str> = FAMILIES.iter().map(|family| family.name).collect();
    assert_eq!(announced, declared);
    for family in FAMILIES {
        let kind = format!("{:?}", family.kind).to_lowercase();
        assert_eq!(scrape.kinds[family.name], kind, "{}", family.name);
        let suffix = if kind == "histogram" { "_count" } else { "" };
        let sample = format!("{}{suffix}", family.name);
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
    // Somebody detaches a program.
    fs::remove_file(scene.node.pins().link("connect4")).unwrap();
    let (code, reason) = eventually(
        "the end of readiness",
        || get("/readyz"),
        |(code, _)| *code != 200,
    );
    assert_eq!(
        (code, &*reason),
        (503, "the kernel does not run connect4 for the cgroup\n")
    );
    assert_eq!(
        get("/healthz").0,
        200,
        "a restart of the container would not be asked for"
    );
    let output = scene.agent.cli(&["status"]).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    assert!(
        text.contains("ready    no") && text.contains("! the kernel does not run connect4"),
        "{text}"
    );
    let status = scene.agent.status().unwrap();
    assert!(!status.datapath.programs["connect4"], "{status:?}");
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
