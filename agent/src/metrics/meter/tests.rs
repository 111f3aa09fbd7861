// SPDX-License-Identifier: Apache-2.0
//! Rows on their way into text.

use std::time::Instant;

use super::*;
use crate::metrics::document::SERIES_PER_ROW;

fn subject(backend: &str) -> Subject {
    Subject {
        namespace: "prod".to_owned(),
        service: "chat".to_owned(),
        backend: backend.to_owned(),
        model: "meta/llama-3".to_owned(),
    }
}

/// A row with another number in each place.
fn distinct() -> Traffic {
    let mut row = Traffic::default();
    for (number, word) in (1..).zip(words_mut(&mut row)) {
        *word = number;
    }
    row
}

fn text_of(rows: &Rows) -> String {
    let mut scrape = Scrape::default();
    write_rows(&mut scrape, rows).unwrap();
    scrape.finish()
}

/// The text of a row of 10.0.0.1:8000 at the server.
fn text_of_one(traffic: &Traffic, stalled: u64, quiet_ns: u64) -> String {
    let row = Row {
        traffic: *traffic,
        stalled,
        quiet_ns,
    };
    text_of(&Rows::from([((subject("10.0.0.1:8000"), "server"), row)]))
}

/// The value of the sample whose line begins like this, without the labels that all samples have.
fn value(text: &str, name: &str, more: &str) -> String {
    let labels = "namespace=\"prod\",service=\"chat\",backend=\"10.0.0.1:8000\",vantage=\"server\",model=\"meta/llama-3\"";
    let start = format!("nodemesh_{name}{{{labels}{more}}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("no {start} in {text}")).to_owned()
}

#[test]
fn every_number_of_a_row_is_told_once() {
    let traffic = distinct();
    let text = text_of_one(&traffic, 3, 1_500_000_000);
    let told = |name: &str, more: &str| value(&text, name, more);
    let expected: [(&str, &str, u64); 17] = [
        ("requests_in_flight", "", traffic.in_flight),
        ("request_bytes_in_flight", "", traffic.request_bytes_in_flight),
        ("open_connections", "", traffic.connections),
        ("metered_connections_total", "", traffic.connections_opened),
        ("transmit_bytes_total", ",direction=\"request\"", traffic.bytes_up),
        (
            "transmit_bytes_total",
            ",direction=\"response\"",
            traffic.bytes_down,
        ),
        ("requests_total", ",outcome=\"success\"", traffic.requests[0]),
        ("requests_total", ",outcome=\"truncated\"", traffic.requests[4]),
        ("truncated_streams_total", "", traffic.requests[4]),
        (
            "requests_total",
            ",outcome=\"keepalive_race\"",
            traffic.requests[6],
        ),
        ("keepalive_races_total", "", traffic.requests[6]),
        (
            "client_cancels_total",
            ",phase=\"prefill\",how=\"rst\"",
            traffic.cancels[1],
        ),
        (
            "client_cancels_total",
            ",phase=\"decode\",how=\"fin\"",
            traffic.cancels[2],
        ),
        ("chunks_total", "", traffic.chunks),
        ("ambiguous_sockets_total", "", traffic.ambiguous),
        ("retransmits_total", "", traffic.retransmits),
        ("stalled_streams", "", 3),
    ];
    for (name, more, expected) in expected {
        assert_eq!(told(name, more), expected.to_string(), "{name}{more}");
    }
    assert_eq!(told("last_byte_age_seconds", ""), "1.5");
}

#[test]
fn every_histogram_of_a_row_is_told_with_its_own_bounds() {
    let traffic = distinct();
    let text = text_of_one(&traffic, 0, 0);
    let told = |name: &str, more: &str| value(&text, name, more);
    let histograms: [(&str, &[u64], f64); 7] = [
        ("time_to_first_byte_seconds", &traffic.first_byte, 1e9),
        ("time_to_first_token_seconds", &traffic.first_token, 1e9),
        ("inter_token_latency_seconds", &traffic.gap, 1e9),
        ("stream_duration_seconds", &traffic.duration, 1e9),
        ("request_size_bytes", &traffic.request_size, 1.0),
        ("response_size_bytes", &traffic.response_size, 1.0),
        ("rtt_seconds", &traffic.rtt, 1e9),
    ];
    for (name, slots, scale) in histograms {
        let (sum, counts) = slots.split_last().unwrap();
        let all: u64 = counts.iter().sum();
        assert_eq!(
            told(&format!("{name}_sum"), ""),
            (*sum as f64 / scale).to_string(),
            "{name}"
        );
        assert_eq!(told(&format!("{name}_count"), ""), all.to_string(), "{name}");
        assert_eq!(
            told(&format!("{name}_bucket"), ",le=\"+Inf\""),
            all.to_string(),
            "{name}"
        );
    }
    let cumulative: u64 = traffic.gap[..3].iter().sum();
    assert_eq!(
        told("inter_token_latency_seconds_bucket", ",le=\"0.05\""),
        cumulative.to_string()
    );
    let cumulative: u64 = traffic.response_size[..10].iter().sum();
    assert_eq!(
        told("response_size_bytes_bucket", ",le=\"67108864\""),
        cumulative.to_string()
    );
}

#[test]
fn rows_of_one_backend_are_added_and_the_oldest_silence_counts() {
    let activity = |stalled, quiet_ns| RowActivity {
        stalled,
        quiet_ns,
        ..RowActivity::default()
    };
    let mut row = Row::default();
    row.add(&distinct(), activity(1, 7));
    row.add(&distinct(), activity(2, 5));
    assert_eq!((row.stalled, row.quiet_ns), (3, 7));
    let doubled: Vec<u64> = words(&distinct()).iter().map(|word| word * 2).collect();
    assert_eq!(words(&row.traffic), doubled);
}

#[test]
fn a_number_in_flight_is_never_negative() {
    assert_eq!([level(3), level(0), level(0_u64.wrapping_sub(1))], [3, 0, 0]);
}

#[test]
fn without_backends_there_is_the_shared_row() {
    assert_eq!(subjects(&View::default()), [(SHARED_PAIR, Subject::other())]);
}

/// Metered backends of which both ends are on the node.
const BACKENDS: usize = 2_000;

fn many() -> Rows {
    let subjects =
        (0..BACKENDS).map(|number| subject(&format!("10.0.{}.{}:8000", number / 256, number % 256)));
    let ends = subjects.flat_map(|subject| Vantage::ALL.map(|vantage| (subject.clone(), vantage.label())));
    let row = || Row {
        traffic: distinct(),
        ..Row::default()
    };
    ends.map(|end| (end, row())).collect()
}

#[test]
fn a_row_costs_what_the_documentation_says() {
    let rows = BACKENDS * Vantage::ALL.len();
    let text = text_of(&many());
    let lines = text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(lines / rows, SERIES_PER_ROW);
    assert!(
        text.len() / rows < 32 * 1024,
        "{} bytes per row",
        text.len() / rows
    );
}

#[test]
#[ignore = "a measurement: cargo test --release -- --ignored --nocapture scrape"]
fn a_large_scrape_is_quick() {
    let rows = many();
    let quickest = (0..5).map(|_| {
        let started = Instant::now();
        let text = text_of(&rows);
        (started.elapsed(), text.len())
    });
    let (took, bytes) = quickest.min().expect("five tries");
    println!("{BACKENDS} backends at both vantages: {bytes} bytes in {took:?}");
    assert!(took.as_millis() < 500, "{took:?}");
}
