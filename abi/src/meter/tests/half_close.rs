// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Ends that need a second look: half-closed connections, unmarked responses, alerts of TLS, and both ends of one connection.

use super::{
    teardown::{Script, decode, done, prefill, reused},
    *,
};

#[test]
fn a_half_closed_request_is_answered() {
    for mut bench in [Bench::plain(Vantage::Server), Bench::tls(Vantage::Server)] {
        bench.at(0).ask(800).at(1).fin();
        let tls = bench.is_tls();
        bench.at(2).down(149, EVENT_STREAM).at(301).down(250, TOKEN);
        bench
            .at(321)
            .down(250, DownFacts::DATA)
            .at(341)
            .down(250, DownFacts::DATA)
            .at(342)
            .down(24, DownFacts::END);
        bench.end(End::Closed);
        assert_eq!(bench.outcomes(), [Outcome::Success], "TLS: {tls}");
    }
    let mut bench = Bench::plain(Vantage::Server);
    bench
        .at(0)
        .ask(800)
        .fin()
        .at(5)
        .down(300, UNMARKED)
        .end(End::Closed);
    assert_eq!(
        bench.outcomes(),
        [Outcome::Success],
        "its end is the server's close"
    );
}

#[test]
fn a_half_closed_request_that_is_dropped_is_a_cancel() {
    let mut bench = Bench::plain(Vantage::Server);
    bench
        .at(0)
        .ask(800)
        .fin()
        .at(5)
        .down(300, EVENT_STREAM)
        .end(End::Closed);
    assert_eq!(
        bench.cancels(),
        [Cancel::PrefillFin],
        "the mark of its end is missing"
    );
}

#[test]
fn an_unmarked_response_ends_with_its_connection() {
    let ends: [(Vantage, bool, End, Outcome); 5] = [
        (Vantage::Server, false, End::Closed, Outcome::ServerError),
        (Vantage::Server, false, End::Reset, Outcome::Canceled),
        (Vantage::Client, true, End::Closed, Outcome::ServerError),
        (Vantage::Client, false, End::Closed, Outcome::Canceled),
        (Vantage::Client, false, End::Reset, Outcome::Truncated),
    ];
    for (vantage, fin, end, outcome) in ends {
        let mut bench = Bench::plain(vantage);
        bench
            .at(0)
            .ask(800)
            .at(5)
            .down_with(300, UNMARKED, 5, 0)
            .at(6)
            .down(4_000, DownFacts::default());
        if fin {
            bench.fin();
        }
        bench.end(end);
        assert_eq!(bench.outcomes(), [outcome], "{vantage:?} {fin} {end:?}");
    }
}

#[test]
fn a_body_shorter_than_its_length_is_truncated() {
    let mut bench = Bench::plain(Vantage::Client);
    bench
        .at(0)
        .ask(800)
        .at(5)
        .down_with(300, OF_LENGTH, 2, 10_000)
        .at(6)
        .fin()
        .end(End::Closed);
    assert_eq!(bench.outcomes(), [Outcome::Truncated]);
}

#[test]
fn an_alert_of_a_server_whose_client_has_gone_is_no_last_write() {
    let mut bench = Bench::tls(Vantage::Server);
    decode(&mut bench);
    bench
        .at(350)
        .up_bytes(24)
        .fin()
        .at(351)
        .down_bytes(24)
        .end(End::Closed);
    assert_eq!(bench.cancels(), [Cancel::DecodeFin]);
}

#[test]
fn an_alert_that_crosses_a_request_is_no_response() {
    let mut bench = Bench::tls(Vantage::Client);
    reused(&mut bench);
    let before = bench.first_bytes.len();
    bench.at(9_001).down_bytes(24).fin().end(End::Closed);
    assert_eq!(bench.outcomes(), [Outcome::Success, Outcome::KeepaliveRace]);
    assert_eq!(bench.first_bytes.len(), before);
}

#[test]
fn a_stream_under_tls_that_ends_without_a_goodbye_is_truncated() {
    let mut bench = Bench::tls(Vantage::Client);
    decode(&mut bench);
    bench.at(350).fin().at(351).up_bytes(24).end(End::Closed);
    assert_eq!(bench.outcomes(), [Outcome::Truncated]);
    let mut bench = Bench::tls(Vantage::Client);
    decode(&mut bench);
    bench.at(350).fin().down_bytes(24).end(End::Closed);
    assert_eq!(
        bench.outcomes(),
        [Outcome::Success],
        "a goodbye is a short last write"
    );
}

#[test]
fn a_canceled_stream_under_tls_keeps_its_first_token() {
    let mut bench = Bench::tls(Vantage::Server);
    decode(&mut bench);
    bench.end(End::Reset);
    assert_eq!(bench.latencies(), [vec![1], vec![301], vec![20, 20]]);
}

#[test]
fn the_two_vantages_agree() {
    let plays = [
        (prefill as Script, (false, End::Closed), (true, End::Closed)),
        (decode, (false, End::Aborted), (false, End::Reset)),
        (decode, (true, End::Closed), (false, End::Closed)),
        (done, (false, End::Closed), (true, End::Closed)),
    ];
    for (before, client, server) in plays {
        let play = |vantage, (fin, end): (bool, End)| {
            let mut bench = Bench::plain(vantage);
            before(&mut bench);
            if fin {
                bench.fin();
            }
            bench.end(end);
            (bench.latencies(), bench.chunks, bench.finished)
        };
        assert_eq!(play(Vantage::Client, client), play(Vantage::Server, server));
    }
}

#[test]
fn an_open_request_is_given_back_when_its_socket_connects_again() {
    let mut bench = Bench::plain(Vantage::Client);
    bench.at(0).ask(800);
    let held = bench.meter.discard();
    assert_eq!((held.load, held.open, held.request_bytes), (1, 1, 800));
    let mut again = Effects::default();
    bench.meter.end(End::Closed, 0, bench.now, &mut again);
    again.tell = false;
    assert_eq!(again, Effects::default());
}
