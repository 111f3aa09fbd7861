// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! HTTP/1.1 in plaintext: streams, replies, and what is neither.

use super::*;

const BOTH: [Vantage; 2] = Vantage::ALL;

/// How a request comes too early.
type Way = fn(&mut Bench);

#[test]
fn early_headers_and_a_role_prelude_are_no_token() {
    for vantage in BOTH {
        let mut bench = Bench::plain(vantage);
        bench.at(0).ask(800);
        bench.at(1).down(149, EVENT_STREAM);
        bench.at(2).down(210, DownFacts::DATA);
        bench.at(301).down(250, TOKEN);
        bench.at(322).down(250, DownFacts::DATA);
        bench.at(342).down(250, DownFacts::DATA);
        bench.at(343).down(19, DownFacts::END);
        assert_eq!(bench.latencies(), [vec![1], vec![301], vec![21, 20]]);
        assert_eq!((bench.chunks, bench.outcomes()), (3, vec![Outcome::Success]));
        let finished = bench.finished[0];
        assert_eq!((finished.request_bytes, finished.response_bytes), (800, 1_128));
        assert_eq!(
            finished.end_ns - finished.start_ns,
            343 * MS,
            "the last byte ends it, not the last token"
        );
        assert_eq!((bench.phase(), bench.in_flight, bench.load), (Phase::Idle, 0, 0));
    }
}

#[test]
fn headers_role_and_token_in_one_burst_are_one_emission() {
    let mut bench = Bench::plain(Vantage::Server);
    bench.at(0).ask(800);
    bench.at(200).down(149, EVENT_STREAM);
    bench.at_ns(200 * MS + 300_000).down(210, DownFacts::DATA);
    bench.at_ns(200 * MS + 700_000).down(250, TOKEN);
    bench.at(220).down(250, DownFacts::DATA);
    bench.at(220).down(24, DownFacts::END);
    assert_eq!(bench.first_tokens, [200 * MS + 700_000]);
    assert_eq!(
        bench.gaps,
        [19 * MS + 300_000],
        "measured from the token, not from the headers"
    );
    assert_eq!(bench.chunks, 2);
}

#[test]
fn writes_that_follow_each_other_at_once_are_one_emission() {
    let mut bench = Bench::plain(Vantage::Server);
    bench.at(0).ask(800).at(200).down(400, EVENT_STREAM.with(TOKEN));
    for tenth in [2_200, 2_209, 2_218, 2_227] {
        bench.at_ns(tenth * MS / 10).down(250, DownFacts::DATA);
    }
    assert_eq!((bench.latencies()[2].clone(), bench.chunks), (vec![20], 2));
}

#[test]
fn heartbeats_are_neither_tokens_nor_gaps() {
    let mut bench = Bench::plain(Vantage::Server);
    bench.at(0).ask(800);
    bench.at(1).down(149, EVENT_STREAM);
    bench.at(15_000).down(58, HEARTBEAT);
    bench.at(29_999).down(58, HEARTBEAT);
    bench.at_ns(29_999 * MS + 500_000).down(250, TOKEN);
    bench.at(30_010).down(58, HEARTBEAT);
    bench.at_ns(30_019 * MS + 500_000).down(250, DownFacts::DATA);
    assert_eq!(bench.first_tokens, [29_999 * MS + 500_000]);
    assert_eq!(bench.latencies()[2], [20]);
    assert_eq!(bench.in_flight, 1);
}

#[test]
fn a_reply_of_known_length_has_no_token() {
    let mut bench = Bench::plain(Vantage::Server);
    bench.at(0).ask(300);
    bench.at(40).down_with(120, OF_LENGTH, 4, 900);
    assert_eq!(bench.in_flight, 1);
    bench.at(45).down(500, DownFacts::default());
    bench.at(60).down(400, DownFacts::default());
    assert_eq!(bench.latencies(), [vec![40], vec![], vec![]]);
    assert_eq!(
        (bench.outcomes(), bench.chunks, bench.in_flight),
        (vec![Outcome::ClientError], 0, 0)
    );
    assert_eq!(bench.finished[0].end_ns, EPOCH + 60 * MS);
}

#[test]
fn the_status_decides_the_outcome_of_a_complete_response() {
    for (status, outcome) in [
        (2, Outcome::Success),
        (3, Outcome::Success),
        (4, Outcome::ClientError),
        (5, Outcome::ServerError),
    ] {
        let mut bench = Bench::plain(Vantage::Client);
        bench.at(0).ask(300).at(5).down_with(700, OF_LENGTH, status, 0);
        assert_eq!(
            (bench.outcomes(), bench.finished[0].status),
            (vec![outcome], status)
        );
    }
}

#[test]
fn a_response_to_head_ends_with_its_headers() {
    for path in [Path::Eager, Path::Packets(64)] {
        let mut bench = Bench::new(Vantage::Client, path);
        bench.at(0).up(90, UpFacts::BEGIN.with(UpFacts::HEAD));
        bench.at(3).down_with(60, OF_LENGTH, 2, 5_000);
        assert_eq!((bench.outcomes(), bench.in_flight), (vec![Outcome::Success], 0));
    }
}

#[test]
fn interim_responses_leave_the_request_open() {
    let mut bench = Bench::plain(Vantage::Client);
    bench.at(0).ask(200);
    bench.at(1).down(25, DownFacts::INFORMATIONAL);
    assert_eq!(bench.phase(), Phase::Request);
    bench.at(2).up(60_000, UpFacts::default());
    bench.at(3).down(60, DownFacts::INFORMATIONAL);
    bench.at(102).down_with(500, OF_LENGTH, 2, 0);
    assert_eq!(
        bench.latencies(),
        [vec![100], vec![], vec![]],
        "from the end of the body"
    );
    assert_eq!(
        (bench.outcomes(), bench.finished[0].request_bytes),
        (vec![Outcome::Success], 60_200)
    );
}

#[test]
fn an_interim_response_that_is_read_in_pieces_is_none_either() {
    let mut bench = Bench::plain(Vantage::Client);
    bench
        .at(0)
        .ask(200)
        .at(1)
        .down_packet(25, DownFacts::INFORMATIONAL);
    bench.down_bytes(10).down_bytes(15);
    assert_eq!((bench.phase(), bench.first_bytes.len()), (Phase::Request, 0));
}

#[test]
fn a_response_that_waits_behind_an_interim_one_begins_with_it() {
    let mut bench = Bench::plain(Vantage::Client);
    bench
        .at(0)
        .ask(200)
        .at(1)
        .down_packet(25, DownFacts::INFORMATIONAL)
        .down_packet(120, EVENT_STREAM);
    bench
        .at(2)
        .down_bytes(145)
        .at(50)
        .down(250, TOKEN.with(DownFacts::END));
    assert_eq!(
        (bench.latencies(), bench.outcomes()),
        ([vec![2], vec![50], vec![]], vec![Outcome::Success])
    );
}

#[test]
fn keep_alive_gives_each_request_its_own_times() {
    for vantage in BOTH {
        let mut bench = Bench::plain(vantage);
        for round in 0..3 {
            let start = round * 1_000;
            bench.at(start).ask(400);
            assert_eq!((bench.in_flight, bench.held_bytes), (1, 400));
            bench.at(start + 50).down(400, EVENT_STREAM.with(TOKEN));
            bench
                .at(start + 70)
                .down(274, DownFacts::DATA.with(DownFacts::END));
            assert_eq!((bench.in_flight, bench.held_bytes, bench.load), (0, 0, 0));
        }
        assert_eq!(bench.latencies(), [vec![50; 3], vec![50; 3], vec![20; 3]]);
        assert_eq!(bench.outcomes(), [Outcome::Success; 3]);
    }
}

#[test]
fn a_request_in_several_writes_is_one_and_is_timed_from_the_last() {
    let mut bench = Bench::plain(Vantage::Client);
    bench
        .at(0)
        .ask(200)
        .at(5)
        .up(30_000, UpFacts::default())
        .at(9)
        .up(500, UpFacts::default());
    assert_eq!((bench.in_flight, bench.held_bytes), (1, 30_700));
    bench.at(59).down_with(300, OF_LENGTH, 2, 0);
    assert_eq!(bench.latencies()[0], [50]);
    assert_eq!(bench.finished[0].start_ns, EPOCH);
}

#[test]
fn pipelining_is_ambiguous() {
    let ways: [(&str, Way); 4] = [
        ("a second request before the response", |bench| {
            bench.at(1).ask(300);
        }),
        ("both requests unread by the server", |bench| {
            bench.at(1).up_packet(300, UpFacts::BEGIN);
            let mark = bench.meter.up_seq.wrapping_add(600);
            bench.up_packet_to(mark, UpFacts::BEGIN);
        }),
        ("the second one's packet after its write", |bench| {
            bench.path = Path::Late;
            bench.at(1).ask(300);
        }),
        ("a tunnel", |bench| {
            bench.at(1).up(300, UpFacts::BEGIN.with(UpFacts::TUNNEL));
        }),
    ];
    for (name, way) in ways {
        let mut bench = Bench::plain(Vantage::Server);
        bench.at(0).ask(300);
        way(&mut bench);
        bench.at(50).down_with(500, OF_LENGTH, 2, 0);
        bench.at(60).down(500, EVENT_STREAM.with(TOKEN));
        bench.at(70).ask(300).ask(300);
        assert_eq!(bench.load, 1, "{name}");
        bench.assert_ambiguous();
        assert!(bench.finished.is_empty(), "{name}");
        bench.end(End::Closed);
    }
}

#[test]
fn a_request_in_the_middle_of_a_response_is_ambiguous() {
    let mut bench = Bench::plain(Vantage::Server);
    bench
        .at(0)
        .ask(300)
        .at(20)
        .down(400, EVENT_STREAM.with(TOKEN))
        .at(30)
        .ask(300);
    let told = bench.latencies();
    bench
        .at(40)
        .down(250, DownFacts::DATA)
        .at(60)
        .down(250, DownFacts::DATA.with(DownFacts::END));
    assert_eq!(
        (bench.phase(), bench.ambiguous, bench.in_flight),
        (Phase::Opaque, 1, 0)
    );
    assert_eq!(bench.latencies(), told, "nothing more is told");
}

#[test]
fn a_second_request_inside_the_first_packet_shows_by_its_response() {
    let mut bench = Bench::plain(Vantage::Client);
    bench
        .at(0)
        .ask(600)
        .at(20)
        .down_with(500, OF_LENGTH, 2, 0)
        .at(40)
        .down_with(500, OF_LENGTH, 2, 0);
    assert_eq!(
        (bench.phase(), bench.ambiguous, bench.in_flight),
        (Phase::Opaque, 1, 0)
    );
}

#[test]
fn an_upgrade_is_excluded() {
    for path in [Path::Eager, Path::Late] {
        let mut bench = Bench::new(Vantage::Server, path);
        bench.path = Path::Eager;
        bench.at(0).ask(300);
        bench.path = path;
        bench.at(1).down(129, DownFacts::UPGRADED);
        for ms in 2..40 {
            bench
                .at(ms)
                .up(20, UpFacts::default())
                .down(300, DownFacts::default());
        }
        assert_eq!(
            (bench.phase(), bench.meter.wire),
            (Phase::Opaque, Wire::Other as u8)
        );
        assert_eq!((bench.ambiguous, bench.in_flight, bench.load), (1, 0, 1));
        assert!(bench.first_tokens.is_empty() && bench.gaps.is_empty() && bench.finished.is_empty());
        bench.end(End::Closed);
    }
}

#[test]
fn an_answer_that_does_not_wait_for_the_body_is_not_timed() {
    let mut bench = Bench::plain(Vantage::Server);
    bench
        .at(0)
        .ask(300)
        .at(5)
        .down(149, EVENT_STREAM)
        .at(6)
        .up(20_000, UpFacts::default());
    bench
        .at(100)
        .down(250, TOKEN)
        .at(120)
        .down(250, DownFacts::DATA.with(DownFacts::END));
    assert_eq!(bench.latencies()[1..], [vec![], vec![]]);
    assert_eq!(
        (bench.outcomes(), bench.finished[0].timed),
        (vec![Outcome::Success], false)
    );
    assert_eq!(bench.finished[0].request_bytes, 20_300);
    let mut bench = Bench::plain(Vantage::Server);
    bench
        .at(0)
        .up_packet(16_000, UpFacts::BEGIN)
        .up_bytes(4_000)
        .at(5)
        .down_with(149, OF_LENGTH, 4, 20);
    bench.at(6).up_bytes(12_000).at(7).down(20, DownFacts::default());
    assert_eq!(
        (bench.outcomes(), bench.ambiguous),
        (vec![Outcome::ClientError], 0),
        "one packet, one request"
    );
}

#[test]
fn an_adopted_connection_counts_its_first_request_and_times_its_second() {
    let mut bench = Bench::plain(Vantage::Server);
    bench.meter.flags = MeterFlags::ADOPTED;
    bench.at(0).down(250, DownFacts::DATA);
    assert_eq!(bench.in_flight, 0, "what was under way is not known");
    bench.at(10).ask(300).at(20).down(400, EVENT_STREAM.with(TOKEN));
    bench.at(40).down(250, DownFacts::DATA.with(DownFacts::END));
    assert_eq!((bench.latencies(), bench.chunks), ([vec![], vec![], vec![]], 0));
    assert_eq!(
        (bench.outcomes(), bench.finished[0].timed),
        (vec![Outcome::Success], false)
    );
    bench
        .at(50)
        .ask(300)
        .at(60)
        .down(400, EVENT_STREAM.with(TOKEN))
        .at(80)
        .down(24, DownFacts::END);
    assert_eq!(bench.latencies()[..2], [vec![10], vec![10]]);
    assert!(bench.finished[1].timed);
}

#[test]
fn a_stream_without_known_tokens_is_timed_by_its_gaps() {
    let mut bench = Bench::plain(Vantage::Server);
    bench.at(0).ask(300).at(1).down(149, EVENT_STREAM);
    bench
        .at(201)
        .down(90, DownFacts::DATA)
        .at(221)
        .down(90, DownFacts::DATA);
    bench.at(241).down(90, DownFacts::DATA.with(DownFacts::END));
    assert_eq!(bench.latencies(), [vec![1], vec![201], vec![20, 20]]);
    assert_eq!(bench.chunks, 3);
}

#[test]
fn silence_leaves_a_plain_stream_open() {
    let mut bench = Bench::plain(Vantage::Server);
    bench
        .at(0)
        .ask(300)
        .at(20)
        .down(400, EVENT_STREAM.with(TOKEN))
        .at(40)
        .down(600, DownFacts::DATA);
    bench.at(600_000).settle();
    assert_eq!(
        (bench.phase(), bench.in_flight, bench.finished.len()),
        (Phase::Response, 1, 0)
    );
    bench.down(250, DownFacts::DATA);
    assert_eq!(bench.latencies()[2], [20, 599_960]);
}

#[test]
fn a_client_need_not_wait_for_what_follows_done() {
    for (fact, outcome) in [
        (DownFacts::DONE, Outcome::Success),
        (DownFacts::DATA, Outcome::Canceled),
    ] {
        for end in [End::Closed, End::Aborted] {
            let mut bench = Bench::plain(Vantage::Client);
            bench
                .at(0)
                .ask(800)
                .at(1)
                .down(149, EVENT_STREAM)
                .at(300)
                .down(269, DownFacts::DATA);
            bench.at(320).down(19, fact).at(321).end(end);
            assert_eq!(bench.outcomes(), [outcome], "{fact:?} {end:?}");
        }
    }
}
