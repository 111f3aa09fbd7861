// SPDX-License-Identifier: Apache-2.0
//! Watch: changes of resources as a stream.

use futures_util::{Stream, StreamExt as _};
use nodemesh_proto::v1::{self, watch_event::Type};
use tonic::Status;

use super::{
    entry::{entry, name_of, optional_kind, optional_namespace, revision},
    registration::until_error,
    status::of_store,
};
use crate::{
    registry::{Registry, WatchEvent},
    store::Revision,
};

/// Pulled as the client reads: one that is too slow falls behind the store's history and is told to list again.
pub(super) async fn events(
    registry: &Registry,
    request: v1::WatchRequest,
) -> Result<impl Stream<Item = Result<v1::WatchEvent, Status>> + Send + use<>, Status> {
    let kind = optional_kind(&request.kind)?;
    let namespace = optional_namespace(request.namespace)?;
    let from = match u64::try_from(request.from_revision) {
        Ok(0) => registry.state().revision,
        Ok(from) => Revision(from),
        Err(_) => return Err(Status::invalid_argument("from_revision: must not be negative")),
    };
    let events = registry
        .watch(kind, namespace, from)
        .await
        .map_err(|error| of_store(&error))?;
    Ok(until_error(events.map(|event| match event {
        Ok(event) => Ok(wire(&event)),
        Err(error) => Err(of_store(&error)),
    })))
}

fn wire(event: &WatchEvent) -> v1::WatchEvent {
    let (kind, entry, at) = match event {
        WatchEvent::Set(set) => (Type::Put, entry(set), set.version),
        WatchEvent::Removed { key, revision } => (Type::Delete, name_of(key), *revision),
    };
    v1::WatchEvent {
        r#type: kind.into(),
        entry: Some(entry),
        revision: revision(at),
    }
}
