// SPDX-License-Identifier: Apache-2.0
//! A replica that misbehaves, and recovers.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::{DEADLINE, all, events, start, until};

#[tokio::test]
async fn a_wedged_replica_accepts_says_healthy_and_never_answers() {
    let server = start(&["--prefill", "1ms", "--early-headers", "--failure", "wedge"]);
    let mut open = server.chat(2).await;
    server.metric("vllm:num_requests_running 1").await;
    assert!(
        server
            .fetch("GET", "/health", "")
            .await
            .starts_with("HTTP/1.1 200")
    );
    silent(&mut open).await;
    let shown = server.control(r#"{"failure":"none"}"#).await;
    assert_eq!(shown["failure"], "none");
    assert!(
        all(&mut open).await.contains("[DONE]"),
        "the thaw answers what was open"
    );
}

#[tokio::test]
async fn a_wedge_takes_hold_of_requests_in_progress() {
    let server = start(&["--prefill", "1ms", "--inter-token", "2ms"]);
    let mut open = server.chat(500).await;
    until(&mut open, "\"content\":\" ").await;
    server.control(r#"{"failure":"wedge"}"#).await;
    silent(&mut open).await;
    server.metric("vllm:num_requests_running 1").await;
    server.control(r#"{"failure":"none"}"#).await;
    until(&mut open, "\"content\":\" ").await;
    drop(open);
    server.metric("vllm:num_requests_running 0").await;
}

#[tokio::test]
async fn a_replica_wedged_in_decode_stops_in_the_middle() {
    let server = start(&[
        "--prefill",
        "1ms",
        "--inter-token",
        "1ms",
        "--failure",
        "wedge-decode",
    ]);
    let mut open = server.chat(5).await;
    server.metric("vllm:generation_tokens_total 3").await;
    let mut answer = String::new();
    while answer.matches("\"content\":\" ").count() < 3 {
        answer += &until(&mut open, "\n\n").await;
    }
    silent(&mut open).await;
    server.control(r#"{"failure":"none"}"#).await;
    answer += &all(&mut open).await;
    assert_eq!(
        events(&answer).len(),
        1 + 5 + 1,
        "the thawed stream is complete: {answer}"
    );
}

#[tokio::test]
async fn a_reset_breaks_the_stream_after_some_tokens() {
    let server = start(&["--prefill", "1ms", "--inter-token", "5ms", "--failure", "reset"]);
    let mut open = server.chat(100).await;
    let mut answer = Vec::new();
    let error = open.read_to_end(&mut answer).await.expect_err("RST");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(
        String::from_utf8_lossy(&answer).contains("\"content\":\" "),
        "tokens came first"
    );
    server.metric("vllm:num_requests_running 0").await;
}

#[tokio::test]
async fn a_reset_takes_hold_of_requests_in_progress() {
    let server = start(&["--prefill", "1ms", "--inter-token", "1ms"]);
    let mut open = server.chat(100_000).await;
    server.metric("vllm:num_requests_running 1").await;
    server.control(r#"{"failure":"reset"}"#).await;
    let error = open.read_to_end(&mut Vec::new()).await.expect_err("RST");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn errors_and_unknown_settings_are_answered() {
    let server = start(&["--failure", "error"]);
    let answer = all(&mut server.chat(2).await).await;
    assert!(
        answer.starts_with("HTTP/1.1 500 ") && answer.contains("InternalServerError"),
        "{answer}"
    );
    let answer = server.fetch("POST", "/control", r#"{"prefil_ms":1}"#).await;
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("`prefil_ms`"),
        "{answer}"
    );
}

/// Nothing comes for so long that a few tokens would have. What was under way before counts not.
async fn silent(stream: &mut TcpStream) {
    const SILENCE: Duration = Duration::from_millis(150);
    let silence = async {
        let mut bytes = [0; 4096];
        while let Ok(read) = tokio::time::timeout(SILENCE, stream.read(&mut bytes)).await {
            assert!(read.expect("an open connection") > 0, "closed instead of silent");
        }
    };
    tokio::time::timeout(DEADLINE, silence)
        .await
        .expect("the stream falls silent");
}
