// SPDX-License-Identifier: Apache-2.0
//! The store of a control plane on one machine: a file (redb) that this process has alone.
//!
//! ```text
//! callers --jobs--> committer thread --one transaction for many jobs, fsync--> file
//!                        |--> event log --> watches
//! get, list ------------------------------------------------------ (snapshot) --> file
//! ```
//!
//! Invariant: a job is answered after the transaction that contains it is on the disk.

mod backend;
mod committer;
mod database;
mod file;
mod leases;

use std::{
    path::Path,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};

use super::EventLog;
use super::{
    Item, Lease, LeaseId, Listing, MAX_OPS, MAX_VALUE, Revision, Store, StoreError, Transaction, Watch,
};
use committer::{Committer, Job};
use file::StoreFile;

/// Most jobs that wait for the disk; further callers wait for one of them.
const QUEUE: usize = 4096;

/// A store in a file.
#[derive(Debug)]
pub struct EmbeddedStore {
    file: Arc<StoreFile>,
    log: Arc<EventLog>,
    room: Semaphore,
    /// `None` only while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    committer: Option<JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens the store at `path`, or makes an empty one where there is no file.
    ///
    /// The whole file is read and checked. Leases have the time that they had left when the store was closed, or all of it if they
    /// were renewed after the store was opened the last time.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let (file, opened) = StoreFile::open(path)?;
        let file = Arc::new(file);
        let log = Arc::new(EventLog::new(opened.revision));
        let (jobs, queue) = mpsc::channel();
        let committer = Committer::new(Arc::clone(&file), Arc::clone(&log), opened);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || committer.run(&queue))
            .map_err(|source| file.io("start the writer of", source))?;
        Ok(Self {
            file,
            log,
            room: Semaphore::new(QUEUE),
            jobs: Some(jobs),
            committer: Some(thread),
        })
    }

    async fn ask<T>(
        &self,
        op: &'static str,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job,
    ) -> Result<T, StoreError> {
        let ended = || StoreError::Unavailable {
            op,
            reason: "the writer of the store has ended".to_owned(),
        };
        let _room = self.room.acquire().await.map_err(|_| ended())?;
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(ended)?;
        jobs.send(job(reply)).map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    async fn read<T: Send + 'static>(
        &self,
        op: &'static str,
        read: impl FnOnce(&StoreFile) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let file = Arc::clone(&self.file);
        let result = tokio::task::spawn_blocking(move || read(&file)).await;
        result.map_err(|error| StoreError::Unavailable {
            op,
            reason: error.to_string(),
        })?
    }
}

/// Waits until what was asked for is written and the file is closed.
impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(committer) = self.committer.take()
            && committer.join().is_err()
        {
            tracing::error!("the writer of the store panicked");
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError> {
        transaction.validate()?;
        self.ask("write", |reply| Job::Commit { transaction, reply })
            .await
    }

    async fn get(&self, key: &str) -> Result<Option<Item>, StoreError> {
        let key = key.to_owned();
        self.read("get", move |file| file.get(&key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let prefix = prefix.to_owned();
        self.read("list", move |file| file.list(&prefix)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        // The file may be ahead of the log for a moment, never behind it.
        let last = self.read("watch", StoreFile::revision).await?;
        self.log.watch(prefix, from, last)
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let ttl = Duration::from_secs(ttl.as_secs().max(1));
        self.ask("grant a lease", |reply| Job::Grant { ttl, reply }).await
    }

    async fn renew(&self, lease: LeaseId) -> Result<Lease, StoreError> {
        self.ask("renew a lease", |reply| Job::Renew { lease, reply })
            .await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask("revoke a lease", |reply| Job::Revoke { lease, reply })
            .await
    }
}

impl Transaction {
    /// Checks what every store asks of a transaction.
    pub(super) fn validate(&self) -> Result<(), StoreError> {
        let mut keys: Vec<&str> = self.changes.iter().map(|change| &**change.key()).collect();
        keys.retain(|key| !key.is_empty());
        keys.sort_unstable();
        keys.dedup();
        if self.changes.is_empty() || self.changes.len() > MAX_OPS || keys.len() < self.changes.len() {
            return Err(StoreError::Transaction {
                changes: self.changes.len(),
                keys: keys.len(),
            });
        }
        let mut total = 0;
        for change in &self.changes {
            if let super::Change::Put { key, value, .. } = change {
                total += value.len();
                if total > MAX_VALUE {
                    return Err(StoreError::TooLarge {
                        key: Arc::clone(key),
                        bytes: total,
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
