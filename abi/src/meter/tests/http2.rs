// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! HTTP/2 in plaintext: what a connection holds for its streams.

use super::*;

fn connection() -> Bench {
    let mut bench = Bench::plain(Vantage::Server);
    bench.step(|meter, _, effects| meter.recognise(Wire::Http2, effects));
    assert_eq!(
        (bench.phase(), bench.load, bench.in_flight),
        (Phase::Streams, 0, 0)
    );
    bench
}

fn close(bench: &mut Bench, request_bytes: u64) {
    bench.step(|meter, _, effects| meter.stream_closed(request_bytes, effects));
}

#[test]
fn each_stream_is_a_request() {
    let mut bench = connection();
    for (stream, bytes) in [(1, 800), (3, 40), (5, 0)] {
        bench.step(|meter, _, effects| meter.stream_opened(stream, effects));
        bench.step(|meter, _, effects| meter.stream_request(bytes, effects));
    }
    assert_eq!((bench.in_flight, bench.load, bench.held_bytes), (3, 3, 840));
    close(&mut bench, 40);
    assert_eq!(
        (bench.in_flight, bench.held_bytes, bench.meter.requests),
        (2, 800, 1)
    );
    bench.end(End::Closed);
    assert_eq!(
        bench.dropped, 2,
        "streams that end with their connection are told"
    );
}

#[test]
fn byte_events_of_a_connection_are_no_exchange() {
    let mut bench = connection();
    bench
        .at(0)
        .up_bytes(900)
        .at(20)
        .down_bytes(500)
        .at(40)
        .down_bytes(500)
        .at(60)
        .up_bytes(900);
    assert_eq!(
        (bench.in_flight, bench.latencies()),
        (0, [vec![], vec![], vec![]])
    );
    assert_eq!((bench.meter.bytes_up, bench.meter.bytes_down), (1_800, 1_000));
}

#[test]
fn a_stream_that_is_closed_twice_goes_below_nothing() {
    let mut bench = connection();
    bench.step(|meter, _, effects| meter.stream_opened(1, effects));
    close(&mut bench, 5_000);
    close(&mut bench, 5_000);
    assert_eq!((bench.in_flight, bench.load, bench.held_bytes), (0, 0, 0));
}
