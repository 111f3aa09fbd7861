// SPDX-License-Identifier: Apache-2.0
//! One line of the access log: the same keys in JSON and logfmt. Pure.
//!
//! Invariant: a line has every key, in the same order, `null` where something was not measured or is not known.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
};

use nodemesh_abi::{AccessKind, AccessRecord, Cancel, Ip16, Outcome, Port, Vantage, Wire};

use crate::{datapath::clock::TimeOfDay, names::Names};

/// A value.
#[derive(Clone, Debug, PartialEq)]
enum Field {
    Null,
    Text(String),
    /// A word of this crate: nothing in it needs an escape.
    Word(&'static str),
    Number(u64),
    /// Nanoseconds, shown as seconds.
    Seconds(u64),
}

type Pair = (&'static str, Field);

/// A line.
pub(super) struct Line {
    fields: Vec<Pair>,
}

impl Line {
    pub(super) fn new(record: &AccessRecord, names: &Names, clock: TimeOfDay) -> Self {
        let mut fields = Vec::with_capacity(25);
        fields.extend(parties(record, names, clock));
        fields.extend(ending(record));
        fields.extend(measures(record));
        Self { fields }
    }

    /// Appends the line as JSON.
    pub(super) fn json(&self, out: &mut Vec<u8>) {
        let mut separator = '{';
        for (key, field) in &self.fields {
            put(out, format_args!("{separator}\"{key}\":"));
            match field {
                Field::Text(text) => quote(out, text),
                Field::Word(text) => put(out, format_args!("\"{text}\"")),
                other => other.plain(out),
            }
            separator = ',';
        }
        out.extend_from_slice(b"}\n");
    }

    /// Appends the line as logfmt.
    pub(super) fn logfmt(&self, out: &mut Vec<u8>) {
        let mut separator = "";
        for (key, field) in &self.fields {
            put(out, format_args!("{separator}{key}="));
            match field {
                Field::Text(text) if text.is_empty() || text.contains(needs_quotes) => quote(out, text),
                Field::Text(text) => out.extend_from_slice(text.as_bytes()),
                Field::Word(text) => out.extend_from_slice(text.as_bytes()),
                other => other.plain(out),
            }
            separator = " ";
        }
        out.push(b'\n');
    }
}

/// What it is about, and whose.
fn parties(record: &AccessRecord, names: &Names, clock: TimeOfDay) -> [Pair; 9] {
    let endpoint = |addr: Ip16, port: Port| SocketAddr::new(IpAddr::from(addr), port.get()).to_string();
    let backend = endpoint(record.backend_addr, record.backend_port);
    let known = names.of_backend(record.backend, (record.backend_addr, record.backend_port));
    let service = known.map_or_else(|| backend.clone(), |known| known.service.to_string());
    let kind = if is_connection(record) {
        "connection"
    } else {
        "request"
    };
    let workload = names.workload(record.workload).map(ToString::to_string);
    [
        ("kind", Field::Word(kind)),
        ("time", Field::Text(clock.text(record.end_ns))),
        ("service", Field::Text(service)),
        (
            "model",
            text(known.and_then(|known| known.model).map(str::to_owned)),
        ),
        ("backend", Field::Text(backend)),
        ("vantage", Field::Word(Vantage::from_raw(record.vantage).label())),
        ("protocol", Field::Word(Wire::from_raw(record.wire).label())),
        (
            "client",
            Field::Text(endpoint(record.client_addr, record.client_port)),
        ),
        ("client_workload", text(workload)),
    ]
}

/// How a request ended; a connection has nothing of it.
fn ending(record: &AccessRecord) -> [Pair; 3] {
    let outcome = Outcome::ALL
        .get(usize::from(record.outcome))
        .map(|outcome| outcome.label());
    let words = [
        ("outcome", outcome),
        ("status", status(record.status)),
        ("cancel", cancel(record.cancel)),
    ];
    words.map(|(key, word)| {
        (
            key,
            word.filter(|_| !is_connection(record))
                .map_or(Field::Null, Field::Word),
        )
    })
}

/// Times and sizes.
fn measures(record: &AccessRecord) -> [Pair; 13] {
    let count = Field::Number(record.chunks.into());
    let (chunks, requests, stream) = if is_connection(record) {
        (Field::Null, count, Field::Null)
    } else {
        (count, Field::Null, Field::Number(record.stream.into()))
    };
    let duration = record.end_ns.saturating_sub(record.start_ns);
    [
        ("started_monotonic_ns", Field::Number(record.start_ns)),
        ("ended_monotonic_ns", Field::Number(record.end_ns)),
        ("duration_seconds", Field::Seconds(duration)),
        ("time_to_first_byte_seconds", measured(record.first_byte_ns)),
        ("time_to_first_token_seconds", measured(record.first_token_ns)),
        ("chunks", chunks),
        ("requests", requests),
        ("request_bytes", Field::Number(record.request_bytes)),
        ("response_bytes", Field::Number(record.response_bytes)),
        ("rtt_seconds", measured(u64::from(record.rtt_us) * 1_000)),
        ("retransmits", Field::Number(record.retransmits.into())),
        ("cookie", Field::Number(record.cookie)),
        ("stream", stream),
    ]
}

impl Field {
    fn plain(&self, out: &mut Vec<u8>) {
        match self {
            Self::Number(number) => put(out, format_args!("{number}")),
            Self::Seconds(ns) => {
                let (seconds, rest) = (ns / 1_000_000_000, ns % 1_000_000_000);
                put(out, format_args!("{seconds}.{rest:09}"));
            }
            Self::Null | Self::Text(_) | Self::Word(_) => out.extend_from_slice(b"null"),
        }
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes everything");
}

fn quote(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a vector takes every string");
}

fn needs_quotes(letter: char) -> bool {
    letter <= ' ' || matches!(letter, '"' | '=' | '\\' | '\u{7f}')
}

fn is_connection(record: &AccessRecord) -> bool {
    record.kind == AccessKind::Connection as u8
}

fn text(text: Option<String>) -> Field {
    text.map_or(Field::Null, Field::Text)
}

fn measured(ns: u64) -> Field {
    if ns == 0 { Field::Null } else { Field::Seconds(ns) }
}

fn status(class: u8) -> Option<&'static str> {
    let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
    classes.get(usize::from(class).wrapping_sub(1)).copied()
}

fn cancel(number: u8) -> Option<&'static str> {
    let cancel = Cancel::ALL.get(usize::from(number).wrapping_sub(1));
    cancel.map(|cancel| cancel.label())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use zerocopy::FromZeros as _;

    use super::*;
    use crate::reconcile::view::View;

    fn record() -> AccessRecord {
        let mut record = AccessRecord::new_zeroed();
        record.client_addr = IpAddr::from([10, 1, 0, 7]).into();
        record.client_port = Port::new(40_000);
        record.backend_addr = IpAddr::from([10, 2, 0, 1]).into();
        record.backend_port = Port::new(9_000);
        record.vantage = Vantage::Server as u8;
        record.wire = Wire::Http1 as u8;
        record.outcome = Outcome::Canceled as u8;
        record.status = 2;
        record.cancel = 1 + Cancel::DecodeReset as u8;
        (record.start_ns, record.end_ns) = (5_000_000_000, 7_500_000_001);
        record.first_byte_ns = 20_000_000;
        (record.chunks, record.rtt_us, record.cookie) = (12, 85, 99);
        (record.request_bytes, record.response_bytes) = (300, 4_000);
        record
    }

    fn lines(record: &AccessRecord) -> (serde_json::Value, String) {
        let names = Names::of(Arc::new(View::default()));
        let clock = TimeOfDay {
            origin_ns: 1_700_000_000_000_000_000,
        };
        let line = Line::new(record, &names, clock);
        let (mut json, mut logfmt) = (Vec::new(), Vec::new());
        line.json(&mut json);
        line.logfmt(&mut logfmt);
        assert_eq!(json.last(), Some(&b'\n'));
        (
            serde_json::from_slice(&json).expect("one JSON object"),
            String::from_utf8(logfmt).expect("text"),
        )
    }

    #[test]
    fn a_request_is_told_whole() {
        let (json, logfmt) = lines(&record());
        let expected = serde_json::json!({
            "kind": "request", "time": "2023-11-14T22:13:27.500000Z", "service": "10.2.0.1:9000", "model": null,
            "backend": "10.2.0.1:9000", "vantage": "server", "protocol": "http1", "client": "10.1.0.7:40000",
            "client_workload": null, "outcome": "canceled", "status": "2xx", "cancel": "decode/rst",
            "started_monotonic_ns": 5_000_000_000_u64, "ended_monotonic_ns": 7_500_000_001_u64,
            "duration_seconds": 2.500_000_001, "time_to_first_byte_seconds": 0.02, "time_to_first_token_seconds": null,
            "chunks": 12, "requests": null, "request_bytes": 300, "response_bytes": 4_000, "rtt_seconds": 0.000_085,
            "retransmits": 0, "cookie": 99, "stream": 0,
        });
        assert_eq!(json, expected);
        assert!(
            logfmt.starts_with(
                "kind=request time=2023-11-14T22:13:27.500000Z service=10.2.0.1:9000 model=null "
            ),
            "{logfmt}"
        );
        assert!(
            logfmt.contains(" cancel=decode/rst started_monotonic_ns=5000000000 "),
            "{logfmt}"
        );
        assert!(
            logfmt.ends_with(" retransmits=0 cookie=99 stream=0\n"),
            "{logfmt}"
        );
        let keys = logfmt
            .split_whitespace()
            .map(|pair| pair.split_once('=').expect("a pair").0);
        let object = json.as_object().expect("an object");
        assert!(keys.clone().all(|key| object.contains_key(key)), "{logfmt}");
        assert_eq!(keys.count(), object.len());
    }

    #[test]
    fn a_connection_has_no_outcome() {
        let mut record = record();
        record.kind = AccessKind::Connection as u8;
        let (json, _) = lines(&record);
        assert_eq!(json["kind"], "connection");
        assert_eq!(json["requests"], 12);
        for key in ["outcome", "status", "cancel", "chunks", "stream"] {
            assert!(json[key].is_null(), "{key}: {json}");
        }
    }

    #[test]
    fn numbers_without_a_name_are_null() {
        let mut record = record();
        (record.outcome, record.status, record.cancel) = (200, 9, 77);
        let (json, _) = lines(&record);
        for key in ["outcome", "status", "cancel"] {
            assert!(json[key].is_null(), "{key}: {json}");
        }
    }

    #[test]
    fn logfmt_quotes_what_a_reader_would_split() {
        assert!("a b".contains(needs_quotes) && "a=b".contains(needs_quotes) && "\"".contains(needs_quotes));
        assert!(!"models/chat".contains(needs_quotes) && !"[fd00::1]:80".contains(needs_quotes));
    }
}
