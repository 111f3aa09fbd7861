// SPDX-License-Identifier: Apache-2.0
//! Clients that mean no good, or know no better: none of them crashes or stalls the server.

use std::time::Duration;

use nodemesh_proto::v1::{ApplyRequest, ListRequest};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, Request, metadata::MetadataValue};

use crate::harness::{Control, eventually, service, soon};

async fn works(control: &Control) {
    let mut client = control.registry().await;
    soon("others are served", client.list(ListRequest::default()))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_long_is_refused() {
    let control = Control::start(&[]).await;
    let mut client = control.registry().await;
    let mut long = service("llama", &["10.96.0.1"]);
    long["metadata"]["annotations"] = serde_json::json!({"note": "x".repeat(10 << 20)});
    let request = ApplyRequest {
        resource: long.to_string(),
        ..ApplyRequest::default()
    };
    let status = client.apply(request).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    works(&control).await;
    // One that fits the limit of messages, but not that of the store.
    long["metadata"]["annotations"] = serde_json::json!({"note": "x".repeat(2 << 20)});
    let request = ApplyRequest {
        resource: long.to_string(),
        ..ApplyRequest::default()
    };
    let status = client.apply(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    works(&control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http2_is_closed() {
    let control = Control::start(&[]).await;
    let mut hello = vec![22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.resize(300, 7);
    for (name, bytes) in [
        ("HTTP/1", &b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"[..]),
        ("TLS", &hello),
        ("garbage", &[0xff; 64]),
        ("almost", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"),
    ] {
        let mut stream = TcpStream::connect(control.address()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        // Reset or closed, as the kernel finds what was not read.
        let end = soon(name, stream.read_to_end(&mut rest)).await;
        assert!(end.is_err() || rest.is_empty(), "{name}: {rest:?}");
    }
    let turned = "nodemesh_control_connections_refused_total{reason=\"protocol\"}";
    eventually("they are counted", || async {
        control.metric(turned).await == Some(4.0)
    })
    .await;
    works(&control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_are_closed_and_keep_nobody_waiting() {
    let control = Control::start(&["--max-connections", "40"]).await;
    let mut silent = Vec::new();
    for _ in 0..30 {
        silent.push(TcpStream::connect(control.address()).await.unwrap());
    }
    let mut half = TcpStream::connect(control.address()).await.unwrap();
    half.write_all(b"PRI * HT").await.unwrap();
    works(&control).await;
    silent.push(half);
    for mut stream in silent {
        let mut rest = Vec::new();
        let end = soon("it is closed", stream.read_to_end(&mut rest)).await;
        assert!(end.is_err() || rest.is_empty());
    }
    works(&control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_a_limit_of_connections() {
    let control = Control::start(&["--max-connections", "3"]).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(control.address()).await.unwrap());
    }
    eventually("they are in", || async {
        control.metric("nodemesh_control_connections").await == Some(3.0)
    })
    .await;
    let mut fourth = TcpStream::connect(control.address()).await.unwrap();
    let mut rest = Vec::new();
    assert_eq!(
        soon("it is closed", fourth.read_to_end(&mut rest))
            .await
            .unwrap_or(0),
        0
    );
    drop(held);
    eventually("there is room again", || async {
        control.metric("nodemesh_control_connections").await == Some(0.0)
    })
    .await;
    works(&control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_limited_by_rate() {
    let control = Control::start(&["--max-request-rate", "20"]).await;
    let mut client = control.registry().await;
    let mut codes = Vec::new();
    for _ in 0..60 {
        let called = client.list(ListRequest::default()).await;
        codes.push(called.map_or_else(|status| status.code(), |_| Code::Ok));
    }
    assert!(codes[..20].iter().all(|code| *code == Code::Ok), "{codes:?}");
    assert!(codes.contains(&Code::ResourceExhausted), "{codes:?}");
    eventually("the allowance comes back", || {
        let mut client = client.clone();
        async move { client.list(ListRequest::default()).await.is_ok() }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_headers_are_refused() {
    let control = Control::start(&[]).await;
    let mut client = control.registry().await;
    let mut request = Request::new(ListRequest::default());
    let value: MetadataValue<_> = "x".repeat(64 << 10).parse().unwrap();
    request.metadata_mut().insert("x-long", value);
    soon("a refusal", client.list(request)).await.unwrap_err();
    works(&control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_never_finished_is_given_up() {
    let control = Control::start(&["--request-timeout", "1s"]).await;
    // A unary call whose message never comes.
    let (_sender, receiver) =
        tokio::sync::mpsc::channel::<Result<http_body::Frame<bytes::Bytes>, tonic::Status>>(1);
    let body = tonic::body::Body::new(http_body_util::StreamBody::new(crate::nodes::from(receiver)));
    let request = http::Request::post("/nodemesh.v1.Registry/List")
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap();
    let mut channel = control.channel().await;
    let began = std::time::Instant::now();
    let ready = tower::ServiceExt::ready(&mut channel).await.unwrap();
    let response = soon("an answer", tower::Service::call(ready, request))
        .await
        .unwrap();
    let status = tonic::Status::from_header_map(response.headers()).unwrap();
    assert_ne!(status.code(), Code::Ok);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    works(&control).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_is_found_out() {
    let control = Control::start(&[]).await;
    let mut stream = TcpStream::connect(control.address()).await.unwrap();
    // The preface and empty settings; from then on the machine is gone and answers no ping.
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut rest = Vec::new();
    let _ = soon("it is closed", stream.read_to_end(&mut rest)).await;
    eventually("its place is free", || async {
        control.metric("nodemesh_control_connections").await == Some(0.0)
    })
    .await;
}
