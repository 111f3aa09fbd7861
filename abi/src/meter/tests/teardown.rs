// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! How connections end: who gave up, when, and how.

use super::*;

/// What comes before the end, and what the end is.
pub type Script = fn(&mut Bench);

/// One end of a connection, in plaintext and under TLS unless they differ.
struct Case {
    name: &'static str,
    vantage: Vantage,
    before: Script,
    fin: bool,
    end: End,
    outcomes: &'static [Outcome],
    cancel: Option<Cancel>,
}

fn fresh(_: &mut Bench) {}

pub fn prefill(bench: &mut Bench) {
    bench.at(0).ask(800);
}

pub fn decode(bench: &mut Bench) {
    bench.at(0).ask(800).at(1).down(149, EVENT_STREAM);
    bench
        .at(301)
        .down(250, TOKEN)
        .at(321)
        .down(250, DownFacts::DATA)
        .at(341)
        .down(250, DownFacts::DATA);
}

pub fn done(bench: &mut Bench) {
    decode(bench);
    bench.at(361).down(24, DownFacts::END);
}

pub fn reused(bench: &mut Bench) {
    done(bench);
    bench.at(9_000).ask(800);
}

const CASES: [Case; 18] = {
    use super::{Cancel as C, Outcome as O};
    const CLIENT: Vantage = Vantage::Client;
    const SERVER: Vantage = Vantage::Server;
    const fn case(
        name: &'static str,
        vantage: Vantage,
        before: Script,
        (fin, end): (bool, End),
        outcomes: &'static [Outcome],
        cancel: Option<Cancel>,
    ) -> Case {
        Case {
            name,
            vantage,
            before,
            fin,
            end,
            outcomes,
            cancel,
        }
    }
    const CLOSED: (bool, End) = (false, End::Closed);
    const ABORTED: (bool, End) = (false, End::Aborted);
    const RESET: (bool, End) = (false, End::Reset);
    const FIN: (bool, End) = (true, End::Closed);
    const FIN_RESET: (bool, End) = (true, End::Reset);
    [
        case("never used", CLIENT, fresh, CLOSED, &[], None),
        case(
            "client closes while idle",
            CLIENT,
            done,
            CLOSED,
            &[O::Success],
            None,
        ),
        case("server closes while idle", CLIENT, done, FIN, &[O::Success], None),
        case(
            "server resets while idle",
            CLIENT,
            done,
            RESET,
            &[O::Success],
            None,
        ),
        case(
            "cancel in prefill by FIN",
            CLIENT,
            prefill,
            CLOSED,
            &[O::Canceled],
            Some(C::PrefillFin),
        ),
        case(
            "the same at the server",
            SERVER,
            prefill,
            FIN,
            &[O::Canceled],
            Some(C::PrefillFin),
        ),
        case(
            "cancel in prefill by RST",
            CLIENT,
            prefill,
            ABORTED,
            &[O::Canceled],
            Some(C::PrefillReset),
        ),
        case(
            "the same at the server",
            SERVER,
            prefill,
            RESET,
            &[O::Canceled],
            Some(C::PrefillReset),
        ),
        case(
            "cancel in decode by FIN",
            CLIENT,
            decode,
            CLOSED,
            &[O::Canceled],
            Some(C::DecodeFin),
        ),
        case(
            "the same at the server",
            SERVER,
            decode,
            FIN,
            &[O::Canceled],
            Some(C::DecodeFin),
        ),
        case(
            "FIN, then RST for what the server still sent",
            SERVER,
            decode,
            FIN_RESET,
            &[O::Canceled],
            Some(C::DecodeFin),
        ),
        case(
            "cancel in decode by RST",
            CLIENT,
            decode,
            ABORTED,
            &[O::Canceled],
            Some(C::DecodeReset),
        ),
        case(
            "the same at the server",
            SERVER,
            decode,
            RESET,
            &[O::Canceled],
            Some(C::DecodeReset),
        ),
        case(
            "server closes before the response",
            CLIENT,
            prefill,
            FIN,
            &[O::NoResponse],
            None,
        ),
        case(
            "the same at the server",
            SERVER,
            prefill,
            CLOSED,
            &[O::NoResponse],
            None,
        ),
        case(
            "server closes in the response",
            CLIENT,
            decode,
            FIN,
            &[O::Truncated],
            None,
        ),
        case(
            "the same at the server",
            SERVER,
            decode,
            CLOSED,
            &[O::Truncated],
            None,
        ),
        case(
            "a reused connection that the server had closed",
            CLIENT,
            reused,
            RESET,
            &[O::Success, O::KeepaliveRace],
            None,
        ),
    ]
};

#[test]
fn each_end_is_told_apart_in_plaintext_and_under_tls() {
    for case in CASES {
        for mut bench in [Bench::plain(case.vantage), Bench::tls(case.vantage)] {
            let name = (case.name, bench.is_tls());
            (case.before)(&mut bench);
            if case.fin {
                bench.fin();
            }
            bench.end(case.end);
            assert_eq!(bench.outcomes(), case.outcomes, "{name:?}");
            assert_eq!(bench.cancels(), Vec::from_iter(case.cancel), "{name:?}");
        }
    }
}

#[test]
fn a_request_lost_at_the_server_on_a_reused_connection_is_no_race() {
    let mut bench = Bench::plain(Vantage::Server);
    reused(&mut bench);
    bench.end(End::Closed);
    assert_eq!(bench.outcomes(), [Outcome::Success, Outcome::NoResponse]);
}

#[test]
fn a_server_that_aborts_has_truncated() {
    for before in [prefill as Script, decode] {
        let mut bench = Bench::plain(Vantage::Server);
        before(&mut bench);
        bench.end(End::Aborted);
        assert!(matches!(
            bench.outcomes()[..],
            [Outcome::NoResponse | Outcome::Truncated]
        ));
    }
}

#[test]
fn a_request_that_is_read_after_the_reset_was_canceled() {
    let mut bench = Bench::plain(Vantage::Server);
    bench
        .at(0)
        .up_packet(490, UpFacts::BEGIN)
        .end(End::Reset)
        .at(1)
        .up_bytes(490);
    assert_eq!((bench.outcomes(), bench.in_flight), (vec![Outcome::Canceled], 0));
    bench.at(2).up_bytes(490);
    assert_eq!(bench.outcomes(), [Outcome::Canceled], "once");
}

#[test]
fn a_request_whose_answer_outruns_its_write_is_told() {
    let mut bench = Bench::plain(Vantage::Client);
    bench
        .at(0)
        .ask(800)
        .at(9)
        .down_with(300, OF_LENGTH, 2, 0)
        .at(5_000)
        .up_packet(700, UpFacts::BEGIN);
    bench.step(|meter, now, effects| meter.end(End::Reset, 700, now, effects));
    assert_eq!(
        (bench.outcomes(), bench.in_flight),
        (vec![Outcome::Success, Outcome::KeepaliveRace], 0)
    );
}
