// SPDX-License-Identifier: Apache-2.0
//! The model server and the load client against each other, without a mesh: what the server calls the truth and what the client
//! saw are the same exchanges. Everything that measures the meter rests on this.

#[path = "model_traffic/endings.rs"]
mod endings;
#[path = "model_traffic/pair.rs"]
mod pair;

use std::time::Duration;

use nodemesh_e2e::{
    load::Failure,
    truth::{Exchange, Outcome},
};

use pair::{Pair, Tls, flags};

const MS: Duration = Duration::from_millis(1);

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_of_a_stream_is_told_alike_by_both_ends() {
    for tls in Tls::ALL {
        for (shape, emissions) in [
            ("--early-headers=none", 9),
            ("--early-headers=headers", 9),
            ("--early-headers=prelude", 9),
            ("--early-headers=headers --heartbeat 7ms", 9),
            ("--tokens-per-write 4", 3),
            ("--tail coalesced", 9),
            ("--tail split --early-headers=prelude --heartbeat 5ms", 9),
            ("--whole", 1),
        ] {
            let pair = Pair::start(tls, &format!("--prefill 30ms --inter-token 10ms {shape}"));
            let run = pair.run("--requests 6 --concurrency 3 --max-tokens 9").await;
            let what = format!("{tls:?} {shape}");
            assert_eq!(
                (run.report.requests.ok, run.both.len()),
                (6, 6),
                "{what}: {:?}",
                run.report
            );
            for (truth, seen) in &run.both {
                run.agree(truth, seen, &what);
                assert_eq!(truth.outcome, Outcome::Complete, "{what}");
                assert_eq!(truth.emissions_ns.len(), emissions, "{what}: {truth:?}");
                let early = shape.contains("early-headers=headers") || shape.contains("prelude");
                assert_eq!(
                    truth.first_byte_ns < truth.first_token_ns,
                    early,
                    "{what}: {truth:?}"
                );
                assert!(truth.ttft() >= Some(30 * MS), "{what}: {truth:?}");
                assert_eq!(
                    truth.emissions_ns.last() == truth.last_write_ns.as_ref(),
                    shape.contains("coalesced") || shape.contains("whole"),
                    "{what}: {truth:?}"
                );
                let beats = shape.contains("heartbeat");
                assert_eq!(truth.heartbeats_ns.is_empty(), !beats, "{what}: {truth:?}");
                if !beats {
                    let ends = [early, !shape.contains("coalesced") && !shape.contains("whole")];
                    let apart = ends.iter().filter(|&&apart| apart).count() as u64;
                    assert_eq!(
                        truth.writes,
                        emissions as u64 + apart,
                        "{what}: one system call per write"
                    );
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_a_connection_are_numbered_and_gaps_are_kept() {
    for tls in Tls::ALL {
        let pair = Pair::start(tls, "--prefill 5ms --inter-token 2ms");
        let run = pair
            .run(
                "--mode keep-alive --requests 24 --concurrency 2 --max-tokens 3 --prompt-bytes 200000 \
                 --keep-alive-gap 20ms..40ms --requests-per-connection 4",
            )
            .await;
        assert_eq!(
            (run.report.requests.ok, run.both.len()),
            (24, 24),
            "{:?}",
            run.report
        );
        assert!(
            run.report.connections >= 6,
            "four requests each: {:?}",
            run.report
        );
        for (truth, seen) in &run.both {
            run.agree(truth, seen, &format!("{tls:?}"));
            assert!(truth.request_bytes > 200_000 && seen.sequence <= 4, "{truth:?}");
            let ahead = run
                .both
                .iter()
                .find(|(other, _)| other.peer == truth.peer && other.sequence + 1 == truth.sequence);
            if let Some((ahead, _)) = ahead {
                let gap = truth.request_first_ns - ahead.ended_ns;
                assert!(gap >= 20_000_000, "a gap of {gap} ns");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blind_client_meets_a_connection_that_the_server_has_closed() {
    let pair = Pair::start(Tls::None, "--prefill 2ms --inter-token 1ms --idle-timeout 50ms");
    let run = pair
        .run("--mode keep-alive --requests 6 --max-tokens 2 --keep-alive-gap 300ms --blind")
        .await;
    assert_eq!(
        (run.report.requests.ok, run.report.failures()),
        (3, 3),
        "every other one: {:?}",
        run.report
    );
    assert_eq!(run.both.len(), 3, "the server never saw the others");
    for seen in run.unanswered() {
        assert_eq!(
            (seen.sequence, seen.response_bytes, seen.first_byte_ns),
            (2, 0, None),
            "{seen:?}"
        );
        assert!(seen.request_bytes > 0, "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    for tls in Tls::ALL {
        let pair = Pair::start(tls, "--prefill 20ms --inter-token 5ms");
        let run = pair
            .run("--mode keep-alive --pipeline 2 --requests 8 --concurrency 2 --max-tokens 4")
            .await;
        assert_eq!(
            (run.report.requests.ok, run.both.len()),
            (8, 8),
            "{:?}",
            run.report
        );
        let mut pipelined = 0;
        for (truth, seen) in &run.both {
            assert_eq!(seen.pipelined, seen.sequence % 2 == 0, "{seen:?}");
            pipelined += u32::from(truth.pipelined);
            if let Some((ahead, _)) = run.both.iter().find(|(other, _)| {
                seen.pipelined && other.peer == truth.peer && other.sequence + 1 == truth.sequence
            }) {
                assert!(truth.first_byte_ns > Some(ahead.ended_ns), "{truth:?} {ahead:?}");
            }
        }
        assert_eq!(pipelined, 4, "the server sees both at once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interim_response_is_no_first_byte() {
    for tls in Tls::ALL {
        let pair = Pair::start(tls, "--prefill 40ms --inter-token 5ms");
        let run = pair
            .run("--expect-continue --requests 4 --max-tokens 4 --prompt-bytes 50000 --mode keep-alive")
            .await;
        assert_eq!(
            (run.report.requests.ok, run.both.len()),
            (4, 4),
            "{:?}",
            run.report
        );
        for (truth, seen) in &run.both {
            run.agree(truth, seen, &format!("{tls:?}"));
            assert!(
                truth.interim_ns.is_some() && truth.interim_ns <= seen.interim_ns,
                "{truth:?} {seen:?}"
            );
            assert!(
                truth.request_last_ns > truth.interim_ns,
                "the body follows: {truth:?}"
            );
            assert!(truth.ttfb() >= Some(40 * MS), "{truth:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_somebody_else_is_refused() {
    let (pair, other) = (Pair::start(Tls::V13, ""), Pair::start(Tls::V13, ""));
    let report = pair.client(&flags("--requests 2"), other.certificates()).await;
    assert_eq!(report.requests.failed[&Failure::TlsHandshake], 2, "{report:?}");
    assert_eq!(pair.requests().await["started"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_streams_at_once_all_agree() {
    let pair = Pair::start(
        Tls::None,
        "--prefill 300ms --inter-token 100ms --max-num-seqs 1000",
    );
    let run = pair
        .run("--requests 400 --concurrency 400 --max-tokens 10 --ramp 200ms --source 127.0.0.1 --source 127.0.0.2")
        .await;
    assert_eq!(
        (run.report.requests.ok, run.both.len()),
        (400, 400),
        "{:?}",
        run.report
    );
    for (truth, seen) in &run.both {
        run.agree(truth, seen, "hundreds");
        assert_eq!(truth.emissions_ns.len(), 10, "{truth:?}");
    }
    let open_at = |moment: u64| {
        let is_open = |truth: &&Exchange| truth.request_first_ns <= moment && moment < truth.ended_ns;
        run.both.iter().map(|(truth, _)| truth).filter(is_open).count()
    };
    let last_start = run
        .both
        .iter()
        .map(|(truth, _)| truth.request_first_ns)
        .max()
        .expect("hundreds");
    assert_eq!(open_at(last_start), 400, "all were open at once");
}
