// SPDX-License-Identifier: Apache-2.0
//! Parsers, tallies and the command line on their own.

use std::time::Duration;

use clap::Parser as _;

use crate::load::Options;
use crate::load::chunk::{Event, completion_tokens};
use crate::load::plan::Plan;
use crate::load::report::{Kind, Report};
use crate::load::sse::SseParser;
use crate::load::tally::{Failure, Tally};
use crate::load::target::Target;

fn parse(pieces: &[&[u8]]) -> Vec<String> {
    let mut parser = SseParser::default();
    let mut events = Vec::new();
    for piece in pieces {
        parser.feed(piece, |data| {
            events.push(String::from_utf8(data.to_vec()).expect("UTF-8"));
        });
    }
    events
}

#[test]
fn events_are_found_wherever_the_bytes_are_split() {
    let stream = b": ping\r\n\r\ndata: {\"a\":1}\n\nevent: x\rid: 7\rdata:one\rdata: two\r\rdata\n\ndata: [DONE]\r\n\r\n";
    let expected = ["{\"a\":1}", "one\ntwo", "", "[DONE]"];
    for first in 0..=stream.len() {
        for second in first..=stream.len() {
            let pieces = [&stream[..first], &stream[first..second], &stream[second..]];
            assert_eq!(parse(&pieces), expected, "split at {first} and {second}");
        }
    }
}

#[test]
fn an_event_without_its_blank_line_is_none() {
    assert_eq!(parse(&[b"data: 1\n\ndata: 2\n"]), ["1"]);
    assert_eq!(parse(&[b"database: 1\n\n"]), Vec::<String>::new());
}

#[test]
fn only_text_counts_as_a_token() {
    for (data, event) in [
        (r#"{"choices":[{"delta":{"content":" hi"}}]}"#, Event::Content),
        (
            r#"{"choices":[{"delta":{"content":"\u00e9\n"}}]}"#,
            Event::Content,
        ),
        (r#"{"choices":[{"index":0,"text":"hi"}]}"#, Event::Content),
        (
            r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
            Event::Other,
        ),
        (
            r#"{"choices":[{"delta":{"content":null},"finish_reason":"stop"}]}"#,
            Event::Other,
        ),
        (r#"{"choices":[],"usage":{"completion_tokens":3}}"#, Event::Other),
        ("[DONE]", Event::Done),
        ("{\"choices\":[", Event::Malformed),
    ] {
        assert_eq!(Event::of(data.as_bytes()), event, "{data}");
    }
    assert_eq!(
        completion_tokens(br#"{"usage":{"completion_tokens":3}}"#),
        Some(3)
    );
    assert_eq!(completion_tokens(b"<html>"), None);
}

#[test]
fn a_target_is_an_address_in_a_url() {
    for (text, address) in [
        ("http://10.0.0.1:80", Some("10.0.0.1:80")),
        ("http://[::1]:8000/", Some("[::1]:8000")),
        ("10.0.0.1:80", None),
        ("http://10.0.0.1", None),
        ("https://10.0.0.1:80", Some("10.0.0.1:80")),
        ("ftp://10.0.0.1:80", None),
        ("http://10.0.0.1:80/v1", None),
    ] {
        assert_eq!(
            text.parse::<Target>()
                .ok()
                .map(|target| target.address.to_string())
                .as_deref(),
            address,
            "{text}"
        );
    }
}

#[test]
fn the_command_line_refuses_what_cannot_run() {
    let url = ["load-client", "--url", "http://127.0.0.1:1"];
    for flags in [
        &["--rate", "0"][..],
        &["--requests", "0"],
        &["--report-interval", "0s"],
        &["--mode", "udp"],
        &["--cancel-share", "1.5"],
        &["--pipeline", "0"],
    ] {
        assert!(
            Options::try_parse_from(url.iter().chain(flags)).is_err(),
            "{flags:?}"
        );
    }
    assert!(Options::try_parse_from(["load-client"]).is_err(), "no server");
    let options = Options::parse_from(url.iter().chain(&["--stream", "false", "--timeout", "2s"]));
    assert_eq!((options.stream, options.timeout), (false, Duration::from_secs(2)));
}

#[test]
fn a_plan_refuses_what_does_not_go_together() {
    for (flags, named) in [
        (&["--url", "https://127.0.0.1:1"][..], "--ca"),
        (&["--url", "http://127.0.0.1:1", "--pipeline", "2"], "keep-alive"),
    ] {
        let options = Options::parse_from(["load-client"].iter().chain(flags));
        let error = Plan::new(options).err().expect("a refusal").to_string();
        assert!(error.contains(named), "{error}");
    }
}

fn tally(replica: &str, span: Duration) -> Tally {
    let mut tally = Tally {
        ok: 2,
        tokens: 8,
        bytes: 100,
        ..Tally::default()
    };
    tally.connected("10.0.0.1:80".parse().expect("an address"), span);
    tally.failed(Failure::Reset, Some(replica));
    tally.ttft.record(span);
    tally.replica(replica).ttft.record(span);
    tally.replica(replica).tokens += 4;
    tally
}

#[test]
fn merged_tallies_add_up() {
    let mut sum = tally("a", Duration::from_millis(100));
    sum.merge(&tally("b", Duration::from_millis(300)));
    sum.merge(&tally("b", Duration::from_millis(300)));
    let report = Report::new(Kind::Final, &sum, Duration::from_secs(2), 0);
    assert_eq!(
        (
            report.requests.ok,
            report.failures(),
            report.tokens,
            report.connections
        ),
        (6, 3, 24, 3)
    );
    assert!(
        (report.tokens_per_second - 12.0).abs() < 1e-9 && (report.requests_per_second - 3.0).abs() < 1e-9
    );
    assert_eq!(report.peer_addresses["10.0.0.1:80"], 3);
    assert_eq!((report.replicas["a"].tokens, report.replicas["b"].tokens), (4, 8));
    assert_eq!(
        (report.replicas["a"].failures, report.replicas["b"].failures),
        (1, 2)
    );
    let ttft = report.latency.ttft.expect("recorded");
    assert!(
        (ttft.p50 - 0.3).abs() < 0.001 && (ttft.max - 0.3).abs() < 0.001 && ttft.count == 3,
        "{ttft:?}"
    );
    assert!((report.replicas["a"].ttft.expect("recorded").p99 - 0.1).abs() < 0.002);
    assert_eq!(report.latency.itl, None);
}

#[test]
fn the_json_names_every_failure() {
    let report = Report::new(Kind::Interval, &Tally::default(), Duration::from_secs(1), 5);
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(
        (&json["kind"], &json["in_flight"]),
        (&"interval".into(), &5.into())
    );
    let kinds = [
        "connect_refused",
        "connect_timeout",
        "connect_other",
        "tls_handshake",
        "reset",
        "timeout",
        "http_status",
        "truncated",
        "protocol",
    ];
    for kind in kinds {
        assert_eq!(json["requests"]["failed"][kind], 0, "{kind}");
    }
}
