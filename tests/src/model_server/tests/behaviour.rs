// SPDX-License-Identifier: Apache-2.0
//! A replica that behaves.

use std::time::Instant;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{all, body, chat_body, events, request, start, until};

const HOUR: &str = "1h";

#[tokio::test]
async fn a_stream_has_the_openai_shape() {
    let server = start(&["--prefill", "1ms", "--inter-token", "0ms", "--name", "replica-7"]);
    let wanted = chat_body(5).replace(
        "\"stream\":true",
        r#""stream":true,"stream_options":{"include_usage":true}"#,
    );
    let answer = server.fetch("POST", "/v1/chat/completions", &wanted).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("x-replica: replica-7\r\n") && answer.contains("content-type: text/event-stream")
    );
    assert!(answer.ends_with("\r\n0\r\n\r\n"), "{answer}");
    let events = events(&answer);
    assert_eq!(
        events.len(),
        1 + 5 + 1 + 1,
        "role, tokens, usage, end: {events:#?}"
    );
    assert_eq!(
        events[0]["choices"][0]["delta"],
        json!({"role": "assistant", "content": ""})
    );
    for (token, event) in events[1..6].iter().enumerate() {
        assert_eq!(event["object"], "chat.completion.chunk");
        assert_eq!(event["id"], events[0]["id"]);
        assert_eq!(
            event["choices"][0]["delta"]["content"].as_str().map(str::len),
            Some(6)
        );
        let finish = if token == 4 { json!("length") } else { json!(null) };
        assert_eq!(event["choices"][0]["finish_reason"], finish);
    }
    assert_eq!(
        events[6]["usage"],
        json!({"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7})
    );
    assert_eq!(events[7], "[DONE]");
}

#[tokio::test]
async fn an_answer_without_stream_is_one_object() {
    let server = start(&["--prefill", "1ms", "--inter-token", "0ms", "--tokens", "3"]);
    let answer = server
        .fetch("POST", "/v1/completions", r#"{"prompt":"once upon a time"}"#)
        .await;
    let answer: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!(answer["choices"][0]["text"].as_str().map(str::len), Some(18));
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7})
    );
}

#[tokio::test]
async fn wrong_requests_get_openai_errors() {
    let server = start(&[]);
    for (path, request, status, kind) in [
        ("/v1/chat/completions", "{", 400, "BadRequestError"),
        (
            "/v1/chat/completions",
            r#"{"messages":[]}"#,
            400,
            "BadRequestError",
        ),
        ("/v1/completions", "{}", 400, "BadRequestError"),
        (
            "/v1/completions",
            r#"{"prompt":"x","max_tokens":0}"#,
            400,
            "BadRequestError",
        ),
        (
            "/v1/completions",
            r#"{"prompt":"x","model":"gpt-2"}"#,
            404,
            "NotFoundError",
        ),
        ("/v2/completions", "{}", 404, "NotFoundError"),
    ] {
        let answer = server.fetch("POST", path, request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {answer}"
        );
        let error: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
        assert_eq!(
            (&error["error"]["type"], &error["error"]["code"]),
            (&json!(kind), &json!(status)),
            "{request}"
        );
    }
}

#[tokio::test]
async fn what_leaves_before_prefill_ends_can_be_chosen() {
    let server = start(&["--prefill", HOUR, "--early-headers"]);
    let answer = until(&mut server.chat(2).await, "\"assistant\"").await;
    assert!(answer.contains("200 OK"), "{answer}");
    server.control(r#"{"early_headers":"headers"}"#).await;
    let answer = until(&mut server.chat(2).await, "\r\n\r\n").await;
    assert_eq!(body(&answer), "", "the role waits for the first token");
}

#[tokio::test]
async fn a_full_engine_queues_in_order_of_arrival() {
    let server = start(&["--prefill", HOUR, "--max-num-seqs", "1"]);
    let running = server.chat(1).await;
    server.metric("vllm:num_requests_running 1").await;
    let waiting = server.chat(1).await;
    server.metric("vllm:num_requests_waiting 1").await;
    let last = server.chat(1).await;
    server.metric("vllm:num_requests_waiting 2").await;
    server.metric("vllm:kv_cache_usage_perc 1").await;

    drop(waiting);
    server.metric("vllm:num_requests_waiting 1").await;
    server.metric("vllm:num_requests_running 1").await;
    server.control(r#"{"max_num_seqs":2}"#).await;
    server.metric("vllm:num_requests_running 2").await;
    server.metric("vllm:num_requests_waiting 0").await;
    drop((running, last));
    server.metric("vllm:num_requests_running 0").await;
    server
        .metric("vllm:request_success_total{finished_reason=\"abort\"} 3")
        .await;
}

#[tokio::test]
async fn a_client_that_leaves_aborts_its_request() {
    let server = start(&["--prefill", "1ms", "--inter-token", "1ms", "--tokens", "1000000"]);
    let mut streaming = server.chat(131_072).await;
    until(&mut streaming, "\"content\":\" ").await;
    let whole = server
        .send("POST", "/v1/completions", r#"{"prompt":"x","max_tokens":131072}"#)
        .await;
    server.metric("vllm:num_requests_running 2").await;
    drop(whole);
    server.metric("vllm:num_requests_running 1").await;
    drop(streaming);
    server.metric("vllm:num_requests_running 0").await;
}

#[tokio::test]
async fn metrics_count_tokens_and_times() {
    let server = start(&["--prefill", "1ms", "--inter-token", "1ms"]);
    assert!(
        server
            .fetch("GET", "/health", "")
            .await
            .starts_with("HTTP/1.1 200")
    );
    for _ in 0..3 {
        all(&mut server.chat(4).await).await;
    }
    for sample in [
        "vllm:num_requests_running 0",
        "vllm:prompt_tokens_total 6",
        "vllm:generation_tokens_total 12",
        "vllm:request_success_total{finished_reason=\"length\"} 3",
        "vllm:time_to_first_token_seconds_count 3",
        "vllm:inter_token_latency_seconds_count 9",
        "vllm:e2e_request_latency_seconds_count 3",
        "vllm:e2e_request_latency_seconds_bucket{le=\"7680\"} 3",
    ] {
        server.metric(sample).await;
    }
}

#[tokio::test]
async fn several_tokens_may_share_a_chunk() {
    let server = start(&[
        "--prefill",
        "1ms",
        "--inter-token",
        "1ms",
        "--tokens-per-write",
        "4",
    ]);
    let answer = all(&mut server.chat(10).await).await;
    let lengths: Vec<_> = events(&answer)[1..5]
        .iter()
        .map(|event| {
            event["choices"][0]["delta"]["content"]
                .as_str()
                .map_or(0, str::len)
                / 6
        })
        .collect();
    assert_eq!(lengths, [1, 4, 4, 1]);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_timeout() {
    let server = start(&["--idle-timeout", "300ms", "--prefill", "1ms"]);
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let kept = request("GET", "/health", "keep-alive", "");
    stream.write_all(kept.as_bytes()).await.unwrap();
    until(&mut stream, "\r\n\r\n").await;
    let idle = Instant::now();
    assert_eq!(all(&mut stream).await, "");
    assert!(
        idle.elapsed().as_millis() >= 250,
        "closed after {:?}",
        idle.elapsed()
    );
}

#[tokio::test]
async fn a_stopped_server_finishes_open_streams_and_accepts_no_more() {
    let mut server = start(&["--prefill", "1ms", "--inter-token", "20ms"]);
    let mut open = server.chat(10).await;
    until(&mut open, "\"content\":\" ").await;
    server.begin_stop();
    let address = server.address;
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(super::DEADLINE, refused)
        .await
        .expect("the listener closes");
    assert!(all(&mut open).await.contains("[DONE]"));
    assert_eq!(server.stopped().await, 0);
}

#[tokio::test]
async fn the_drain_time_is_bounded() {
    let mut server = start(&["--prefill", HOUR, "--drain", "10ms"]);
    let _open = server.chat(1).await;
    server.metric("vllm:num_requests_running 1").await;
    server.begin_stop();
    assert_eq!(server.stopped().await, 1, "one connection is cut");
}
