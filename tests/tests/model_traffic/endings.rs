// SPDX-License-Identifier: Apache-2.0
//! Exchanges that do not end as they should.

use std::time::Duration;

use nodemesh_e2e::{
    load::{Failure, How, observation},
    truth::{Outcome, Phase},
};
use serde_json::json;

use crate::pair::{Pair, Tls};

const MS: Duration = Duration::from_millis(1);

/// A way for clients to go away, and what it is to the server.
struct Way {
    how: How,
    phase: Phase,
    half_close: &'static str,
    outcome: Outcome,
}

const fn way(how: How, phase: Phase, half_close: &'static str, outcome: Outcome) -> Way {
    Way {
        how,
        phase,
        half_close,
        outcome,
    }
}

const WAYS: [Way; 10] = [
    way(How::Fin, Phase::Prefill, "cancel", Outcome::ClientFin),
    way(How::Fin, Phase::Decode, "cancel", Outcome::ClientFin),
    way(How::Rst, Phase::Prefill, "cancel", Outcome::ClientRst),
    way(How::Rst, Phase::Decode, "cancel", Outcome::ClientRst),
    way(How::Kill, Phase::Prefill, "cancel", Outcome::ClientFin),
    way(How::Kill, Phase::Decode, "cancel", Outcome::ClientRst),
    way(How::HalfClose, Phase::Prefill, "cancel", Outcome::ClientFin),
    way(How::HalfClose, Phase::Decode, "cancel", Outcome::ClientFin),
    way(How::HalfClose, Phase::Prefill, "serve", Outcome::HalfClose),
    way(How::HalfClose, Phase::Decode, "serve", Outcome::HalfClose),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_give_up_is_told_alike_by_both_ends() {
    for tls in Tls::ALL {
        for way in &WAYS {
            // A client that dies with the tickets of TLS 1.3 unread sends a RST, one that has read them a FIN.
            if tls != Tls::V13 || (way.how, way.phase) != (How::Kill, Phase::Prefill) {
                give_up(tls, way).await;
            }
        }
    }
}

async fn give_up(tls: Tls, way: &Way) {
    let (cancel, phase) = (word(way.how), word(way.phase));
    let what = format!("{tls:?} {cancel} in {phase}, {}", way.half_close);
    // Long enough for a client on a busy machine to be early.
    let prefill = if way.phase == Phase::Prefill { 500 } else { 20 };
    let server = format!(
        "--prefill {prefill}ms --inter-token 20ms --half-close {}",
        way.half_close
    );
    let pair = Pair::start(tls, &server);
    let run = pair
        .run(&format!(
            "--requests 8 --concurrency 8 --max-tokens 30 --cancel {cancel} --cancel-share 1 \
             --cancel-phase {phase} --cancel-after 50ms..100ms"
        ))
        .await;
    let requests = &run.report.requests;
    let expected = if way.outcome == Outcome::HalfClose {
        (8, 0)
    } else {
        (0, 8)
    };
    assert_eq!(
        (requests.ok, requests.cancelled),
        expected,
        "{what}: {:?}",
        run.report
    );
    for (truth, seen) in &run.both {
        run.agree(truth, seen, &what);
        assert_eq!(
            (truth.outcome, truth.phase()),
            (way.outcome, way.phase),
            "{what}: {truth:?}"
        );
        let (how, gone) = seen.cancel.expect("cancelled");
        assert_eq!(how, way.how, "{what}");
        assert!(
            truth.client_left_ns >= Some(gone),
            "{what}: the effect follows the cause"
        );
    }
    let counts = pair.requests().await;
    let named = match way.outcome {
        Outcome::ClientFin => &counts["cancelled"][&phase]["fin"],
        Outcome::ClientRst => &counts["cancelled"][&phase]["rst"],
        _ => &counts["half_closed"],
    };
    // A RST takes back a request that a busy server has not read yet; then it never began.
    let began = run.both.len();
    assert!(
        began == 8 || began >= 4 && way.how == How::Rst,
        "{what}: {began} began"
    );
    let counted = (named, &counts["open"], &counts["started"]);
    assert_eq!(
        counted,
        (&json!(began), &json!(0), &json!(began)),
        "{what}: {counts}"
    );
}

/// As the command line and `/control` spell it.
fn word(value: impl serde::Serialize) -> String {
    let word = serde_json::to_value(value).expect("an enum");
    word.as_str().expect("without fields").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mix_of_cancellations_spares_the_rest_and_can_be_repeated() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let pair = Pair::start(Tls::None, "--prefill 60ms --inter-token 5ms");
        let run = pair
            .run("--requests 200 --concurrency 50 --max-tokens 40 --cancel mix --cancel-share 0.5 --seed 7")
            .await;
        let (ok, cancelled) = (run.report.requests.ok, run.report.requests.cancelled);
        assert_eq!((ok + cancelled, run.both.len()), (200, 200), "{:?}", run.report);
        assert!(
            (60..140).contains(&cancelled),
            "{cancelled} of 200, half of them wanted"
        );
        for (truth, seen) in &run.both {
            run.agree(truth, seen, "mix");
            assert_eq!(
                truth.outcome.is_cancel(),
                seen.cancel.is_some(),
                "{truth:?} {seen:?}"
            );
        }
        let mut ways: Vec<_> = run
            .both
            .iter()
            .map(|(_, seen)| (seen.id.clone(), seen.cancel.map(|(how, _)| how)))
            .collect();
        ways.sort();
        runs.push(ways);
    }
    assert_eq!(runs[0], runs[1], "the seed decides");
    for how in [How::Fin, How::Rst, How::HalfClose, How::Kill] {
        assert!(
            runs[0].iter().any(|(_, way)| *way == Some(how)),
            "{how:?} is in the mix"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_breaks_off_is_told_alike_by_both_ends() {
    for tls in Tls::ALL {
        for (failure, outcome, seen_as, tokens) in [
            ("truncate", Outcome::ServerFin, Failure::Truncated, 4),
            ("reset", Outcome::ServerRst, Failure::Reset, 4),
            ("close-early", Outcome::ServerFin, Failure::Truncated, 0),
            ("reset-early", Outcome::ServerRst, Failure::Reset, 0),
        ] {
            let what = format!("{tls:?} {failure}");
            let pair = Pair::start(
                tls,
                &format!(
                    "--prefill 10ms --inter-token 10ms --failure {failure} --failure-after 4 --failure-share 0.5"
                ),
            );
            let run = pair
                .run("--requests 40 --concurrency 8 --max-tokens 8 --mode keep-alive")
                .await;
            let broken: Vec<_> = run
                .both
                .iter()
                .filter(|(truth, _)| truth.outcome == outcome)
                .collect();
            assert!(
                (8..33).contains(&broken.len()),
                "{what}: {} of 40 broken off, half of them wanted",
                broken.len()
            );
            assert_eq!(
                run.report.requests.failed[&seen_as],
                broken.len() as u64,
                "{what}: {:?}",
                run.report
            );
            assert_eq!(
                run.report.requests.ok + run.report.failures(),
                40,
                "{what}: {:?}",
                run.report
            );
            for (truth, seen) in &run.both {
                run.agree(truth, seen, &what);
            }
            for (truth, seen) in broken {
                assert_eq!(seen.outcome, observation::Outcome::Failed(seen_as), "{what}");
                assert_eq!(truth.emissions_ns.len(), tokens, "{what}: {truth:?}");
                assert_eq!(truth.client_left_ns, None, "{what}: nobody else closed");
            }
            let counts = pair.requests().await;
            let way = if outcome == Outcome::ServerFin {
                "fin"
            } else {
                "rst"
            };
            assert_eq!(
                counts["truncated"][way],
                run.report.failures(),
                "{what}: {counts}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_stream_is_silent_until_it_thaws() {
    for tls in [Tls::None, Tls::V13] {
        let pair = Pair::start(
            tls,
            "--prefill 2ms --inter-token 2ms --heartbeat 10ms --early-headers=headers",
        );
        pair.control(&json!({"failure": "freeze", "failure_after": 5}))
            .await;
        let running = pair.spawn("--requests 3 --concurrency 3 --max-tokens 20");
        pair.requests_until(|counts| counts["open"] == 3).await;
        // Silence shows only in time.
        tokio::time::sleep(300 * MS).await;
        let counts = pair.control(&json!({"failure": "none"})).await["state"]["requests"].clone();
        assert_eq!(
            (&counts["open"], &counts["complete"]),
            (&json!(3), &json!(0)),
            "{counts}"
        );
        let run = running.ended().await;
        assert_eq!(
            (run.report.requests.ok, run.both.len()),
            (3, 3),
            "{:?}",
            run.report
        );
        for (truth, seen) in &run.both {
            run.agree(truth, seen, &format!("{tls:?}"));
            let gaps = truth.gaps();
            assert!(gaps[4] > 200 * MS, "after 5 tokens: {gaps:?}");
            let frozen = truth.emissions_ns[4]..truth.emissions_ns[4] + 200_000_000;
            let beats = truth
                .heartbeats_ns
                .iter()
                .filter(|beat| frozen.contains(beat))
                .count();
            assert_eq!(beats, 0, "a frozen server writes nothing: {truth:?}");
        }
    }
}
