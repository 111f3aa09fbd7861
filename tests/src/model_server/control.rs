// SPDX-License-Identifier: Apache-2.0
//! `GET` and `POST /control`: the behaviour of the replica at run time, and its own truth about load.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use serde::Serialize;

use super::error::ApiError;
use super::ledger::Counts;
use super::replica::Replica;
use super::settings::{Patch, Settings};

/// The JSON of both methods.
#[derive(Serialize)]
pub(super) struct Shown {
    #[serde(flatten)]
    settings: Settings,
    state: Truth,
}

#[derive(Serialize)]
struct Truth {
    name: String,
    requests_running: usize,
    requests_waiting: usize,
    connections_open: usize,
    connections_accepted: u64,
    /// Exchanges on the wire, as opposed to sequences of the engine above.
    requests: Counts,
}

pub(super) async fn show(State(replica): State<Arc<Replica>>) -> Json<Shown> {
    Json(shown(&replica))
}

pub(super) async fn change(
    State(replica): State<Arc<Replica>>,
    body: Bytes,
) -> Result<Json<Shown>, ApiError> {
    let patch: Patch =
        serde_json::from_slice(&body).map_err(|error| ApiError::BadRequest(format!("no change: {error}")))?;
    replica.change(&patch);
    Ok(Json(shown(&replica)))
}

fn shown(replica: &Replica) -> Shown {
    let load = replica.scheduler().load();
    Shown {
        settings: replica.settings(),
        state: Truth {
            name: String::from_utf8_lossy(replica.name().as_bytes()).into_owned(),
            requests_running: load.running,
            requests_waiting: load.waiting,
            connections_open: replica.connections().open(),
            connections_accepted: replica.connections().accepted(),
            requests: replica.ledger().counts(),
        },
    }
}
