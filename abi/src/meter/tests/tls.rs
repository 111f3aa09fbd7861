// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! TLS: what timing and sizes decide, and what they leave out.

use super::*;

/// A stream with early headers: the prefill takes 300 ms and a token 20 ms.
fn stream(bench: &mut Bench, start: u64, tokens: u64) -> u64 {
    bench.at(start).ask(800).at(start + 1).down(149, EVENT_STREAM);
    for token in 0..tokens {
        bench.at(start + 301 + 20 * token).down(250, DownFacts::DATA);
    }
    start + 301 + 20 * tokens
}

#[test]
fn a_handshake_is_no_request() {
    for tickets in [0, MeterFlags::TICKETS, MeterFlags::TLS12] {
        let bench = Bench::tls_with(Vantage::Server, tickets);
        assert_eq!(
            (bench.phase(), bench.latencies()),
            (Phase::Fresh, [vec![], vec![], vec![]])
        );
        assert_eq!(
            (bench.meter.bytes_up, bench.meter.bytes_down),
            (597, 2_300),
            "its bytes count"
        );
    }
}

#[test]
fn the_end_of_a_handshake_may_share_a_read_with_the_request() {
    let mut bench = Bench::plain(Vantage::Server);
    bench.step(|meter, _, effects| meter.recognise(Wire::TlsHandshake, effects));
    bench
        .step(|meter, now, effects| meter.up(517, now, effects))
        .step(|meter, now, effects| meter.down(2_300, now, effects));
    bench.step(|meter, _, effects| meter.handshake_done(FIRST_SEQ.wrapping_add(597), true, effects));
    bench
        .at(5)
        .step(|meter, now, effects| meter.up(80 + 822, now, effects));
    assert_eq!((bench.phase(), bench.held_bytes), (Phase::Request, 822));
}

#[test]
fn a_request_before_the_packet_that_ends_the_handshake_is_begun() {
    let mut bench = Bench::plain(Vantage::Client);
    bench.step(|meter, _, effects| meter.recognise(Wire::TlsHandshake, effects));
    bench
        .up_bytes(517)
        .at(1)
        .down_bytes(2_300)
        .at(2)
        .up_bytes(80)
        .at(3)
        .up_bytes(822);
    bench.step(|meter, _, effects| meter.handshake_done(FIRST_SEQ.wrapping_add(597), false, effects));
    assert_eq!((bench.phase(), bench.held_bytes), (Phase::Request, 822));
    bench.at(43).down(900, OF_LENGTH);
    assert_eq!(bench.latencies()[0], [40]);
}

#[test]
fn session_tickets_are_no_first_byte() {
    let mut bench = Bench::tls_with(Vantage::Server, MeterFlags::TICKETS);
    bench.at(0).ask(800).at(1).down_bytes(560);
    bench.at(5_000).settle();
    assert_eq!(
        (bench.phase(), bench.in_flight),
        (Phase::Response, 1),
        "tickets are no complete response"
    );
    bench.at(5_001).down(149, EVENT_STREAM);
    for ms in [5_021, 5_041, 5_061] {
        bench.at(ms).down(250, DownFacts::DATA);
    }
    assert_eq!(bench.latencies()[..2], [vec![], vec![5_001]]);
    let next = 6_000;
    bench.at(next).ask(800).at(next + 7).down(149, EVENT_STREAM);
    assert_eq!(bench.latencies()[0], [7], "only the first exchange meets tickets");
}

#[test]
fn a_short_last_write_ends_a_stream() {
    let mut bench = Bench::tls(Vantage::Server);
    let end = stream(&mut bench, 0, 6);
    bench.at(end).down(24, DownFacts::END);
    assert_eq!(
        (bench.phase(), bench.in_flight, bench.load, bench.held_bytes),
        (Phase::Tail, 0, 0, 0)
    );
    bench.at(end + 900).settle();
    assert_eq!(bench.finished.len(), 0);
    bench.at(end + 1_000).settle();
    assert_eq!(
        (bench.outcomes(), bench.phase()),
        (vec![Outcome::Success], Phase::Idle)
    );
    assert_eq!(
        bench.finished[0].end_ns,
        EPOCH + end * MS,
        "quiet is no part of its duration"
    );
    assert_eq!(bench.latencies(), [vec![1], vec![301], vec![20; 5]]);
    assert_eq!(bench.chunks, 6);
}

#[test]
fn a_coalesced_terminator_leaves_the_end_to_the_next_request() {
    let mut bench = Bench::tls(Vantage::Client);
    let end = stream(&mut bench, 0, 6);
    bench.at(end).down(269, DownFacts::DATA.with(DownFacts::END));
    bench.at(end + 5_000).settle();
    assert_eq!((bench.phase(), bench.in_flight), (Phase::Response, 1));
    bench.at(end + 9_000).ask(800);
    assert_eq!((bench.outcomes(), bench.in_flight), (vec![Outcome::Success], 1));
    assert_eq!(bench.finished[0].end_ns, EPOCH + end * MS);
}

#[test]
fn a_heartbeat_between_tokens_is_taken_back() {
    let mut bench = Bench::tls(Vantage::Server);
    let end = stream(&mut bench, 0, 6);
    bench.at(end).down(27, HEARTBEAT);
    assert_eq!(bench.phase(), Phase::Tail);
    bench.at(end + 5).down(250, DownFacts::DATA);
    assert_eq!(
        (bench.phase(), bench.in_flight, bench.held_bytes),
        (Phase::Response, 1, 822)
    );
    bench.at(end + 20).down(27, HEARTBEAT);
    assert_eq!(
        bench.phase(),
        Phase::Response,
        "its size ends this response no more"
    );
    assert_eq!((bench.chunks, bench.latencies()[2].last()), (7, Some(&25)));
}

#[test]
fn heartbeats_in_the_prefill_are_no_token() {
    let mut bench = Bench::tls(Vantage::Server);
    bench.at(0).ask(800).at(1).down(149, EVENT_STREAM);
    bench
        .at(15_000)
        .down(58, HEARTBEAT)
        .at(30_000)
        .down(58, HEARTBEAT);
    bench.at_ns(30_000 * MS + 500_000).down(250, DownFacts::DATA);
    for ms in [30_020, 30_040] {
        bench.at(ms).down(250, DownFacts::DATA);
    }
    assert_eq!(bench.latencies(), [vec![1], vec![30_000], vec![19, 20]]);
}

#[test]
fn the_header_of_a_record_may_be_read_by_itself() {
    let mut bench = Bench::tls(Vantage::Client);
    bench.at(0).ask(800);
    let mut record = |ms, bytes: u32| {
        bench.at(ms).down_bytes(5).down_bytes(bytes + TLS_BYTES - 5);
        bench.phase()
    };
    record(1, 149);
    for token in 0..6 {
        assert_eq!(record(301 + 20 * token, 250), Phase::Response);
    }
    assert_eq!(record(420, 24), Phase::Tail);
    bench.end(End::Closed);
    assert_eq!(bench.latencies(), [vec![1], vec![301], vec![20; 5]]);
    assert_eq!((bench.outcomes(), bench.chunks), (vec![Outcome::Success], 6));
    assert_eq!(bench.finished[0].response_bytes, 171 + 6 * 272 + 46);
}

#[test]
fn a_quiet_reply_in_one_burst_is_complete() {
    let mut bench = Bench::tls(Vantage::Client);
    bench.at(0).ask(800).at(40).down(900, OF_LENGTH);
    bench.at(1_039).settle();
    assert_eq!((bench.phase(), bench.in_flight), (Phase::Response, 1));
    bench.at(1_040).settle();
    assert_eq!((bench.outcomes(), bench.in_flight), (vec![Outcome::Success], 0));
    assert_eq!(bench.latencies(), [vec![40], vec![], vec![]]);
}

#[test]
fn quiet_headers_and_quiet_streams_are_not_complete() {
    let mut bench = Bench::tls(Vantage::Client);
    bench
        .at(0)
        .ask(800)
        .at(1)
        .down(149, EVENT_STREAM)
        .at(20_000)
        .settle();
    assert_eq!((bench.phase(), bench.in_flight), (Phase::Response, 1));
    let mut bench = Bench::tls(Vantage::Client);
    let end = stream(&mut bench, 0, 6);
    bench.at(end + 600_000).settle();
    assert_eq!(
        (bench.phase(), bench.in_flight),
        (Phase::Response, 1),
        "a stall is no end"
    );
}

#[test]
fn a_reply_that_was_not_complete_makes_its_socket_ambiguous() {
    let mut bench = Bench::tls(Vantage::Server);
    bench
        .at(0)
        .ask(800)
        .at(1)
        .down(900, EVENT_STREAM)
        .at(2_000)
        .settle();
    assert_eq!(bench.finished.len(), 1);
    bench
        .at(9_000)
        .down(250, DownFacts::DATA)
        .at(9_020)
        .down(250, DownFacts::DATA);
    assert_eq!(
        (bench.phase(), bench.ambiguous, bench.in_flight),
        (Phase::Opaque, 1, 0)
    );
    assert!(bench.first_tokens.is_empty() && bench.gaps.is_empty());
}

#[test]
fn alerts_are_neither_request_nor_response() {
    let mut bench = Bench::tls(Vantage::Client);
    bench.at(0).up_bytes(24).up_bytes(31);
    assert_eq!(bench.in_flight, 0);
    bench.at(1).ask(800).at(2).down_bytes(24);
    assert_eq!((bench.phase(), bench.first_bytes.len()), (Phase::Request, 0));
}

#[test]
fn http2_under_tls_is_opaque_by_its_settings() {
    let flags = MeterFlags::TICKETS | MeterFlags::OFFERS_HTTP2;
    for acknowledgement in [31, 44] {
        let mut bench = Bench::tls_with(Vantage::Client, flags);
        bench
            .at(0)
            .up_bytes(190)
            .at(1)
            .down_bytes(58)
            .up_bytes(acknowledgement);
        bench
            .at(300)
            .down_bytes(300)
            .at(320)
            .down_bytes(300)
            .at(340)
            .down_bytes(300)
            .up_bytes(120);
        bench.assert_ambiguous();
        assert_eq!((bench.meter.wire, bench.load), (Wire::TlsHttp2 as u8, 1));
        assert!(bench.finished.is_empty());
    }
}

#[test]
fn a_frame_between_two_requests_is_http2() {
    let mut bench = Bench::tls_with(Vantage::Client, MeterFlags::TICKETS | MeterFlags::OFFERS_HTTP2);
    bench
        .at(0)
        .ask(800)
        .at(1)
        .down(3_000, OF_LENGTH)
        .at(2_000)
        .settle();
    assert_eq!(bench.phase(), Phase::Idle);
    bench.at(3_000).up_bytes(35);
    assert_eq!(
        (bench.phase(), bench.meter.wire),
        (Phase::Opaque, Wire::TlsHttp2 as u8)
    );
}

#[test]
fn chunks_whose_framing_has_writes_of_its_own_are_one_stream() {
    let mut bench = Bench::tls(Vantage::Server);
    bench.at(0).ask(800).at(1).down(149, EVENT_STREAM);
    for token in 0..8 {
        bench
            .at(301 + 20 * token)
            .down(5, HEARTBEAT)
            .down(250, DownFacts::DATA)
            .down(2, HEARTBEAT);
        // Until a short write has been followed by more, it may have been the last.
        let known = token < 2 || bench.phase() == Phase::Response;
        assert!(known, "token {token}");
    }
    assert_eq!(bench.latencies(), [vec![1], vec![301], vec![20; 7]]);
    assert_eq!((bench.chunks, bench.in_flight), (8, 1));
}

#[test]
fn a_short_write_inside_an_emission_is_learned_too() {
    let mut bench = Bench::tls(Vantage::Server);
    let end = stream(&mut bench, 0, 6);
    bench.at(end).down(250, DownFacts::DATA).down(2, HEARTBEAT);
    assert_eq!(bench.phase(), Phase::Tail);
    bench.down(250, DownFacts::DATA).down(2, HEARTBEAT);
    assert_eq!((bench.phase(), bench.chunks), (Phase::Response, 7));
}

#[test]
fn the_earliest_gap_of_about_the_largest_ones_size_is_the_prefill() {
    for (gaps, first_token) in [
        ([1, 300, 20, 20], 301),
        ([300, 20, 20, 20], 300),
        ([1, 4, 300, 20], 305),
        ([2, 2, 2, 300], 306),
        ([200, 250, 20, 20], 200),
        ([20, 20, 20, 39], 20),
        ([1, 19, 20, 20], 20),
    ] {
        let mut bench = Bench::tls(Vantage::Server);
        bench.at(0).ask(800);
        let mut now = 0;
        for gap in gaps {
            now += gap;
            bench.at(now).down(250, DownFacts::DATA);
        }
        assert_eq!(bench.latencies()[1], [first_token], "{gaps:?}");
        let after: u64 = bench.latencies()[2].iter().sum();
        assert_eq!(
            first_token + after,
            now,
            "{gaps:?}: what is not prefill is between tokens"
        );
    }
}

#[test]
fn a_stall_of_twice_the_prefill_among_the_first_emissions_is_taken_for_it() {
    let mut bench = Bench::tls(Vantage::Server);
    bench.at(0).ask(800);
    for ms in [100, 120, 140, 640] {
        bench.at(ms).down(250, DownFacts::DATA);
    }
    assert_eq!(bench.latencies(), [vec![100], vec![640], vec![]]);
}

#[test]
fn a_client_that_offers_http2_and_gets_http1_is_metered() {
    for (flags, alert) in [(MeterFlags::TICKETS, 24), (MeterFlags::TLS12, 31)] {
        let mut bench = Bench::tls_with(Vantage::Client, flags | MeterFlags::OFFERS_HTTP2);
        stream(&mut bench, 0, 6);
        bench.at(500).up_bytes(alert).end(End::Closed);
        assert_eq!(
            (bench.ambiguous, bench.cancels()),
            (0, vec![Cancel::DecodeFin]),
            "an alert is no frame"
        );
        assert_eq!(bench.latencies()[1], [301]);
    }
}

#[test]
fn alpn_that_is_seen_decides() {
    let mut bench = Bench::plain(Vantage::Client);
    bench
        .step(|meter, _, effects| meter.recognise(Wire::TlsHttp2, effects))
        .at(1)
        .up_bytes(800)
        .at(2)
        .down_bytes(800);
    bench.assert_ambiguous();
    assert_eq!(Wire::from_raw(bench.meter.wire).label(), "tls_http2");
}

#[test]
fn requests_beyond_two_gibibytes_are_seen() {
    let mut bench = Bench::tls(Vantage::Server);
    for round in 0..3 {
        bench
            .at(round * 10_000)
            .up_bytes(1 << 30)
            .at(round * 10_000 + 5)
            .down(900, OF_LENGTH);
    }
    assert_eq!((bench.finished.len(), bench.first_bytes.len()), (2, 3));
}

/// What was read ends with a record of `record` bytes.
fn read_to_record(bench: &mut Bench, bytes: u32, record: u16) {
    let mark = bench.meter.down_seq.wrapping_add(bytes);
    bench.step(|meter, _, effects| meter.note_down(DownFacts::RECORD, mark, 0, 0, record, effects));
    bench.down_bytes(bytes);
}

#[test]
fn a_last_record_that_is_read_with_others_ends_a_stream() {
    let mut bench = Bench::tls(Vantage::Client);
    bench.at(0).ask(800).at(300).down_bytes(600);
    for token in 1..5 {
        bench.at(300 + 20 * token);
        read_to_record(&mut bench, 291, 291);
    }
    bench.at(400);
    read_to_record(&mut bench, 291 + 41 + 27, 27);
    assert_eq!((bench.phase(), bench.in_flight), (Phase::Tail, 0));
    bench.at(5_000).settle();
    assert_eq!(bench.outcomes(), [Outcome::Success]);
}

#[test]
fn an_end_of_another_size_than_the_heartbeats_is_told() {
    let mut bench = Bench::tls(Vantage::Server);
    bench
        .at(0)
        .ask(800)
        .at(300)
        .down_bytes(600)
        .at(320)
        .down_bytes(291)
        .at(340)
        .down_bytes(291);
    bench.at(345).down_bytes(35);
    assert_eq!(bench.phase(), Phase::Tail, "nobody can know yet");
    bench.at(360).down_bytes(291).at(365).down_bytes(35);
    assert_eq!(bench.phase(), Phase::Response, "a heartbeat of a known size");
    bench
        .at(380)
        .down_bytes(291)
        .at(381)
        .down_bytes(41)
        .down_bytes(27);
    assert_eq!((bench.phase(), bench.in_flight), (Phase::Tail, 0));
}

#[test]
fn a_client_need_not_wait_for_the_end_of_a_tls_stream() {
    for (record, outcome) in [(35, Outcome::Success), (291, Outcome::Canceled)] {
        let mut bench = Bench::tls(Vantage::Client);
        bench
            .at(0)
            .ask(800)
            .at(300)
            .down_bytes(600)
            .at(320)
            .down_bytes(291)
            .at(340)
            .down_bytes(291);
        // The heartbeats are of the size of the end.
        bench
            .at(345)
            .down_bytes(35)
            .at(360)
            .down_bytes(291)
            .at(380)
            .down_bytes(291)
            .at(381);
        read_to_record(&mut bench, u32::from(record), record);
        bench.at(382).end(End::Closed);
        assert_eq!(bench.outcomes(), [outcome], "{record}");
    }
}

#[test]
fn what_waits_to_be_read_is_not_quiet() {
    let mut bench = Bench::tls(Vantage::Client);
    bench.at(0).ask(800).at(300).down_bytes(600);
    bench.meter.down_parsed = bench.meter.down_seq.wrapping_add(580);
    bench.at(3_000).settle();
    assert_eq!((bench.phase(), bench.in_flight), (Phase::Response, 1));
}

#[test]
fn session_tickets_between_head_and_body_are_no_answer() {
    for vantage in [Vantage::Server, Vantage::Client] {
        let mut bench = Bench::tls_with(vantage, MeterFlags::TICKETS);
        bench
            .at(0)
            .up_bytes(542)
            .at(1)
            .down_bytes(510)
            .at(2)
            .up_bytes(162);
        assert_eq!(
            (bench.phase(), bench.in_flight, bench.held_bytes),
            (Phase::Request, 1, 704),
            "{vantage:?}"
        );
        bench
            .at(302)
            .down_bytes(400)
            .at(322)
            .down_bytes(291)
            .at(342)
            .down_bytes(291)
            .at(343)
            .down_bytes(27);
        assert_eq!(bench.phase(), Phase::Tail);
        bench.at(5_000).settle();
        assert_eq!((bench.outcomes(), bench.chunks), (vec![Outcome::Success], 3));
        assert_eq!(bench.latencies()[1], [300]);
    }
}
