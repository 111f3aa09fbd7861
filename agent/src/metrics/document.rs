// SPDX-License-Identifier: Apache-2.0
//! `docs/metrics.md`, made of the declarations in `family` and of the types whose words become labels. The test below fails while
//! the file is stale, and writes it when asked to.
//!
//! Invariant: the text states nothing that the code could contradict unnoticed.

use std::{env, fs, path::Path};

use nodemesh_abi::{
    Cancel, ConnectFailure, Ejection, InternalError, MeterPath, Outcome, Refusal, Vantage, limits,
    traffic::{DURATION_BOUNDS_NS, FIRST_BOUNDS_NS, GAP_BOUNDS_NS, RTT_BOUNDS_NS, SIZE_BOUNDS},
};

use crate::{api::EventKind, events::Closing};

use super::family::{Family, GROUPS, Group, Kind, all};

/// Series of a metered backend at one vantage.
pub(super) const SERIES_PER_ROW: usize = 172;

const INTRODUCTION: &str = "\
# Metrics

<!-- Made from agent/src/metrics/family.rs; change it there, then: UPDATE_DOCS=1 cargo test -p nodemesh-agent document -->

The agent serves them in Prometheus' text format at `/metrics` of `--http` (127.0.0.1:9464 by default). Times are seconds, sizes bytes.
Every number is read from the kernel at the time of the scrape. Counters begin anew when the maps are created (not when the agent starts) and when a
backend comes back after its last connection had ended.

Dashboards, rules and how to scrape: [deploy](../deploy/README.md). What to do about an alert: [runbook](runbook.md).
";

const CARDINALITY: &str = "
## Cardinality

A backend that has had a connection on this node takes {series} series per vantage, about 30 KiB of a scrape. At most
`--max-metered-backends` backends have rows of their own ({backends} by default); all others share one, which is `service=\"other\", backend=\"other\"`
with an empty namespace. Backends that were never used have no rows. A row outlives its backend until the last connection has ended. In the
families of placement, a node that knows more than 2,000 backends leaves out those that it has never used.

Two vantages of one request are two series: choose one before adding up. `server` is nearest to the engine and sees every client; `client` is what the
node's clients experience, and exists for backends on other nodes too.
";

const COUNTERPARTS: &str = "
## Names elsewhere

OpenTelemetry's semantic conventions for generative AI, and vLLM. Labels: `model` is `gen_ai.request.model` and vLLM's `model_name`; `backend` is
`server.address` and `server.port`. What needs the engine's own knowledge (tokens, queue, cache) has no counterpart here.

| ours | OpenTelemetry | vLLM | difference |
|---|---|---|---|
";

/// The file.
fn document() -> String {
    let mut parts = vec![INTRODUCTION.to_owned(), labels()];
    parts.extend(GROUPS.iter().map(group));
    parts.push(bounds());
    parts.push(COUNTERPARTS.to_owned());
    parts.extend(all().filter_map(counterpart));
    parts.push(
        CARDINALITY
            .replace("{series}", &SERIES_PER_ROW.to_string())
            .replace("{backends}", &(limits::TRAFFIC_PAIRS - 1).to_string()),
    );
    parts.concat()
}

/// Labels and their values; words in braces stand for those of a type.
const LABELS: &str = "
## Labels

| label | values |
|---|---|
| `namespace`, `service` | the service that the client dialled |
| `backend` | `ip:port` of the replica |
| `model` | model that the service's replicas serve; empty if the configuration does not say |
| `vantage` | {vantage}: a socket of this node that was placed on the backend, or one that the backend accepted on this node |
| `outcome` | of requests: {outcome}; of reloads: `ok`, `invalid` |
| `phase`, `how` | `prefill` or `decode`: before or after the first byte of the response; `fin` or `rst`; together {cancel} |
| `direction` | `request`, `response` |
| `reason` | of failed connections: {failure}; of refusals: {refusal}; of ejections: {ejection}; of frontends: `map_full`, `write_failed`; of errors: {error}; \
of events: those of refusals and ejections, of closed connections {closing} |
| `state` | of an ejected backend: `waiting` for its time to be over, `half_open` while one connection shows what it can; of a weight: that of the configuration |
| `kind`, `stage` | of failures: `connect`, `request`; of events: {event}; where they were lost: `recording` in the kernel, `naming` in the agent, `reader` that was behind |
| `problem` | `rejected`, `unsupported`, `waiting` |
| `source` | `files`, `control` |
| `path` | {path}: reads and writes of applications, or packets where the kernel lacks these tracepoints |
";

fn labels() -> String {
    let words = [
        ("{vantage}", words(&Vantage::ALL, Vantage::label)),
        ("{outcome}", words(Outcome::ALL, Outcome::label)),
        ("{cancel}", words(Cancel::ALL, Cancel::label)),
        ("{failure}", words(ConnectFailure::ALL, ConnectFailure::label)),
        ("{refusal}", words(Refusal::ALL, Refusal::label)),
        ("{event}", words(&EventKind::ALL, EventKind::word)),
        ("{ejection}", words(Ejection::ALL, Ejection::label)),
        ("{closing}", words(&Closing::ALL, Closing::label)),
        ("{error}", words(InternalError::ALL, InternalError::label)),
        (
            "{path}",
            words(
                &[MeterPath::Tracepoint, MeterPath::Packet, MeterPath::Off],
                MeterPath::label,
            ),
        ),
    ];
    let filled = words.iter().fold(LABELS.to_owned(), |text, (place, words)| {
        text.replace(place, words)
    });
    assert!(!filled.contains('{'), "a place without words: {filled}");
    filled
}

fn words<T: Copy>(all: &[T], label: impl Fn(T) -> &'static str) -> String {
    code(&all.iter().map(|one| label(*one)).collect::<Vec<_>>())
}

fn code(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

fn group(group: &Group) -> String {
    let rows: Vec<String> = group
        .families
        .iter()
        .map(|family| {
            let Family {
                name,
                kind,
                unit,
                help,
                labels,
                ..
            } = family;
            let labels = match labels.strip_prefix(group.labels) {
                Some([]) => String::new(),
                Some(more) => code(more),
                None => format!("only {}", code(labels)),
            };
            format!("| `{name}` | {} | {unit} | {labels} | {help} |\n", kind.word())
        })
        .collect();
    let common = match group.labels {
        [] => String::new(),
        labels => format!(" Labels of all: {}; the column names others.", code(labels)),
    };
    format!(
        "\n## {}\n\n{}{common}\n\n| family | type | unit | labels | meaning |\n|---|---|---|---|---|\n{}",
        group.title,
        group.about,
        rows.concat()
    )
}

fn counterpart(family: &Family) -> Option<String> {
    let like = family.counterpart?;
    let names = |names: &str| match names {
        "" => "-".to_owned(),
        names => format!("`{names}`"),
    };
    Some(format!(
        "| `{}` | {} | {} | {} |\n",
        family.name,
        names(like.otel),
        names(like.vllm),
        like.difference
    ))
}

fn bounds() -> String {
    let list = |bounds: &[u64], scale: f64| {
        let texts: Vec<String> = bounds
            .iter()
            .map(|bound| (*bound as f64 / scale).to_string())
            .collect();
        texts.join(" ")
    };
    let rows = [
        ("nodemesh_time_to_first_byte_seconds", list(&FIRST_BOUNDS_NS, 1e9)),
        (
            "nodemesh_time_to_first_token_seconds",
            list(&FIRST_BOUNDS_NS, 1e9),
        ),
        ("nodemesh_inter_token_latency_seconds", list(&GAP_BOUNDS_NS, 1e9)),
        ("nodemesh_stream_duration_seconds", list(&DURATION_BOUNDS_NS, 1e9)),
        ("nodemesh_request_size_bytes", list(&SIZE_BOUNDS, 1.0)),
        ("nodemesh_response_size_bytes", list(&SIZE_BOUNDS, 1.0)),
        ("nodemesh_rtt_seconds", list(&RTT_BOUNDS_NS, 1e9)),
        (
            "nodemesh_connect_duration_seconds",
            list(&nodemesh_abi::backend::CONNECT_BOUNDS_NS, 1e9),
        ),
    ];
    let histograms = all().filter(|family| family.kind == Kind::Histogram).count();
    assert_eq!(rows.len(), histograms, "a histogram without documented bounds");
    let rows = rows.map(|(name, bounds)| format!("| `{name}` | {bounds} |\n"));
    format!(
        "\n## Bounds of histograms\n\nInclusive upper bounds; the kernel counts for each of them, so a bucket is exact.\n\n\
         | family | bounds |\n|---|---|\n{}",
        rows.concat()
    )
}

#[test]
fn the_document_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let fresh = document();
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &fresh).expect("write docs/metrics.md");
    }
    let stale = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stale == fresh,
        "docs/metrics.md is stale; write it anew: UPDATE_DOCS=1 cargo test -p nodemesh-agent document"
    );
}

#[test]
fn names_follow_the_conventions() {
    let mut names: Vec<&str> = Vec::new();
    for family in all() {
        let Family {
            name,
            kind,
            unit,
            help,
            ..
        } = *family;
        assert!(name.starts_with("nodemesh_") && !names.contains(&name), "{name}");
        assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
        for word in ["seconds", "bytes"] {
            assert_eq!(
                name.contains(&format!("_{word}")),
                unit == word,
                "{name} is in {unit}"
            );
        }
        assert!(help.ends_with('.') && !help.contains('\\'), "{name}: {help}");
        names.push(name);
    }
}
