// SPDX-License-Identifier: Apache-2.0
//! `/metrics`, `/healthz` and `/readyz` over HTTP, for Prometheus and the kubelet.
//!
//! Invariant: reads only, and says nothing that a resource says.

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::TEXT_FORMAT;
use tokio::task::spawn_blocking;

use super::ending::Ending;
use crate::metrics::Live;

/// What the routes read.
#[derive(Clone)]
pub struct Probes {
    /// The metrics.
    pub live: Live,
    /// Whether the process is about to end.
    pub ending: Ending,
}

/// The routes.
pub fn routes(probes: Probes) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(probes)
}

/// Encodes on a thread of its own, since that takes a while where many nodes report load.
async fn metrics(State(probes): State<Probes>) -> Response {
    let encoded = spawn_blocking(move || probes.live.text()).await;
    match encoded {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Ready from the time that the resources are read until the end is announced: a store that is away for a while keeps nobody from
/// being served what there is.
async fn ready(State(probes): State<Probes>) -> Response {
    if probes.ending.is_announced() {
        return (StatusCode::SERVICE_UNAVAILABLE, "about to end\n").into_response();
    }
    "ok\n".into_response()
}
