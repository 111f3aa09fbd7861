// SPDX-License-Identifier: Apache-2.0
//! Whole runs over loopback.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;

use super::{options, run};
use crate::load::drive;
use crate::load::report::Failure;
use crate::model_server::tests::start;

#[tokio::test]
async fn one_shot_requests_have_a_connection_each() {
    let (a, b) = (
        start(&["--prefill", "1ms", "--name", "a"]),
        start(&["--prefill", "1ms", "--name", "b"]),
    );
    let (a_url, b_url) = (format!("http://{}", a.address), format!("http://{}", b.address));
    let flags = [
        "--url",
        &a_url,
        "--url",
        &b_url,
        "--requests",
        "20",
        "--concurrency",
        "4",
        "--max-tokens",
        "3",
    ];
    let report = run(&flags).await;
    assert_eq!(
        (report.requests.ok, report.failures(), report.connections),
        (20, 0, 20),
        "{report:?}"
    );
    assert_eq!((report.tokens, report.in_flight), (60, 0));
    assert_eq!(
        (report.replicas["a"].requests, report.replicas["b"].requests),
        (10, 10)
    );
    assert_eq!(
        (report.replicas["a"].connections, report.replicas["a"].tokens),
        (10, 30)
    );
    assert_eq!(report.peer_addresses[&a.address.to_string()], 10);
    let latency = &report.latency;
    for (name, percentiles, count) in [
        ("connect", latency.connect, 20),
        ("ttfb", latency.ttfb, 20),
        ("ttft", latency.ttft, 20),
        ("itl", latency.itl, 40),
        ("e2e", latency.e2e, 20),
    ] {
        assert_eq!(
            percentiles.map(|percentiles| percentiles.count),
            Some(count),
            "{name}"
        );
    }
    let (ttft, e2e) = (latency.ttft.unwrap(), latency.e2e.unwrap());
    assert!(
        ttft.p50 >= 0.001 && e2e.p50 >= 0.040,
        "1 ms and 2 * 20 ms are the least: {ttft:?} {e2e:?}"
    );
}

#[tokio::test]
async fn kept_connections_carry_many_requests() {
    let server = start(&["--prefill", "1ms", "--inter-token", "1ms"]);
    let url = format!("http://{}", server.address);
    for stream in ["true", "false"] {
        let flags = [
            "--url",
            &url,
            "--mode",
            "keep-alive",
            "--requests",
            "30",
            "--concurrency",
            "3",
            "--max-tokens",
            "2",
        ];
        let report = run(&[&flags[..], &["--stream", stream, "--prompt-bytes", "100000"]].concat()).await;
        assert_eq!(
            (report.requests.ok, report.connections, report.tokens),
            (30, 3, 60),
            "{report:?}"
        );
        assert_eq!(report.replicas["r0"].connections, 3);
    }
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced() {
    let server = start(&["--prefill", "1ms", "--idle-timeout", "20ms"]);
    let url = format!("http://{}", server.address);
    let flags = [
        "--url",
        &url,
        "--mode",
        "keep-alive",
        "--requests",
        "4",
        "--max-tokens",
        "1",
        "--think",
        "200ms",
    ];
    let report = run(&flags).await;
    assert_eq!(
        (report.requests.ok, report.failures(), report.connections),
        (4, 0, 4),
        "{report:?}"
    );
}

#[tokio::test]
async fn failures_are_told_apart() {
    // Bound but not listening, so that no other test gets the port.
    let deaf = TcpSocket::new_v4().unwrap();
    deaf.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = deaf.local_addr().unwrap();
    let server = start(&["--prefill", "1ms", "--inter-token", "1ms"]);
    let cut = half_an_answer().await;
    for (control, address, failure) in [
        ("{}", closed, Failure::ConnectRefused),
        (r#"{"failure":"error"}"#, server.address, Failure::HttpStatus),
        (r#"{"failure":"reset"}"#, server.address, Failure::Reset),
        (r#"{"failure":"wedge"}"#, server.address, Failure::Timeout),
        (r#"{"failure":"wedge-decode"}"#, server.address, Failure::Timeout),
        ("{}", cut, Failure::Truncated),
    ] {
        server.control(control).await;
        for mode in ["one-shot", "keep-alive"] {
            let url = format!("http://{address}");
            let report = run(&[
                "--url",
                &url,
                "--mode",
                mode,
                "--requests",
                "2",
                "--timeout",
                "100ms",
            ])
            .await;
            assert_eq!(
                report.requests.failed[&failure], 2,
                "{failure:?}, {mode}: {report:?}"
            );
            assert_eq!(
                (report.failures(), report.requests.ok),
                (2, 0),
                "{failure:?}, {mode}: {report:?}"
            );
        }
    }
    server.metric("vllm:num_requests_running 0").await;
}

/// A server that closes in the middle of a chunked answer, without RST.
async fn half_an_answer() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"}") && stream.read_buf(&mut request).await.is_ok_and(|n| n > 0) {}
            let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\ndata: {}\r\n";
            stream.write_all(answer).await.expect("the client reads");
        }
    });
    address
}

#[tokio::test]
async fn intervals_add_up_to_the_final_report() {
    let server = start(&["--prefill", "1ms", "--inter-token", "5ms"]);
    let url = format!("http://{}", server.address);
    let flags = [
        "--url",
        &url,
        "--requests",
        "6",
        "--concurrency",
        "2",
        "--max-tokens",
        "20",
    ];
    let options = options(&[&flags[..], &["--report-interval", "50ms"]].concat());
    let (mut tokens, mut intervals) = (0, 0);
    let report = drive(options, std::future::pending(), |interval| {
        tokens += interval.tokens;
        intervals += 1;
        Ok(())
    });
    let report = report.await.unwrap();
    assert_eq!(report.tokens, 120);
    assert!(
        intervals >= 4,
        "three rounds of 95 ms have more than {intervals} intervals"
    );
    assert!(tokens > 60 && tokens <= 120, "{tokens} tokens in the intervals");
}

#[tokio::test]
async fn a_rate_is_kept_whatever_the_answers() {
    let server = start(&["--prefill", "50ms"]);
    let url = format!("http://{}", server.address);
    let flags = [
        "--url",
        &url,
        "--rate",
        "100",
        "--requests",
        "50",
        "--concurrency",
        "50",
        "--max-tokens",
        "1",
    ];
    let started = Instant::now();
    let report = run(&flags).await;
    assert!(
        started.elapsed() >= Duration::from_millis(490 + 50),
        "the last starts after 490 ms"
    );
    assert_eq!(report.latency.start_lag.map(|lag| lag.count), Some(50));
    assert_eq!(report.requests.ok, 50);
}

#[tokio::test]
async fn the_end_of_the_time_and_an_interrupt_cut_what_is_left() {
    let server = start(&["--prefill", "1h"]);
    let url = format!("http://{}", server.address);
    let report = run(&[
        "--url",
        &url,
        "--concurrency",
        "3",
        "--duration",
        "50ms",
        "--grace",
        "50ms",
    ])
    .await;
    assert_eq!(
        (report.requests.aborted, report.failures(), report.in_flight),
        (3, 0, 0),
        "{report:?}"
    );
    server.metric("vllm:num_requests_running 0").await;

    let (interrupt, interrupted) = oneshot::channel::<()>();
    let running = tokio::spawn(drive(
        options(&["--url", &url]),
        async { drop(interrupted.await) },
        |_| Ok(()),
    ));
    server.metric("vllm:num_requests_running 1").await;
    drop(interrupt);
    assert_eq!(running.await.unwrap().unwrap().requests.aborted, 1);
}
