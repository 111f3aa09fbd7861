// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Facts and byte events in every order that a path, a slow reader or another CPU brings them in.

use super::*;

#[test]
fn a_packet_that_outruns_the_clients_own_call_is_kept() {
    let mut bench = Bench::plain(Vantage::Client);
    bench.at(0).up_packet(300, UpFacts::BEGIN);
    let note = Note {
        facts: OF_LENGTH,
        status: 5,
        end: FIRST_SEQ.wrapping_add(500),
    };
    bench.down_packet_to(FIRST_SEQ.wrapping_add(500), note);
    bench.at(1).up_bytes(300).at(2).down_bytes(500);
    assert_eq!(
        (bench.outcomes(), bench.finished[0].status),
        (vec![Outcome::ServerError], 5)
    );
    assert_eq!((bench.phase(), bench.in_flight), (Phase::Idle, 0));
}

#[test]
fn a_write_before_its_first_packet_begins_the_request() {
    let mut bench = Bench::new(Vantage::Client, Path::Late);
    bench.at(0).ask(300);
    assert_eq!((bench.in_flight, bench.held_bytes), (1, 300));
    bench.path = Path::Eager;
    bench.at(40).down_with(500, OF_LENGTH, 2, 0);
    assert_eq!(
        (bench.latencies()[0].clone(), bench.outcomes()),
        (vec![40], vec![Outcome::Success])
    );
}

#[test]
fn a_first_write_that_is_recognised_after_an_answer_is_not_timed() {
    let mut bench = Bench::plain(Vantage::Client);
    bench
        .at(0)
        .up_bytes(300)
        .at(9)
        .down_bytes(40)
        .up_packet_to(FIRST_SEQ.wrapping_add(300), UpFacts::BEGIN);
    bench.at(10).down_with(400, OF_LENGTH, 2, 0);
    assert_eq!(
        (bench.latencies(), bench.outcomes()),
        ([vec![], vec![], vec![]], vec![Outcome::Success])
    );
}

#[test]
fn a_corked_head_and_its_body_are_one_request() {
    let mut bench = Bench::plain(Vantage::Client);
    bench.at(0).up_bytes(200);
    bench.at(1).up_packet(5_000, UpFacts::BEGIN).up_bytes(5_000);
    assert_eq!(
        (bench.phase(), bench.in_flight, bench.held_bytes),
        (Phase::Request, 1, 5_200)
    );
    bench.at(11).down_with(500, OF_LENGTH, 2, 0).at(20).up_bytes(200);
    bench
        .up_packet(5_000, UpFacts::BEGIN)
        .up_bytes(5_000)
        .at(30)
        .down_with(500, OF_LENGTH, 2, 0);
    assert_eq!(bench.outcomes(), [Outcome::Success; 2]);
    assert_eq!(bench.ambiguous, 0);
}

#[test]
fn a_server_that_reads_a_packet_in_pieces_has_one_request() {
    let mut bench = Bench::plain(Vantage::Server);
    for (round, status) in [(0, 2), (1, 4)] {
        bench.at(round * 100).up_packet(16_000, UpFacts::BEGIN);
        for _ in 0..4 {
            bench.up_bytes(4_000);
        }
        assert_eq!((bench.phase(), bench.held_bytes), (Phase::Request, 16_000));
        bench.at(round * 100 + 10).down_with(500, OF_LENGTH, status, 0);
    }
    assert_eq!(bench.outcomes(), [Outcome::Success, Outcome::ClientError]);
}

#[test]
fn a_late_packet_still_tells_that_the_request_is_a_head() {
    let mut bench = Bench::plain(Vantage::Client);
    bench.at(0).ask(90).at(1).down_with(300, OF_LENGTH, 2, 0);
    bench.path = Path::Late;
    bench.at(2).up(90, UpFacts::BEGIN.with(UpFacts::HEAD));
    bench.path = Path::Eager;
    bench.at(3).down_with(60, OF_LENGTH, 2, 5_000);
    assert_eq!(
        (bench.outcomes(), bench.in_flight),
        (vec![Outcome::Success; 2], 0)
    );
}

#[test]
fn late_packets_leave_times_to_the_writes() {
    let mut bench = Bench::plain(Vantage::Server);
    bench.at(0).ask(800);
    bench.path = Path::Late;
    bench.at(1).down(149, EVENT_STREAM);
    bench.at(301).down_bytes(250).at(322).down_bytes(250);
    // Nagle's algorithm: both tokens leave together.
    let mark = bench.meter.down_seq;
    bench.at(340).down_packet_to(
        mark,
        Note {
            facts: TOKEN,
            status: 2,
            end: 0,
        },
    );
    bench
        .at(342)
        .down(250, DownFacts::DATA)
        .at(343)
        .down(19, DownFacts::END);
    assert_eq!(bench.latencies(), [vec![1], vec![301], vec![21, 20]]);
    assert_eq!((bench.outcomes(), bench.chunks), (vec![Outcome::Success], 3));
}

#[test]
fn a_late_first_packet_tells_token_and_end() {
    let mut bench = Bench::plain(Vantage::Server);
    bench.at(0).ask(800);
    bench.path = Path::Late;
    bench
        .at(100)
        .down(600, EVENT_STREAM.with(TOKEN).with(DownFacts::END));
    assert_eq!(bench.latencies(), [vec![100], vec![100], vec![]]);
    assert_eq!((bench.outcomes(), bench.in_flight), (vec![Outcome::Success], 0));
}

#[test]
fn a_slow_reader_gets_the_token_with_the_first_read_after_it_came() {
    let mut bench = Bench::plain(Vantage::Client);
    bench.at(0).ask(800).at(1).down_packet(149, EVENT_STREAM);
    bench
        .at(301)
        .down_packet(250, TOKEN)
        .at(321)
        .down_packet(250, DownFacts::DATA);
    bench
        .at(325)
        .down_packet(269, DownFacts::DATA.with(DownFacts::END));
    bench.at(330).down_bytes(149);
    assert_eq!(bench.latencies()[1], [330]);
    bench.down_bytes(250).down_bytes(250);
    assert_eq!(
        (bench.phase(), bench.in_flight),
        (Phase::Response, 1),
        "the end waits for its own bytes"
    );
    bench.at(350).down_bytes(268).down_bytes(1);
    assert_eq!(
        (bench.outcomes(), bench.finished[0].response_bytes),
        (vec![Outcome::Success], 918)
    );
}

#[test]
fn a_reader_of_single_bytes_sees_one_exchange() {
    let mut bench = Bench::plain(Vantage::Client);
    bench.at(0).ask(800).at(1).down_packet(149, EVENT_STREAM);
    (0..149).for_each(|_| {
        bench.down_bytes(1);
    });
    bench.at(301).down_packet(250, TOKEN);
    (0..250).for_each(|_| {
        bench.down_bytes(1);
    });
    bench
        .at(321)
        .down_packet(269, DownFacts::DATA.with(DownFacts::END));
    (0..269).for_each(|_| {
        bench.down_bytes(1);
    });
    assert_eq!(bench.latencies(), [vec![1], vec![301], vec![20]]);
    assert_eq!((bench.outcomes(), bench.chunks), (vec![Outcome::Success], 2));
}

#[test]
fn the_packet_path_agrees_with_byte_events() {
    let play = |path| {
        let mut bench = Bench::new(Vantage::Server, path);
        bench.at(0).ask(4_000).at(1).down(149, EVENT_STREAM);
        bench
            .at(301)
            .down(4_000, TOKEN)
            .at(321)
            .down(4_000, DownFacts::DATA);
        bench
            .at(322)
            .down(19, DownFacts::END)
            .at(400)
            .ask(200)
            .at(410)
            .down_with(3_000, OF_LENGTH, 5, 0);
        (bench.latencies(), bench.outcomes(), bench.chunks, bench.finished)
    };
    assert_eq!(play(Path::Eager), play(Path::Packets(1_448)));
}

#[test]
fn nothing_counts_after_the_end() {
    let mut bench = Bench::plain(Vantage::Server);
    bench.at(0).ask(300).at(1).end(End::Closed);
    let finished = bench.finished.len();
    bench
        .at(2)
        .ask(300)
        .down(400, EVENT_STREAM.with(TOKEN))
        .fin()
        .settle();
    bench
        .step(|meter, _, effects| meter.recognise(Wire::Http2, effects))
        .step(|meter, _, effects| meter.stream_opened(1, effects));
    assert_eq!((bench.in_flight, bench.load), (0, 0));
    bench
        .step(|meter, _, effects| meter.recognise(Wire::Other, effects))
        .end(End::Reset);
    assert_eq!((bench.finished.len(), bench.ambiguous), (finished, 0));
}

#[test]
fn a_marker_that_came_before_the_data_was_read_is_data_only_if_it_is_read_with_it() {
    let marker = DownFacts::MARKER.with(DownFacts::AFTER_DATA);
    let cases: [(&[u32], u32); 4] = [
        (&[250], 2),
        (&[200, 50], 2),
        (&[120, 130], 2),
        (&[120, 80, 50], 3),
    ];
    for (reads, chunks) in cases {
        let mut bench = Bench::plain(Vantage::Client);
        bench.at(0).ask(300);
        bench.at(100).down_with(400, EVENT_STREAM.with(TOKEN), 2, 0);
        // 200 bytes of data need no facts, and the marker's packet comes before the read of them has ended.
        bench.at(200).down_packet(250, marker);
        for (ms, bytes) in (200..).step_by(5).zip(reads) {
            bench.at(ms).down_bytes(*bytes);
        }
        assert_eq!(bench.meter.exchange.chunks, chunks, "{reads:?}");
    }
}
