// SPDX-License-Identifier: Apache-2.0
//! Probes of servers in this process.

use axum::{Router, body::Body, http::StatusCode, routing::get};
use nodemesh_model::{Manifest, resource::Resource};
use prost::Message as _;
use serde_json::json;
use tokio::net::TcpListener;

use super::*;

/// A check, as a policy says it.
fn check(kind: &str) -> HealthCheck {
    let manifest = Manifest::from_values([json!({
        "apiVersion": "nodemesh.io/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": "p"},
        "spec": {"targetRef": {"kind": "Service"}, "healthChecks": {"kind": kind, "timeout": "500ms"}},
    })]);
    match manifest.resources().next() {
        Some(Resource::TrafficPolicy(policy)) => policy.rules.health_check.clone().expect("a health check"),
        other => panic!("{other:?} is no policy: {}", manifest.errors()),
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn why(address: SocketAddr, kind: &str) -> String {
    format!("{:#}", ask(address, &check(kind)).await.unwrap_err())
}

#[tokio::test]
async fn tcp_wants_a_connection_and_http_a_status_of_200() {
    let (listener, address) = listen().await;
    let routes = Router::new().route("/health", get(|| async { "ok" }));
    let server = tokio::spawn(async move { axum::serve(listener, routes).await });
    ask(address, &check("tcp")).await.unwrap();
    ask(address, &check("http")).await.unwrap();
    server.abort();
    let _ = server.await;
    assert!(why(address, "tcp").await.contains("refused"));

    let (listener, address) = listen().await;
    let routes = Router::new().fallback(|| async { StatusCode::SERVICE_UNAVAILABLE });
    let server = tokio::spawn(async move { axum::serve(listener, routes).await });
    assert!(why(address, "http").await.contains("503"));
    server.abort();
}

#[tokio::test]
async fn who_accepts_and_does_not_answer_is_not_well() {
    let (_listener, address) = listen().await;
    ask(address, &check("tcp")).await.unwrap();
    for kind in ["http", "grpc"] {
        assert!(
            why(address, kind).await.contains("no answer within 500ms"),
            "{kind}"
        );
    }
}

#[tokio::test]
async fn grpc_wants_the_word_serving() {
    fn answer(status: i32) -> axum::response::Response {
        let message = HealthCheckResponse { status }.encode_to_vec();
        let mut body = vec![0, 0, 0, 0, message.len() as u8];
        body.extend(message);
        axum::response::Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "0")
            .body(Body::from(body))
            .unwrap()
    }
    for (status, is_well) in [(SERVING, true), (2, false)] {
        let routes = tonic::service::Routes::from(Router::new().route(
            "/grpc.health.v1.Health/Check",
            axum::routing::post(async move || answer(status)),
        ));
        let (listener, address) = listen().await;
        drop(listener);
        let server = tokio::spawn(
            tonic::transport::Server::builder()
                .add_routes(routes)
                .serve(address),
        );
        let mut found = ask(address, &check("grpc")).await;
        while found
            .as_ref()
            .is_err_and(|error| format!("{error:#}").contains("refused"))
        {
            tokio::task::yield_now().await;
            found = ask(address, &check("grpc")).await;
        }
        assert_eq!(found.is_ok(), is_well, "{found:?}");
        server.abort();
    }
}
