// SPDX-License-Identifier: Apache-2.0
//! A watch of etcd that goes on, on another member if need be, after its stream breaks.
//!
//! Invariant: each stream begins after the last revision that was told, and etcd puts all changes of a revision in one message; so
//! nothing is told twice, in part, or not at all.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tonic::{Code, Streaming};

use super::{
    api::{WatchCreateRequest, WatchRequest, WatchResponse, watch_request::RequestUnion},
    members::{CALL_WITHIN, Members},
    read_revision,
    wire::{self, Prefix},
};
use crate::store::{Batch, Event, Revision, StoreError, Watch};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A watch that runs.
struct Watching {
    members: Members,
    prefix: Prefix,
    /// What keys begin with, without our prefix.
    keys: String,
    /// All up to here was told.
    from: Revision,
    stream: Option<Open>,
    pause: Duration,
}

struct Open {
    responses: Streaming<WatchResponse>,
    /// etcd ends the stream when our side of it ends.
    _requests: mpsc::Sender<WatchRequest>,
}

pub(super) async fn watch(
    members: Members,
    prefix: Prefix,
    keys: &str,
    from: Revision,
) -> Result<Watch, StoreError> {
    let mut watching = Watching {
        members,
        prefix,
        keys: keys.to_owned(),
        from,
        stream: None,
        pause: FIRST_PAUSE,
    };
    watching.open().await?;
    let batches = stream::unfold(Some(watching), |watching| async {
        let mut watching = watching?;
        match watching.next().await {
            Ok(batch) => Some((Ok(batch), Some(watching))),
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(batches.boxed())
}

impl Watching {
    /// The next batch, however long it takes; an error ends the watch.
    async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            if let Some(open) = &mut self.stream {
                match open.responses.next().await {
                    Some(Ok(response)) => {
                        if let Some(batch) = self.batch(response)? {
                            return Ok(batch);
                        }
                    }
                    ended => {
                        let reason = ended.and_then(Result::err).map(|status| status.to_string());
                        tracing::info!(reason, keys = self.keys, "watch of etcd broke, opening it again");
                        self.stream = None;
                        self.members.suspect();
                    }
                }
                continue;
            }
            match self.open().await {
                Ok(()) => self.pause = FIRST_PAUSE,
                Err(error @ (StoreError::Compacted { .. } | StoreError::Refused { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot watch etcd");
                    tokio::time::sleep(self.pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    async fn open(&mut self) -> Result<(), StoreError> {
        let opened = tokio::time::timeout(CALL_WITHIN, self.try_open()).await;
        let silent = StoreError::Unavailable {
            op: "watch",
            reason: "etcd does not answer".to_owned(),
        };
        let result = opened.unwrap_or(Err(silent));
        if let Err(StoreError::Unavailable { .. }) = &result {
            self.members.suspect();
        }
        self.stream = Some(result?);
        Ok(())
    }

    async fn try_open(&self) -> Result<Open, StoreError> {
        let mut client = self.members.watch("watch").await?;
        let (key, range_end) = self.prefix.range(&self.keys);
        let create = WatchCreateRequest {
            key,
            range_end,
            start_revision: i64::try_from(self.from.0).unwrap_or(i64::MAX).saturating_add(1),
        };
        let (requests, outgoing) = mpsc::channel(1);
        let request = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        // There is room for it.
        let _ = requests.try_send(request);
        let outgoing = stream::unfold(outgoing, |mut outgoing| async {
            Some((outgoing.recv().await?, outgoing))
        });
        let failed = |status: &tonic::Status| wire::failure("watch", status);
        let mut responses = client
            .watch(outgoing)
            .await
            .map_err(|status| failed(&status))?
            .into_inner();
        let created = responses.message().await.map_err(|status| failed(&status))?;
        let created =
            created.ok_or_else(|| failed(&tonic::Status::new(Code::Unavailable, "the stream ended")))?;
        self.check(&created)?;
        let told = created.header.map_or(0, |header| header.revision);
        // A member may be behind; a quorum is not.
        if wire::revision(told) < self.from && read_revision(&self.members).await? < self.from {
            return Err(StoreError::Compacted {
                from: self.from,
                oldest: wire::revision(told),
            });
        }
        Ok(Open {
            responses,
            _requests: requests,
        })
    }

    /// An error if etcd has ended the watch.
    fn check(&self, response: &WatchResponse) -> Result<(), StoreError> {
        if response.compact_revision > 0 {
            return Err(StoreError::Compacted {
                from: self.from,
                oldest: wire::revision(response.compact_revision),
            });
        }
        if response.canceled {
            return Err(wire::refused("watch", &response.cancel_reason));
        }
        Ok(())
    }

    fn batch(&mut self, response: WatchResponse) -> Result<Option<Batch>, StoreError> {
        self.check(&response)?;
        let events = response.events.into_iter();
        let events: Vec<Event> = events.filter_map(|event| self.prefix.event(event)).collect();
        let Some(revision) = events.last().map(Event::revision) else {
            return Ok(None);
        };
        self.from = revision;
        Ok(Some(Batch { events, revision }))
    }
}
