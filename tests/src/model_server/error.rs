// SPDX-License-Identifier: Apache-2.0
//! Errors in the shape of the OpenAI API, with vLLM's type names.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Why a request got no completion.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// The body is no valid request.
    #[error("{0}")]
    BadRequest(String),
    /// Another model than the one served.
    #[error("The model `{0}` does not exist.")]
    UnknownModel(String),
    /// No route bears this path.
    #[error("Not Found")]
    NotFound,
    /// `--failure error`.
    #[error("EngineCore encountered an issue: failure injected by /control.")]
    Injected,
    /// The metrics could not be rendered.
    #[error("render the metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, kind) = match self {
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "BadRequestError"),
            Self::UnknownModel(_) | Self::NotFound => (StatusCode::NOT_FOUND, "NotFoundError"),
            Self::Injected | Self::Metrics(_) => (StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError"),
        };
        let body = json!({ "error": {
            "message": self.to_string(), "type": kind, "param": null, "code": status.as_u16(),
        }});
        (status, axum::Json(body)).into_response()
    }
}
