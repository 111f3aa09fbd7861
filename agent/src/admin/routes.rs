// SPDX-License-Identifier: Apache-2.0
//! Routes of both listeners: path to report. Each handler translates; `report` knows.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::TEXT_FORMAT;
use tokio::task::spawn_blocking;

use super::{drain, events::EventStream, report::Node};
use crate::{
    admission::explain::explain,
    api::{ConnectionQuery, EventQuery, LogStatus, PolicyQuery, Problem},
    datapath::listing::ListError,
};

pub(super) type Shared = State<Arc<Node>>;

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
            "/v1/settings",
            get(|State(node): Shared| async move { Json(node.config.settings()) }),
        )
        .route("/v1/connections", get(connections))
        .route("/v1/policy", get(policy))
        .route("/v1/drain", get(drain::by_operator).post(drain::by_operator))
        .route("/v1/events", get(events))
        .route(
            "/v1/traffic",
            get(|State(node): Shared, Query(wanted): Query<Wanted>| async move {
                answer(node.traffic(wanted.service.as_deref()))
            }),
        )
        .route(
            "/v1/log",
            get(|State(node): Shared| async move { Json(node.log_status()) }).put(change_log),
        )
        .route(
            "/v1/log/recent",
            get(|State(node): Shared| async move { node.log.recent() }),
        )
        .route("/v1/metrics", get(metrics))
        .with_state(node)
}

/// Routes of the HTTP listener.
pub fn http(node: Arc<Node>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/v1/drain", get(drain::by_peer).post(drain::by_peer))
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

pub(super) fn problem(status: StatusCode, error: String) -> Response {
    (status, Json(Problem { error })).into_response()
}

/// Query of `GET /v1/traffic`.
#[derive(serde::Deserialize)]
struct Wanted {
    service: Option<String>,
}

/// Lists on a thread of its own, since that takes the kernel a while.
async fn connections(State(node): Shared, Query(query): Query<ConnectionQuery>) -> Response {
    let selected = spawn_blocking(move || node.connections(query)).await;
    match selected.map_err(anyhow::Error::from).flatten() {
        Ok(selected) => selected.into_response(),
        Err(error) if error.is::<ListError>() => {
            problem(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"))
        }
        Err(error) => problem(StatusCode::BAD_REQUEST, format!("{error:#}")),
    }
}

async fn policy(State(node): Shared, Query(query): Query<PolicyQuery>) -> Response {
    match explain(&node.view().desired, &query) {
        Ok(explanation) => Json(explanation).into_response(),
        Err(error) => problem(StatusCode::BAD_REQUEST, format!("{error:#}")),
    }
}

async fn events(State(node): Shared, Query(query): Query<EventQuery>) -> Response {
    match EventStream::new(&node.events, &query) {
        Ok(events) => events.into_response(),
        Err(error) => problem(StatusCode::BAD_REQUEST, format!("{error:#}")),
    }
}

async fn change_log(State(node): Shared, Json(wanted): Json<LogStatus>) -> Response {
    match node.change_log(&wanted) {
        Ok(now) => Json(now).into_response(),
        Err(error) => problem(StatusCode::BAD_REQUEST, format!("{error:#}")),
    }
}

/// Encodes on a thread of its own, since that takes a while where many backends are metered.
async fn metrics(State(node): Shared) -> Response {
    let encoded = spawn_blocking(move || node.metrics()).await;
    match encoded.map_err(anyhow::Error::from).flatten() {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
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
