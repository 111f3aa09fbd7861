// SPDX-License-Identifier: Apache-2.0
//! What is shipped for Prometheus and Grafana: it is valid, and every expression has data while an agent meters real traffic.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use nodemesh_agent::metrics::family::{self, Kind};
use nodemesh_e2e::{
    eventually::eventually,
    model_scene::ModelScene,
    monitoring::{
        dashboard::{Dashboard, overlap},
        deployed, expression,
        prometheus::{Prometheus, promtool},
        scaling,
    },
    process::Process,
    single_node::said,
};
use serde_json::json;

fn dashboard() -> Dashboard {
    Dashboard::parse(&fs::read_to_string(deployed("grafana/nodemesh.json")).expect("the dashboard"))
}

/// Names of the samples that the agent may serve.
fn served() -> BTreeSet<String> {
    let names = family::all().flat_map(|family| match family.kind {
        Kind::Histogram => ["_bucket", "_sum", "_count"]
            .map(|suffix| format!("{}{suffix}", family.name))
            .to_vec(),
        Kind::Counter | Kind::Gauge => vec![family.name.to_owned()],
    });
    names.collect()
}

#[test]
fn rules_are_valid_and_do_what_they_are_tested_for() {
    let folder = deployed("prometheus");
    for arguments in [
        &[
            "check",
            "rules",
            "alerts.yaml",
            "recording.yaml",
            "control-alerts.yaml",
        ][..],
        &["test", "rules", "alerts_test.yaml", "control-alerts_test.yaml"],
    ] {
        let output = promtool(&folder, arguments, "").unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    }
}

#[test]
fn every_alert_is_tested_both_ways_and_has_a_section_in_the_runbook() {
    let read = |path| fs::read_to_string(deployed(path)).unwrap();
    let (alerts, tests) = (
        read("prometheus/alerts.yaml"),
        read("prometheus/alerts_test.yaml"),
    );
    let runbook = read("../docs/runbook.md");
    let cases: BTreeSet<(&str, bool)> = tests
        .split("alertname: ")
        .skip(1)
        .filter_map(|case| {
            let (name, rest) = case.split_once('\n')?;
            Some((name, !rest.trim_start().starts_with("exp_alerts: []")))
        })
        .collect();
    let names: Vec<&str> = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(!names.is_empty());
    for name in names {
        assert!(cases.contains(&(name, true)), "no test has {name} fire");
        assert!(cases.contains(&(name, false)), "no test has {name} not fire");
        let link = format!("runbook: docs/runbook.md#{}\n", name.to_lowercase());
        assert!(alerts.contains(&link), "{name} has no link to the runbook");
        assert!(
            runbook.contains(&format!("\n## {name}\n")),
            "the runbook lacks {name}"
        );
    }
}

#[test]
fn the_dashboard_is_what_grafana_expects() {
    let dashboard = dashboard();
    assert_eq!(dashboard.schema_version(), 38, "Grafana 10");
    let variables = ["backend", "datasource", "namespace", "service", "vantage"];
    assert_eq!(dashboard.variables(), variables.into());
    let panels = dashboard.panels();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have one id");
    for (index, panel) in panels.iter().enumerate() {
        let covered = panels[..index].iter().find(|other| overlap(panel, other));
        assert!(covered.is_none(), "{} covers {covered:?}", panel["title"]);
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().unwrap();
        let references: BTreeSet<&str> = targets
            .iter()
            .map(|target| target["refId"].as_str().unwrap())
            .collect();
        assert!(
            !targets.is_empty() && references.len() == targets.len(),
            "{panel:#}"
        );
        for source in targets.iter().chain([panel]) {
            assert_eq!(source["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        }
    }
}

#[test]
fn panels_and_rules_name_only_what_is_served_or_recorded() {
    let read = |path| fs::read_to_string(deployed(path)).unwrap();
    let (alerts, recording) = (read("prometheus/alerts.yaml"), read("prometheus/recording.yaml"));
    let recorded = recording
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- record: "));
    let known: BTreeSet<String> = served().into_iter().chain(recorded.map(str::to_owned)).collect();
    let panels = dashboard().queries().into_iter().map(|query| query.expression);
    let mut named: BTreeSet<String> = panels
        .chain([alerts, recording])
        .flat_map(|text| expression::metrics(&text))
        .collect();
    named.retain(|name| !known.contains(name));
    assert_eq!(named, BTreeSet::new());
}

/// Variables of the dashboard and what Grafana would replace them by.
fn values(vantage: &str) -> [(&str, &str); 5] {
    [
        ("__rate_interval", "30s"),
        ("namespace", ".*"),
        ("service", ".*"),
        ("backend", ".*"),
        ("vantage", vantage),
    ]
}

/// Every expression, by whose it is.
fn expressions(prometheus: &Prometheus<'_>) -> BTreeMap<String, String> {
    let dashboard = dashboard();
    let mut expressions = BTreeMap::new();
    for query in dashboard.queries().iter().chain(&dashboard.selectors()) {
        for vantage in ["client", "server"] {
            let expression = query.with(&values(vantage));
            expressions.insert(expression, query.panel.clone());
        }
    }
    for rule in prometheus.rules().expect("the rules") {
        let parts = if rule.alert {
            expression::operands(&rule.expression)
        } else {
            vec![rule.expression.clone()]
        };
        expressions.extend(parts.into_iter().map(|part| (part, rule.name.clone())));
    }
    expressions.extend(scaling::queries("m1"));
    expressions
}

#[test]
fn every_expression_of_every_panel_and_rule_has_data() {
    let behaviour = ["--prefill", "20ms", "--inter-token", "20ms", "--tokens", "20"];
    let scene = ModelScene::new(&[&behaviour, &behaviour], &["--packet-interface", "br0"]);
    let clients: Vec<Process> = ["keep-alive", "one-shot"]
        .iter()
        .zip(0..)
        .map(|(mode, model)| scene.client(model, &["--mode", mode, "--concurrency", "3"]))
        .collect();
    let prometheus = Prometheus::start(&scene.bed.a, &scene.bed.agent).unwrap();
    let expressions = expressions(&prometheus);
    assert!(expressions.len() > 100, "{expressions:#?}");
    let without_data = || -> Vec<(&String, &String)> {
        let is_empty = |expression: &str| prometheus.query(expression).unwrap().is_empty();
        expressions
            .iter()
            .filter(|(expression, _)| is_empty(expression))
            .collect()
    };
    eventually("data for every expression", without_data, Vec::is_empty);
    let rules = prometheus.rules().unwrap();
    let failed: Vec<_> = rules.iter().filter(|rule| !rule.error.is_empty()).collect();
    assert!(!rules.is_empty() && failed.is_empty(), "{failed:#?}");
    assert_eq!(clients.len(), 2, "they have run all the time");
}

#[test]
fn a_wedged_replica_meets_its_alert() {
    let quick = ["--prefill", "20ms", "--inter-token", "10ms", "--tokens", "40"];
    let scene = ModelScene::new(&[&quick, &quick], &[]);
    // The mesh has to know the usual pace of both.
    scene.send(0, 3, &[]);
    scene.send(1, 3, &[]);
    let prometheus = Prometheus::start(&scene.bed.a, &scene.bed.agent).unwrap();
    let rules = prometheus.rules().unwrap();
    let rule = rules
        .iter()
        .find(|rule| rule.name == "NodemeshReplicaWedged")
        .unwrap();
    let found = || prometheus.query(&rule.expression).unwrap();
    assert!(found().is_empty(), "nothing is wedged yet");
    scene.control(0, &json!({"failure": "wedge-decode"}));
    let _wedged = scene.client(0, &["--requests", "1", "--timeout", "120s"]);
    let _busy = scene.client(1, &["--mode", "keep-alive"]);
    // The one replica from both vantages, and not the other one.
    eventually("the wedged replica", found, |found| *found == [1.0, 1.0]);
}

#[test]
fn an_autoscaler_is_told_how_many_requests_are_in_flight() {
    let scene = ModelScene::new(&[&["--prefill", "10m"]], &[]);
    let _six = scene.client(0, &["--concurrency", "6", "--timeout", "10m"]);
    let prometheus = Prometheus::start(&scene.bed.a, &scene.bed.agent).unwrap();
    let queries = scaling::queries("m1");
    let load: Vec<_> = queries
        .iter()
        .filter(|(query, _)| query.contains("nodemesh_requests_in_flight"))
        .collect();
    let files: BTreeSet<&str> = load.iter().map(|(_, file)| file.as_str()).collect();
    assert_eq!(files, BTreeSet::from(["keda.yaml", "prometheus-adapter.yaml"]));
    for (query, file) in load {
        eventually(file, || prometheus.query(query).unwrap(), |found| *found == [6.0]);
    }
}

#[test]
fn promtool_finds_nothing_wrong_with_a_scrape() {
    let scene = ModelScene::new(&[&["--tokens", "3"]], &[]);
    scene.send(0, 2, &[]);
    let (code, text) = scene.bed.agent.http(&scene.bed.a, "/metrics").unwrap();
    assert!(code == 200 && text.contains("nodemesh_requests_total"), "{text}");
    let output = promtool(&deployed("."), &["check", "metrics"], &text).unwrap();
    assert!(
        output.status.success() && said(&output).is_empty(),
        "{}",
        said(&output)
    );
}
