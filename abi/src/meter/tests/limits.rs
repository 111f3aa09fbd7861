// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What sizes and times cannot tell: the rows of the table of limits, kept here so that the table stays true.

use super::*;

#[test]
fn a_close_after_a_coalesced_terminator_looks_like_a_cancel() {
    let mut bench = Bench::tls(Vantage::Client);
    bench.at(0).ask(800).at(100).down(400, EVENT_STREAM.with(TOKEN));
    bench
        .at(120)
        .down(250, DownFacts::DATA)
        .at(140)
        .down(274, DownFacts::DATA.with(DownFacts::END));
    bench.at(9_000).end(End::Closed);
    assert_eq!(bench.cancels(), [Cancel::DecodeFin]);
}

#[test]
fn a_close_after_early_headers_looks_like_a_reply() {
    let mut bench = Bench::tls(Vantage::Client);
    bench
        .at(0)
        .ask(800)
        .at(1)
        .down(149, EVENT_STREAM)
        .at(9_000)
        .end(End::Closed);
    assert_eq!(bench.outcomes(), [Outcome::Success]);
}

#[test]
fn session_tickets_before_a_crash_look_like_a_reply() {
    let mut bench = Bench::tls_with(Vantage::Client, MeterFlags::TICKETS);
    bench
        .at(0)
        .ask(800)
        .at(1)
        .down_bytes(560)
        .at(9_000)
        .fin()
        .end(End::Closed);
    assert_eq!(bench.outcomes(), [Outcome::Success]);
    let mut bench = Bench::tls_with(Vantage::Client, MeterFlags::TICKETS);
    bench
        .at(0)
        .ask(800)
        .at(1)
        .down_bytes(560)
        .at(9_000)
        .end(End::Reset);
    assert_eq!(bench.outcomes(), [Outcome::Truncated]);
}

#[test]
fn a_crash_in_the_prefill_of_a_reused_connection_is_no_race() {
    let mut bench = Bench::plain(Vantage::Client);
    bench.at(0).ask(800).at(9).down_with(300, OF_LENGTH, 2, 0);
    bench.at(1_000).ask(800).at(31_000).fin().end(End::Closed);
    assert_eq!(bench.outcomes(), [Outcome::Success, Outcome::NoResponse]);
}

#[test]
fn tokens_of_a_few_bytes_look_like_heartbeats() {
    let mut bench = Bench::tls(Vantage::Server);
    bench.at(0).ask(800).at(1).down(149, EVENT_STREAM);
    for token in 0..20 {
        bench.at(301 + 20 * token).down(40, DownFacts::DATA);
    }
    assert_eq!(bench.latencies(), [vec![1], vec![], vec![]]);
    assert_eq!((bench.phase(), bench.in_flight), (Phase::Response, 1));
}
