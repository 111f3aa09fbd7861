// SPDX-License-Identifier: Apache-2.0
//! The routes of the server and the handlers of completions.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::connection::ConnectionHandle;
use super::control;
use super::error::ApiError;
use super::generation::{Demand, Generation};
use super::openai::{CompletionRequest, Endpoint, FinishReason, Renderer, text};
use super::replica::Replica;
use super::settings::{EarlyHeaders, Failure};
use super::stream::Events;

/// Bodies of multimodal requests reach tens of MiB.
const MAX_BODY_BYTES: usize = 128 << 20;
/// Output tokens that no request can exceed: the context window of the model.
const MAX_TOKENS: u32 = 131_072;

pub(super) fn router(replica: Arc<Replica>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .route("/v1/models", get(models))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/control", get(control::show).post(control::change))
        .fallback(async || ApiError::NotFound)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(replica)
}

async fn chat(
    State(replica): State<Arc<Replica>>,
    Extension(connection): Extension<ConnectionHandle>,
    body: Bytes,
) -> Result<Response, ApiError> {
    complete(replica, connection, Endpoint::Chat, &body).await
}

async fn completions(
    State(replica): State<Arc<Replica>>,
    Extension(connection): Extension<ConnectionHandle>,
    body: Bytes,
) -> Result<Response, ApiError> {
    complete(replica, connection, Endpoint::Completions, &body).await
}

async fn complete(
    replica: Arc<Replica>,
    connection: ConnectionHandle,
    endpoint: Endpoint,
    body: &[u8],
) -> Result<Response, ApiError> {
    connection.request_read();
    let mut settings = replica.settings();
    let request = CompletionRequest::parse(body, endpoint)?;
    if let Some(model) = request.model.as_deref().filter(|&model| model != replica.model()) {
        return Err(ApiError::UnknownModel(model.to_owned()));
    }
    let mut random = replica.next_random();
    let fallible = settings.failure_share.has(&mut random);
    if !fallible {
        settings = settings.healthy();
    }
    if settings.failure == Failure::Error {
        return Err(ApiError::Injected);
    }
    let demand = Demand {
        body_bytes: body.len(),
        prompt_tokens: request.prompt_tokens(),
        tokens: request.asked_tokens().unwrap_or(settings.tokens).min(MAX_TOKENS),
        finish: if request.asked_tokens().is_some() {
            FinishReason::Length
        } else {
            FinishReason::Stop
        },
    };
    let renderer = Renderer::new(endpoint, &mut random, unix_time(), replica.model());
    let mut generation = Generation::new(replica, connection, &settings, fallible, demand);
    generation.answerable().await;
    if settings.whole || !request.stream {
        return Ok(Json(whole(generation, &renderer, random).await).into_response());
    }
    let mut events = Events::new(generation, renderer, random)
        .tail(settings.tail)
        .usage(request.include_usage());
    match settings.early_headers {
        EarlyHeaders::None => events.first_step().await,
        EarlyHeaders::Headers => (),
        EarlyHeaders::Prelude => events = events.prelude_first(),
    }
    let content_type = HeaderValue::from_static("text/event-stream; charset=utf-8");
    Ok((
        [(CONTENT_TYPE, content_type)],
        Body::from_stream(events.into_stream(settings.heartbeat.0)),
    )
        .into_response())
}

async fn whole(mut generation: Generation, renderer: &Renderer, mut random: fastrand::Rng) -> Value {
    let mut words = String::new();
    let mut finish = FinishReason::Stop;
    while let Some(step) = generation.step().await {
        words += &text(&mut random, step.tokens);
        finish = step.finish.unwrap_or(finish);
    }
    renderer.complete(&words, finish, generation.usage())
}

/// 200 also while the engine is wedged, as real servers do: the health of a socket is not the health of a model.
async fn health() {}

async fn models(State(replica): State<Arc<Replica>>) -> Json<Value> {
    let model = replica.model();
    Json(json!({"object": "list", "data": [{
        "id": model, "object": "model", "created": unix_time(), "owned_by": "vllm", "root": model, "parent": null,
        "max_model_len": MAX_TOKENS,
    }]}))
}

async fn metrics(State(replica): State<Arc<Replica>>) -> Result<Response, ApiError> {
    let limit = replica.settings().max_num_seqs;
    let text = replica.metrics().render(replica.scheduler().load(), limit)?;
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(CONTENT_TYPE, content_type)], text).into_response())
}

/// Seconds since 1970.
fn unix_time() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
