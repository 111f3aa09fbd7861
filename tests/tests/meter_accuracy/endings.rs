// SPDX-License-Identifier: Apache-2.0
//! Requests that do not end as they should, against the server's own counts.

use std::collections::BTreeMap;

use nodemesh_agent::api::{Traffic, Vantage};
use nodemesh_e2e::{
    load::observation::Observation,
    truth::{Exchange, Outcome, Phase},
};

use crate::{
    lab::{Lab, Spot, Wire},
    line::Line,
};

const REQUESTS: usize = 8;

/// A way for clients to give up, and what the server makes of a client that shuts its side down.
struct Way {
    how: &'static str,
    phase: &'static str,
    half_close: &'static str,
}

const fn way(how: &'static str, phase: &'static str, half_close: &'static str) -> Way {
    Way {
        how,
        phase,
        half_close,
    }
}

const WAYS: [Way; 10] = [
    way("fin", "prefill", "cancel"),
    way("fin", "decode", "cancel"),
    way("rst", "prefill", "cancel"),
    way("rst", "decode", "cancel"),
    way("kill", "prefill", "cancel"),
    way("kill", "decode", "cancel"),
    way("half-close", "prefill", "cancel"),
    way("half-close", "decode", "cancel"),
    way("half-close", "prefill", "serve"),
    way("half-close", "decode", "serve"),
];

/// What the meter may say of an exchange that ended as the server says, over a wire, after so many writes or reads of text.
type May = fn(&Exchange, Wire, usize) -> Vec<(&'static str, Option<&'static str>)>;

/// Clients give up in every way at the same time.
pub fn give_up(path: &'static str) {
    // Long enough for a client on a busy machine to be early, and for it to be late.
    let server = |way: &Way| {
        let prefill = if way.phase == "prefill" { 600 } else { 30 };
        format!(
            "--prefill {prefill}ms --inter-token 40ms --half-close {}",
            way.half_close
        )
    };
    let lab = Lab::new(path, &WAYS.each_ref().map(server));
    let client = |spot: Spot| {
        let Way { how, phase, .. } = WAYS[spot.server];
        format!(
            "--requests {REQUESTS} --concurrency {REQUESTS} --max-tokens 20 --cancel {how} --cancel-share 1 \
             --cancel-phase {phase} --cancel-after 50ms..100ms --allow-failures"
        )
    };
    let name = |spot: Spot| {
        let Way {
            how,
            phase,
            half_close,
        } = WAYS[spot.server];
        format!("{path}, {how} in {phase}, {half_close}, {}", spot.wire.name())
    };
    compare(&lab, client, name, given_up);
}

/// Runs a client for each server and wire, and compares each of its requests at each vantage with what the server says of it.
fn compare(lab: &Lab, client: impl Fn(Spot) -> String, name: impl Fn(Spot) -> String, may: May) {
    let clients: Vec<_> = lab
        .spots()
        .map(|spot| (spot, lab.client(spot, &client(spot))))
        .collect();
    let mut wrong: BTreeMap<String, usize> = BTreeMap::new();
    for (spot, client) in clients {
        let (_, seen) = client.ended();
        let requests = seen.len();
        // A RST takes back a request that a busy server has not read yet; then it never began, and not all are here.
        let truth = lab.truth(spot, requests / 2);
        for vantage in [Vantage::Server, Vantage::Client] {
            let row = lab.at_rest(spot, vantage, requests as u64);
            let told = lab.told(spot, vantage, requests);
            for exchange in &truth {
                let line = told
                    .iter()
                    .filter(|line| line.client == exchange.peer)
                    .nth(exchange.sequence as usize - 1);
                let is = line.map(Line::ending);
                let emissions = emissions(exchange, &seen, vantage);
                let allowed = may(exchange, spot.wire, emissions);
                if !is.is_some_and(|is| allowed.contains(&is)) {
                    *wrong
                        .entry(format!("{}, {vantage:?}: {is:?}, not {allowed:?}", name(spot)))
                        .or_default() += 1;
                }
            }
            assert_row_is_log(&name(spot), &row, &told);
        }
    }
    lab.assert_nothing_was_lost();
    assert!(
        wrong.is_empty(),
        "told otherwise than by the server, and how often: {wrong:#?}"
    );
}

fn emissions(exchange: &Exchange, seen: &[Observation], vantage: Vantage) -> usize {
    let of_client = seen.iter().find(|one| Some(&one.id) == exchange.id.as_ref());
    match (vantage, of_client) {
        (Vantage::Client, Some(one)) => one.emissions_ns.len(),
        _ => exchange.emissions_ns.len(),
    }
}

/// The row counts what the access log tells.
#[track_caller]
fn assert_row_is_log(what: &str, row: &Traffic, told: &[Line]) {
    for (outcome, count) in &row.requests {
        let lines = told
            .iter()
            .filter(|line| line.outcome.as_deref() == Some(outcome))
            .count();
        assert_eq!(lines as u64, *count, "{what}: {outcome}: {row:#?}");
    }
    for (way, count) in &row.cancels {
        let lines = told
            .iter()
            .filter(|line| line.cancel.as_deref() == Some(way))
            .count();
        assert_eq!(lines as u64, *count, "{what}: {way}: {row:#?}");
    }
    assert_eq!(
        (row.requests_in_flight, row.request_bytes_in_flight),
        (0, 0),
        "{what}: {row:#?}"
    );
}

fn given_up(one: &Exchange, wire: Wire, emissions: usize) -> Vec<(&'static str, Option<&'static str>)> {
    let cancel = match (one.phase(), one.outcome) {
        (Phase::Prefill, Outcome::ClientFin) => "prefill/fin",
        (Phase::Prefill, Outcome::ClientRst) => "prefill/rst",
        (Phase::Decode, Outcome::ClientFin) => "decode/fin",
        (Phase::Decode, Outcome::ClientRst) => "decode/rst",
        (_, Outcome::HalfClose | Outcome::Complete) => return vec![("success", None)],
        (_, Outcome::ServerFin | Outcome::ServerRst) => panic!("the server stays: {one:?}"),
    };
    let mut may = vec![("canceled", Some(cancel))];
    // Fewer than three writes under TLS may have been a whole reply, and so may the tickets of TLS 1.3.
    let few = wire != Wire::Plain && one.phase() == Phase::Decode && emissions < 3;
    if few || has_tickets_alone(one, wire) {
        may.push(("success", None));
    }
    if wire == Wire::Tls13 && one.sequence == 1 && emissions < 2 {
        // The only write may have been the tickets.
        let early = cancel.replacen("decode", "prefill", 1);
        may.extend(
            ["prefill/fin", "prefill/rst"]
                .into_iter()
                .filter(|is| *is == early)
                .map(|is| ("canceled", Some(is))),
        );
    }
    may
}

/// Whether the meter has seen nothing of the server but session tickets, which it cannot tell from the head of a response.
fn has_tickets_alone(one: &Exchange, wire: Wire) -> bool {
    wire == Wire::Tls13 && one.sequence == 1 && one.phase() == Phase::Prefill
}

/// What a server does instead of a whole answer, on every second request.
const FAILURES: [&str; 4] = ["truncate", "reset", "close-early", "reset-early"];

/// Servers break answers off in every way at the same time.
pub fn break_off(path: &'static str) {
    let server = |failure: &str| {
        format!("--prefill 20ms --inter-token 20ms --failure {failure} --failure-after 5 --failure-share 0.5")
    };
    let lab = Lab::new(path, &FAILURES.map(server));
    let client = |_| "--requests 24 --concurrency 6 --max-tokens 10 --allow-failures".to_owned();
    let name = |spot: Spot| format!("{path}, {}, {}", FAILURES[spot.server], spot.wire.name());
    compare(&lab, client, name, broken_off);
}

fn broken_off(one: &Exchange, wire: Wire, _: usize) -> Vec<(&'static str, Option<&'static str>)> {
    match one.outcome {
        Outcome::ServerFin if has_tickets_alone(one, wire) => vec![("no_response", None), ("success", None)],
        Outcome::ServerRst if has_tickets_alone(one, wire) => {
            vec![("no_response", None), ("truncated", None)]
        }
        Outcome::ServerFin | Outcome::ServerRst if one.phase() == Phase::Prefill => {
            vec![("no_response", None)]
        }
        // An alert is what an answer ends with that is complete, too.
        Outcome::ServerFin if wire != Wire::Plain => vec![("truncated", None), ("success", None)],
        Outcome::ServerFin | Outcome::ServerRst => vec![("truncated", None)],
        _ => vec![("success", None)],
    }
}

/// Clients that do not look find their connection closed with every second request.
pub fn race(path: &'static str) {
    let lab = Lab::new(
        path,
        &["--prefill 20ms --inter-token 20ms --idle-timeout 100ms".to_owned()],
    );
    let line = "--mode keep-alive --requests 12 --concurrency 2 --max-tokens 4 --keep-alive-gap 400ms --blind --allow-failures";
    let clients: Vec<_> = lab.spots().map(|spot| (spot, lab.client(spot, line))).collect();
    for (spot, client) in clients {
        let (report, seen) = client.ended();
        let name = format!("{path}, {}", spot.wire.name());
        let lost = seen.iter().filter(|one| one.first_byte_ns.is_none()).count() as u64;
        assert_eq!(
            (report["requests"]["ok"].as_u64(), lost),
            (Some(6), 6),
            "{name}: {report:#}"
        );
        let row = lab.at_rest(spot, Vantage::Client, 12);
        assert_eq!(
            (row.requests["success"], row.requests["keepalive_race"]),
            (6, 6),
            "{name}: {row:#?}"
        );
        let row = lab.at_rest(spot, Vantage::Server, 6);
        let counted: u64 = row.requests.values().sum();
        assert_eq!(
            (row.requests["success"], counted),
            (6, 6),
            "the server saw no other: {name}: {row:#?}"
        );
    }
    lab.assert_nothing_was_lost();
}
