// SPDX-License-Identifier: Apache-2.0
//! The one writer of the file: a thread that does all jobs which wait as one transaction of the file, and ends leases.
//!
//! Invariant: a job is answered after the transaction that has it is on the disk; if that fails, either none of its jobs has taken
//! effect, or all are answered with an error that says that they may have.

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    database::{LeaseRow, Writing},
    file::{Opened, StoreFile, WriteFailed},
    leases::Leases,
};
use crate::store::{EventLog, Lease, LeaseId, Revision, StoreError, Transaction};

/// Most jobs, and most leases that end, in one transaction of the file.
const MOST: usize = 1024;
/// How often to look after leases without jobs.
const TICK: Duration = Duration::from_millis(250);
/// A turn that begins this late was held up, so renewals may have been, too.
const HELD_UP: Duration = Duration::from_millis(500);
/// How often the file learns what is left of leases that nobody renews.
const CHECKPOINT: Duration = Duration::from_secs(5);
/// How often to try to open the file again after its disk failed.
const REOPEN: Duration = Duration::from_millis(500);

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// Something to be done.
#[derive(Debug)]
pub(super) enum Job {
    Commit {
        transaction: Transaction,
        reply: Reply<Revision>,
    },
    Grant {
        ttl: Duration,
        reply: Reply<Lease>,
    },
    Renew {
        lease: LeaseId,
        reply: Reply<Lease>,
    },
    Revoke {
        lease: LeaseId,
        reply: Reply<()>,
    },
}

/// What became of a job, if the transaction of the file gets to the disk.
enum Outcome {
    Committed(Result<Revision, StoreError>),
    Granted(LeaseId, LeaseRow),
    Revoked(bool),
}

/// What a transaction of the file does besides jobs.
#[derive(Default)]
struct Chores {
    expired: Vec<i64>,
    notes: Vec<(i64, LeaseRow)>,
}

/// The writer.
pub(super) struct Committer {
    file: Arc<StoreFile>,
    log: Arc<EventLog>,
    leases: Leases,
    /// Renewed, but not noted in the file.
    renewed: Vec<(i64, LeaseRow)>,
    last_turn: Instant,
    next_checkpoint: Instant,
    /// When to open the file again, and what to answer until then.
    failed: Option<(Instant, StoreError)>,
}

impl Committer {
    pub(super) fn new(file: Arc<StoreFile>, log: Arc<EventLog>, opened: Opened) -> Self {
        let now = Instant::now();
        let mut leases = Leases::default();
        arm(&mut leases, opened.leases, now);
        Self {
            file,
            log,
            leases,
            renewed: Vec::new(),
            last_turn: now,
            next_checkpoint: now,
            failed: None,
        }
    }

    /// Does jobs until all senders are gone.
    pub(super) fn run(mut self, queue: &mpsc::Receiver<Job>) {
        loop {
            let now = Instant::now();
            let wait = self
                .leases
                .next_deadline()
                .map_or(TICK, |next| next.saturating_duration_since(now));
            let mut jobs = Vec::new();
            match queue.recv_timeout(wait.min(TICK)) {
                Ok(job) => jobs.push(job),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            jobs.extend(queue.try_iter().take(MOST - 1));
            self.turn(jobs, Instant::now());
        }
        let rest = self.leases.unrenewed(Instant::now());
        if !rest.is_empty() && self.failed.is_none() {
            self.write(
                Vec::new(),
                &Chores {
                    notes: rest,
                    ..Chores::default()
                },
            );
        }
    }

    fn turn(&mut self, jobs: Vec<Job>, now: Instant) {
        let late = now.saturating_duration_since(self.last_turn).saturating_sub(TICK);
        self.last_turn = now;
        if late > HELD_UP {
            tracing::warn!(
                late_s = late.as_secs_f64(),
                "the store was held up, leases get this time more"
            );
            self.leases.postpone(late);
        }
        let jobs = self.without_renewals(jobs, now);
        let mut chores = Chores {
            expired: self.leases.expired(now, MOST),
            notes: std::mem::take(&mut self.renewed),
        };
        if now >= self.next_checkpoint {
            self.next_checkpoint = now + CHECKPOINT;
            chores.notes.extend(self.leases.unrenewed(now));
        }
        if jobs.is_empty() && chores.expired.is_empty() && chores.notes.is_empty() {
            return;
        }
        if let Err(error) = self.is_open(now) {
            self.renewed = chores.notes;
            refuse(jobs, &error);
            return;
        }
        self.write(jobs, &chores);
    }

    /// Renews without waiting for the disk; the file is told with the next transaction.
    fn without_renewals(&mut self, mut jobs: Vec<Job>, now: Instant) -> Vec<Job> {
        let renewals = jobs.extract_if(.., |job| matches!(job, Job::Renew { .. }));
        for job in renewals {
            let Job::Renew { lease, reply } = job else {
                continue;
            };
            let renewed = self.leases.renew(lease.0, now);
            if let Some(renewed) = renewed.filter(|renewed| !renewed.is_noted) {
                let row = LeaseRow {
                    ttl: renewed.ttl,
                    remaining: renewed.ttl,
                    is_renewed: true,
                };
                self.renewed.push((lease.0, row));
            }
            let answer = renewed.map(|renewed| Lease {
                id: lease,
                ttl: renewed.ttl,
            });
            let _ = reply.send(answer.ok_or(StoreError::LeaseGone { lease }));
        }
        jobs
    }

    fn write(&mut self, jobs: Vec<Job>, chores: &Chores) {
        let result = self.file.write(|writing| {
            chores.perform(writing)?;
            jobs.iter()
                .map(|job| job.perform(writing))
                .collect::<Result<Vec<_>, _>>()
        });
        match result {
            Ok((outcomes, written)) => {
                if let Some(written) = written {
                    self.log.append(written.events);
                }
                self.done(jobs, outcomes, chores);
            }
            Err(failed) => {
                tracing::error!(error = %failed.error, jobs = jobs.len(), "cannot write to the store");
                let error = self.recover(failed);
                self.renewed
                    .extend(chores.notes.iter().filter(|(_, row)| row.is_renewed));
                refuse(jobs, &error);
            }
        }
    }

    fn done(&mut self, jobs: Vec<Job>, outcomes: Vec<Outcome>, chores: &Chores) {
        let now = Instant::now();
        for id in &chores.expired {
            tracing::info!(lease = id, "lease expired");
            self.leases.disarm(*id);
        }
        for (id, _) in chores.notes.iter().filter(|(_, row)| row.is_renewed) {
            self.leases.noted(*id);
        }
        for (job, outcome) in jobs.into_iter().zip(outcomes) {
            match (&job, &outcome) {
                (_, Outcome::Granted(id, row)) => self.leases.arm(id.0, *row, now),
                (Job::Revoke { lease, .. }, _) => self.leases.disarm(lease.0),
                _ => {}
            }
            job.answer(outcome);
        }
    }

    /// Opens the file again after a failure; what to answer to those whose jobs it was.
    fn recover(&mut self, failed: WriteFailed) -> StoreError {
        let unknown = |reason| StoreError::Unavailable { op: "write", reason };
        match (self.reload(), failed.attempted) {
            (Ok(revision), Some(attempted)) if revision == attempted => unknown(failed.error.to_string()),
            (Ok(_), _) => failed.error,
            (Err(error), attempted) => {
                let reason = format!("{error}, after: {}", failed.error);
                self.failed = Some((Instant::now() + REOPEN, error));
                attempted.map_or(failed.error, |_| unknown(reason))
            }
        }
    }

    fn is_open(&mut self, now: Instant) -> Result<(), StoreError> {
        match &self.failed {
            None => return Ok(()),
            Some((retry, error)) if now < *retry => return Err(error.clone()),
            Some(_) => {}
        }
        match self.reload() {
            Ok(revision) => {
                tracing::info!(%revision, "the store is open again");
                self.failed = None;
                Ok(())
            }
            Err(error) => {
                self.failed = Some((Instant::now() + REOPEN, error.clone()));
                Err(error)
            }
        }
    }

    /// Opens the file again and believes what it says; watches that may have missed something list again.
    fn reload(&mut self) -> Result<Revision, StoreError> {
        let opened = self.file.reopen()?;
        let now = Instant::now();
        self.leases
            .retain(|id| opened.leases.iter().any(|(known, _)| *known == id));
        let unknown = opened
            .leases
            .into_iter()
            .filter(|(id, _)| !self.leases.contains(*id))
            .collect();
        arm(&mut self.leases, unknown, now);
        self.log.restart(opened.revision);
        Ok(opened.revision)
    }
}

fn refuse(jobs: Vec<Job>, error: &StoreError) {
    for job in jobs {
        job.refuse(error);
    }
}

/// Starts the time of leases that a file had when it was opened.
fn arm(leases: &mut Leases, rows: Vec<(i64, LeaseRow)>, now: Instant) {
    for (id, row) in rows {
        let remaining = if row.is_renewed { row.ttl } else { row.remaining };
        let row = LeaseRow {
            remaining,
            is_renewed: false,
            ..row
        };
        leases.arm(id, row, now);
    }
}

impl Chores {
    fn perform(&self, writing: &mut Writing<'_>) -> Result<(), redb::Error> {
        for (id, row) in &self.notes {
            writing.note(*id, *row)?;
        }
        for id in &self.expired {
            writing.end_lease(*id)?;
        }
        Ok(())
    }
}

impl Job {
    fn perform(&self, writing: &mut Writing<'_>) -> Result<Outcome, redb::Error> {
        Ok(match self {
            Self::Commit { transaction, .. } => Outcome::Committed(writing.commit(transaction)?),
            Self::Grant { ttl, .. } => {
                let (id, row) = writing.grant(*ttl)?;
                Outcome::Granted(id, row)
            }
            Self::Revoke { lease, .. } => Outcome::Revoked(writing.end_lease(lease.0)?),
            Self::Renew { .. } => Outcome::Revoked(false),
        })
    }

    /// Answers; nobody may be there any more to hear it.
    fn answer(self, outcome: Outcome) {
        match (self, outcome) {
            (Self::Commit { reply, .. }, Outcome::Committed(result)) => drop(reply.send(result)),
            (Self::Grant { reply, .. }, Outcome::Granted(id, row)) => {
                drop(reply.send(Ok(Lease { id, ttl: row.ttl })));
            }
            (Self::Revoke { lease, reply }, Outcome::Revoked(was_there)) => {
                let gone = Err(StoreError::LeaseGone { lease });
                drop(reply.send(if was_there { Ok(()) } else { gone }));
            }
            // `perform` makes no other pairs.
            _ => {}
        }
    }

    fn refuse(self, error: &StoreError) {
        let error = error.clone();
        match self {
            Self::Commit { reply, .. } => drop(reply.send(Err(error))),
            Self::Grant { reply, .. } | Self::Renew { reply, .. } => drop(reply.send(Err(error))),
            Self::Revoke { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}
