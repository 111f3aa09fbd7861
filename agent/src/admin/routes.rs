// SPDX-License-Identifier: Apache-2.0
//! Routes of both listeners: path to report. Each handler translates; `report` knows.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, put},
};

use super::report::Node;
use crate::api::{LogStatus, Problem};

type Shared = State<Arc<Node>>;

/// Routes of the admin socket.
pub fn admin(node: Arc<Node>) -> Router {
    Router::new()
        .route(
            "/v1/status",
            get(|State(node): Shared| async move { Json(node.status()) }),
        )
        .route(
            "/v1/services",
            get(|State(node): Shared| async move { answer(node.services()) }),
        )
        .route(
            "/v1/backends",
            get(|State(node): Shared| async move { answer(node.backends()) }),
        )
        .route(
            "/v1/connections",
            get(|State(node): Shared| async move { answer(node.connections()) }),
        )
        .route("/v1/log", put(change_log))
        .with_state(node)
}

/// Routes of the HTTP listener.
pub fn http(node: Arc<Node>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(node)
}

fn answer<T: serde::Serialize>(result: anyhow::Result<T>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")),
    }
}

fn problem(status: StatusCode, error: String) -> Response {
    (status, Json(Problem { error })).into_response()
}

async fn change_log(State(node): Shared, Json(wanted): Json<LogStatus>) -> Response {
    match node.change_log(&wanted) {
        Ok(now) => Json(now).into_response(),
        Err(error) => problem(StatusCode::BAD_REQUEST, format!("{error:#}")),
    }
}

async fn metrics(State(node): Shared) -> Response {
    match node.metrics() {
        Ok(text) => (
            [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
            text,
        )
            .into_response(),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")),
    }
}

async fn ready(State(node): Shared) -> Response {
    let problems = node.not_ready();
    if problems.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n").into_response()
}
