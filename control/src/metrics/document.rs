// SPDX-License-Identifier: Apache-2.0
//! `docs/control-metrics.md`, made of the families as they are served. The first test below fails while the file is stale, and writes
//! it when asked to; the others hold the shipped alerts against it.
//!
//! Invariant: the text states nothing that the code could contradict unnoticed.

use std::{collections::BTreeSet, env, fs, path::Path, sync::Arc, time::Duration};

use nodemesh_model::{Keyword as _, Kind};
use prometheus::{
    core::{Collector, MetricVec, MetricVecBuilder},
    proto::{MetricFamily, MetricType},
};

use super::{Live, Metrics, TIMES_S};
use crate::{
    north::{Loads, Reports, Sources},
    registry::{Registry, RegistryOptions},
    security::METHODS,
    store::embedded::EmbeddedStore,
    xds,
};

const INTRODUCTION: &str = "\
# Metrics of the control plane

<!-- Made from control/src/metrics; change it there, then: UPDATE_DOCS=1 cargo test -p nodemesh-control document -->

`nodemesh-control` serves them in Prometheus' text format at `/metrics` of `--http` (127.0.0.1:9465 by default). Times are seconds. Counters begin
anew when it starts. What a family has nothing to say about has no series: without agents there is no `node`.

The agent's own families, also those about its control plane, are in [metrics](metrics.md). Alerts and how to scrape: [deploy](../deploy/README.md). What
to do about an alert: [runbook](runbook.md).
";

const SEVERAL: &str = "
## Several control planes

Replicas of one etcd have the same resources: do not add `nodemesh_control_resources_stored` and `nodemesh_control_leases` up. An agent is connected to one of
them, so `nodemesh_control_nodes`, the streams and what is reported of `node` and `backend` are of that one: do add those up.
";

/// A row of the document.
struct Row {
    family: MetricFamily,
    labels: Vec<String>,
}

impl Row {
    fn text(&self) -> String {
        let Self { family, labels } = self;
        let name = family.name();
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            other => panic!("{name} is a {other:?}"),
        };
        format!("| `{name}` | {kind} | {} | {} |\n", code(labels), family.help())
    }
}

fn code(words: &[impl AsRef<str>]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{}`", word.as_ref())).collect();
    quoted.join(", ")
}

/// The families of a vector, which has some only when a series is there.
fn touched<T: MetricVecBuilder>(vector: &MetricVec<T>) {
    let names = vector.desc()[0].variable_labels.len();
    vector.with_label_values(&vec!["any"; names]);
}

/// What is counted as things happen.
fn counted() -> Vec<Row> {
    let metrics = Metrics::new().unwrap();
    let Metrics {
        registry,
        connections: _,
        renewals,
        dns_queries,
        turned_away,
        requests,
        request_duration,
        calls,
        store_duration,
        store_errors,
        reloads,
    } = &metrics;
    for counter in [
        renewals,
        dns_queries,
        turned_away,
        requests,
        store_errors,
        reloads,
    ] {
        touched(counter);
    }
    for histogram in [request_duration, store_duration] {
        touched(histogram);
    }
    touched(calls);
    let row = |family: MetricFamily| {
        let labels = family.get_metric()[0].get_label();
        Row {
            labels: labels.iter().map(|label| label.name().to_owned()).collect(),
            family,
        }
    };
    registry.gather().into_iter().map(row).collect()
}

/// All families, by what they are about.
async fn groups() -> Vec<(&'static str, Vec<Row>)> {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(EmbeddedStore::open(&folder.path().join("store.redb")).unwrap());
    let registry = Registry::open(store, RegistryOptions::default()).await.unwrap();
    let live = Live {
        metrics: Arc::new(Metrics::new().unwrap()),
        sources: Sources {
            registry,
            nodes: xds::Nodes::new(),
            reports: Reports::new(1),
            loads: Loads::new(1, Duration::from_secs(1)),
        },
        lag: super::Lag::default(),
    };
    let rows = live.groups().map(|(title, families)| {
        let row = |family: super::live::Family| Row {
            labels: family.labels.iter().map(|label| (*label).to_owned()).collect(),
            family: family.encoded,
        };
        (title, families.into_iter().map(row).collect())
    });
    [("Calls and the store", counted())]
        .into_iter()
        .chain(rows)
        .collect()
}

fn document(groups: &[(&str, Vec<Row>)]) -> String {
    let group = |(title, rows): &(&str, Vec<Row>)| {
        let rows: String = rows.iter().map(Row::text).collect();
        format!("\n## {title}\n\n| family | type | labels | meaning |\n|---|---|---|---|\n{rows}")
    };
    let groups: String = groups.iter().map(group).collect();
    [INTRODUCTION, &groups, &words(), SEVERAL].concat()
}

/// Values of labels, and bounds.
fn words() -> String {
    let methods: Vec<&str> = METHODS.iter().map(|method| method.name).collect();
    let kinds: Vec<&str> = Kind::WORDS.iter().map(|(_, word)| *word).collect();
    let bounds: Vec<String> = TIMES_S.iter().map(ToString::to_string).collect();
    format!(
        "\n## Values of labels\n\n| label | values |\n|---|---|\n| `method` | {} |\n| `kind` | {} |\n\
         | `le` | {} |\n| `node` | id of a node, as it tells it |\n| `backend`, `port` | `ip:port` of a replica; port of the service |\n",
        code(&methods),
        code(&kinds),
        bounds.join(" "),
    )
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_default()
}

#[tokio::test]
async fn the_document_is_fresh() {
    let fresh = document(&groups().await);
    if env::var_os("UPDATE_DOCS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/control-metrics.md");
        fs::write(path, &fresh).expect("write docs/control-metrics.md");
    }
    assert!(
        read("docs/control-metrics.md") == fresh,
        "docs/control-metrics.md is stale; write it anew: UPDATE_DOCS=1 cargo test -p nodemesh-control document"
    );
}

#[tokio::test]
async fn names_follow_the_conventions() {
    let agent = read("docs/metrics.md");
    let mut names = BTreeSet::new();
    for row in groups().await.iter().flat_map(|(_, rows)| rows) {
        let (name, help) = (row.family.name(), row.family.help());
        assert!(
            name.starts_with("nodemesh_control_") && names.insert(name.to_owned()),
            "{name}"
        );
        assert!(
            !agent.contains(&format!("`{name}`")),
            "{name} is a family of the agent too"
        );
        let is_counter = row.family.get_field_type() == MetricType::COUNTER;
        assert_eq!(name.ends_with("_total"), is_counter, "{name}");
        assert!(help.ends_with('.') && !help.contains('\\'), "{name}: {help}");
    }
}

#[tokio::test]
async fn alerts_name_what_is_served_and_are_tested_both_ways_and_explained() {
    let (alerts, tests) = (
        read("deploy/prometheus/control-alerts.yaml"),
        read("deploy/prometheus/control-alerts_test.yaml"),
    );
    let documented = read("docs/metrics.md") + &document(&groups().await);
    let is_name = |char: char| char.is_ascii_alphanumeric() || char == '_';
    let words = alerts.split(|char| !is_name(char));
    for name in words.filter(|word| word.starts_with("nodemesh_")) {
        let family = name.strip_suffix("_bucket").unwrap_or(name);
        assert!(
            documented.contains(&format!("`{family}`")),
            "{name} is not served"
        );
    }
    let cases: BTreeSet<(&str, bool)> = tests
        .split("alertname: ")
        .skip(1)
        .filter_map(|case| {
            let (name, rest) = case.split_once('\n')?;
            Some((name, !rest.trim_start().starts_with("exp_alerts: []")))
        })
        .collect();
    let runbook = read("docs/runbook.md");
    let names = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    assert!(names.clone().count() > 0);
    for name in names {
        assert!(
            cases.contains(&(name, true)) && cases.contains(&(name, false)),
            "no test has {name} fire, or none has it not fire"
        );
        let link = format!("runbook: docs/runbook.md#{}\n", name.to_lowercase());
        assert!(alerts.contains(&link), "{name} has no link to the runbook");
        assert!(
            runbook.contains(&format!("\n## {name}\n")),
            "the runbook lacks {name}"
        );
    }
}
