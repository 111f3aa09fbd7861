// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Any events in any order: whatever happens, what is held adds up, and nothing is held after the end.

use proptest::{collection::vec, prelude::*};

use super::*;

/// Anything that the kernel programs may tell a meter.
#[derive(Clone, Debug)]
enum Event {
    Recognise(u8),
    HandshakeDone(u32, bool),
    Up(u32),
    Down(u32),
    NoteUp(u16, i32),
    NoteDown(u16, i32, u8, i32),
    Fin,
    Settle,
    Opened(u32),
    Sent(u32),
    Closed(u64),
    End(u8),
}

fn event() -> impl Strategy<Value = Event> {
    let bytes = prop_oneof![
        Just(5),
        Just(24),
        Just(31),
        1_u32..90,
        90_u32..3_000,
        1_u32..i32::MAX.unsigned_abs()
    ];
    let near = prop_oneof![-3_000..3_000_i32, any::<i32>()];
    prop_oneof![
        2 => (0_u8..7).prop_map(Event::Recognise),
        1 => (0_u32..2_000, any::<bool>()).prop_map(|(at, tickets)| Event::HandshakeDone(at, tickets)),
        8 => bytes.clone().prop_map(Event::Up),
        12 => bytes.clone().prop_map(Event::Down),
        4 => (0_u16..8, near.clone()).prop_map(|(facts, mark)| Event::NoteUp(facts, mark)),
        6 => (0_u16..1_024, near.clone(), 0_u8..6, near).prop_map(|(facts, mark, status, end)| Event::NoteDown(facts, mark, status, end)),
        1 => Just(Event::Fin),
        2 => Just(Event::Settle),
        2 => any::<u32>().prop_map(Event::Opened),
        2 => bytes.prop_map(Event::Sent),
        2 => any::<u64>().prop_map(Event::Closed),
        1 => (0_u8..12).prop_map(Event::End),
    ]
}

fn play(bench: &mut Bench, event: &Event) {
    bench.step(|meter, now, effects| {
        let (up, down) = (meter.up_seq, meter.down_seq);
        let streams = meter.phase == Phase::Streams as u8;
        match *event {
            Event::Recognise(number) => meter.recognise(Wire::from_raw(number), effects),
            Event::HandshakeDone(at, tickets) => meter.handshake_done(up.wrapping_add(at), tickets, effects),
            Event::Up(bytes) => meter.up(bytes, now, effects),
            Event::Down(bytes) => meter.down(bytes, now, effects),
            Event::NoteUp(facts, mark) => {
                meter.note_up(UpFacts(facts), up.wrapping_add_signed(mark), effects);
            }
            Event::NoteDown(facts, mark, status, end) => {
                let (mark, end) = (down.wrapping_add_signed(mark), down.wrapping_add_signed(end));
                meter.note_down(DownFacts(facts), mark, status, end, 0, effects);
            }
            Event::Fin => meter.peer_fin(),
            Event::Settle => meter.settle(now, effects),
            Event::Opened(stream) if streams => meter.stream_opened(stream, effects),
            Event::Sent(bytes) if streams && meter.open > 0 => meter.stream_request(bytes, effects),
            Event::Closed(bytes) if streams && meter.open > 0 => meter.stream_closed(bytes, effects),
            Event::End(0) => meter.end(End::Closed, 0, now, effects),
            Event::End(1) => meter.end(End::Aborted, 0, now, effects),
            Event::End(2) => meter.end(End::Reset, 0, now, effects),
            _ => {}
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// `Bench::apply` checks each step: sums equal what the meter holds, nothing is negative, no sample is longer than the
    /// connection lives. After the end nothing is held, whatever comes.
    #[test]
    fn any_events_add_up(
        server in any::<bool>(),
        flags in prop_oneof![Just(0), any::<u32>().prop_map(|flags| flags & !MeterFlags::ENDED)],
        before in vec((event(), 0_u64..3_000), 0..80),
        after in vec(event(), 0..20),
    ) {
        let vantage = if server { Vantage::Server } else { Vantage::Client };
        let mut bench = Bench::new(vantage, Path::Eager);
        bench.meter.flags = flags;
        let mut now = 0;
        for (event, wait) in &before {
            now += wait * MS / 4;
            bench.at_ns(now);
            play(&mut bench, event);
        }
        bench.end(End::Closed);
        let finished = bench.finished.len();
        for event in &after {
            play(&mut bench, event);
            prop_assert_eq!((bench.in_flight, bench.load, bench.held_bytes), (0, 0, 0));
        }
        // A request that is read after the client's reset.
        prop_assert!(bench.finished.len() <= finished + 1);
    }

    /// Whatever a socket did before it became ambiguous, it tells no latency and no outcome after.
    #[test]
    fn ambiguous_sockets_tell_nothing(before in vec(event(), 0..30), after in vec(event(), 0..40)) {
        let mut bench = Bench::plain(Vantage::Server);
        for event in &before {
            bench.now += MS;
            play(&mut bench, event);
        }
        bench.step(|meter, _, effects| meter.recognise(Wire::Other, effects));
        prop_assert_eq!(bench.phase(), Phase::Opaque);
        bench.meter.flags &= !MeterFlags::RESET_BETWEEN;
        let told = (bench.latencies(), bench.chunks, bench.finished.len(), bench.ambiguous);
        for event in &after {
            if !matches!(event, Event::Recognise(4)) {
                bench.now += MS;
                play(&mut bench, event);
            }
        }
        prop_assert_eq!((bench.latencies(), bench.chunks, bench.finished.len(), bench.ambiguous), told);
    }
}
