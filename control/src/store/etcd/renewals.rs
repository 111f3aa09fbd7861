// SPDX-License-Identifier: Apache-2.0
//! Renewals of leases: one stream to etcd for all of them, kept open by a task.
//!
//! Invariant: who waits is answered by etcd, or given up on by the caller's own patience; a stream that breaks is replaced, and what
//! was not answered is asked again, since a renewal may be done twice.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use tokio::sync::{mpsc, oneshot};
use tonic::Streaming;

use super::{
    api::{LeaseKeepAliveRequest, LeaseKeepAliveResponse},
    members::{CALL_WITHIN, Members},
};
use crate::store::StoreError;

/// Renewals that wait to be sent.
const QUEUE: usize = 1024;
const PAUSE: Duration = Duration::from_millis(200);

/// Time to live in seconds, 0 or less if the lease is gone.
type Answer = oneshot::Sender<i64>;

/// Asks the task.
#[derive(Clone, Debug)]
pub(super) struct Renewals {
    queue: mpsc::Sender<(i64, Answer)>,
}

/// Who waits, by lease.
#[derive(Default)]
struct Waiting {
    since: HashMap<i64, (Instant, Vec<Answer>)>,
}

impl Renewals {
    /// Starts the task, which ends with the last one that can ask it.
    pub(super) fn start(members: Members) -> Self {
        let (queue, queued) = mpsc::channel(QUEUE);
        tokio::spawn(run(members, queued));
        Self { queue }
    }

    /// The time that the lease lives from now on; `None` if it is gone.
    pub(super) async fn renew(&self, lease: i64) -> Result<Option<Duration>, StoreError> {
        let unavailable = |reason: &str| StoreError::Unavailable {
            op: "renew a lease",
            reason: reason.to_owned(),
        };
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.queue.send((lease, reply)).await.ok()?;
            answer.await.ok()
        };
        let answered = tokio::time::timeout(CALL_WITHIN, asked).await;
        let ttl = answered
            .map_err(|_| unavailable("etcd does not answer"))?
            .ok_or_else(|| unavailable("the stream to etcd has ended"))?;
        Ok(u64::try_from(ttl)
            .ok()
            .filter(|ttl| *ttl > 0)
            .map(Duration::from_secs))
    }
}

async fn run(members: Members, mut queue: mpsc::Receiver<(i64, Answer)>) {
    let mut waiting = Waiting::default();
    while waiting.is_asked(&mut queue).await {
        let Ok(mut client) = members.lease("renew a lease").await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (requests, outgoing) = mpsc::channel(QUEUE);
        for lease in waiting.since.keys().copied().collect::<Vec<_>>() {
            // More than fit wait for the next stream.
            let _ = requests.try_send(LeaseKeepAliveRequest { id: lease });
        }
        let outgoing = futures_util::stream::unfold(outgoing, |mut outgoing| async {
            Some((outgoing.recv().await?, outgoing))
        });
        let opened = tokio::time::timeout(CALL_WITHIN, client.lease_keep_alive(outgoing)).await;
        match opened {
            Ok(Ok(responses)) => waiting.pump(&mut queue, &requests, responses.into_inner()).await,
            _ => members.suspect(),
        }
        if !waiting.since.is_empty() {
            members.suspect();
        }
    }
}

impl Waiting {
    /// Waits until somebody asks; false when nobody can any more.
    async fn is_asked(&mut self, queue: &mut mpsc::Receiver<(i64, Answer)>) -> bool {
        self.give_up();
        if self.since.is_empty() {
            let Some((lease, answer)) = queue.recv().await else {
                return false;
            };
            self.add(lease, answer);
        }
        true
    }

    /// Passes questions on and answers back until the stream breaks or does not answer.
    async fn pump(
        &mut self,
        queue: &mut mpsc::Receiver<(i64, Answer)>,
        requests: &mpsc::Sender<LeaseKeepAliveRequest>,
        mut responses: Streaming<LeaseKeepAliveResponse>,
    ) {
        let mut look = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                asked = queue.recv() => {
                    let Some((lease, answer)) = asked else { return };
                    self.add(lease, answer);
                    if requests.send(LeaseKeepAliveRequest { id: lease }).await.is_err() {
                        return;
                    }
                }
                response = responses.next() => {
                    let Some(Ok(LeaseKeepAliveResponse { id, ttl })) = response else { return };
                    self.answer(id, ttl);
                }
                _ = look.tick() => if self.is_stuck() {
                    return;
                }
            }
        }
    }

    fn add(&mut self, lease: i64, answer: Answer) {
        let (_, waiting) = self
            .since
            .entry(lease)
            .or_insert_with(|| (Instant::now(), Vec::new()));
        waiting.push(answer);
    }

    fn answer(&mut self, lease: i64, ttl: i64) {
        for answer in self
            .since
            .remove(&lease)
            .into_iter()
            .flat_map(|(_, waiting)| waiting)
        {
            let _ = answer.send(ttl);
        }
    }

    /// Whether somebody waits for so long that another member should be asked.
    fn is_stuck(&self) -> bool {
        self.since
            .values()
            .any(|(since, _)| since.elapsed() > CALL_WITHIN / 3)
    }

    /// Forgets those who have gone.
    fn give_up(&mut self) {
        self.since.retain(|_, (_, waiting)| {
            waiting.retain(|answer| !answer.is_closed());
            !waiting.is_empty()
        });
    }
}
