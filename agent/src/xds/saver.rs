// SPDX-License-Identifier: Apache-2.0
//! Writes the state in force to disk, at a pace that the disk can keep up with. A task of its own, started by `app`.
//!
//! Invariant: the newest state is on disk a moment after it came, and when the agent ends; a write that fails is tried again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{oneshot, watch},
    task::spawn_blocking,
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

use crate::source::{control::Saved, snapshot::SnapshotFile};

/// Pause between two writes, at least.
const PAUSE: Duration = Duration::from_millis(20);
/// The pause is so many times as long as the write took: at most a fifth of the time is spent writing.
const SHARE: u32 = 4;

/// When the state was last written: seconds since the epoch, 0 for never.
#[derive(Clone, Debug, Default)]
pub struct SavedAt(Arc<AtomicU64>);

impl SavedAt {
    /// The time; `None` for never.
    pub fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|seconds| *seconds > 0)
    }

    fn set_now(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.0.store(now.as_secs(), Ordering::Relaxed);
    }
}

/// Writes states to disk.
#[derive(Debug)]
pub struct Saver {
    /// Where to.
    pub file: SnapshotFile,
    /// What: the newest counts.
    pub states: watch::Receiver<Option<Saved>>,
    /// Told after each write.
    pub saved_at: SavedAt,
}

impl Saver {
    /// Writes every state that comes until `stop`, the last one included.
    pub async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let (mut is_dirty, mut is_stopping, mut is_failing) = (false, false, false);
        let mut earliest = Instant::now();
        loop {
            if !is_stopping {
                tokio::select! {
                    changed = self.states.changed(), if !is_dirty => {
                        is_dirty = changed.is_ok();
                        is_stopping = changed.is_err();
                    }
                    () = sleep_until(earliest), if is_dirty => {}
                    _ = &mut stop => is_stopping = true,
                }
            }
            let state = {
                let newest = self.states.borrow_and_update();
                is_dirty |= newest.has_changed();
                newest.clone()
            };
            let due = is_stopping || Instant::now() >= earliest;
            if let Some(state) = state.filter(|_| is_dirty && due) {
                let started = Instant::now();
                let file = self.file.clone();
                let write = spawn_blocking(move || file.write(&state.version, &state.resources));
                let written = write.await.expect("the writer does not panic");
                is_dirty = written.is_err();
                let elapsed = started.elapsed();
                earliest = Instant::now() + PAUSE.max(elapsed * SHARE);
                match written {
                    Ok(()) => {
                        debug!(
                            elapsed_us = elapsed.as_micros() as u64,
                            "saved the control plane's state"
                        );
                        self.saved_at.set_now();
                        is_failing = false;
                    }
                    Err(error) if !is_failing => {
                        warn!(%error, "the control plane's state is not saved; a restart without a control plane would begin with an older one");
                        is_failing = true;
                    }
                    Err(_) => {}
                }
            }
            if is_stopping {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nodemesh_model::Resources;

    use super::*;

    fn state(version: &str) -> Saved {
        Saved {
            version: version.to_owned(),
            resources: Arc::new(Resources::default()),
        }
    }

    #[tokio::test]
    async fn the_newest_state_is_on_disk_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(folder.path()).unwrap();
        let (states, receiver) = watch::channel(None);
        let saved_at = SavedAt::default();
        let saver = Saver {
            file: file.clone(),
            states: receiver,
            saved_at: saved_at.clone(),
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(saver.run(stopped));
        for version in 0..100 {
            states.send_replace(Some(state(&version.to_string())));
            tokio::task::yield_now().await;
        }
        stop.send(()).unwrap();
        task.await.unwrap();
        assert_eq!(file.read().unwrap().unwrap().version, "99");
        assert!(saved_at.get().is_some());
    }

    #[tokio::test]
    async fn without_a_state_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = SnapshotFile::new(folder.path()).unwrap();
        let (states, receiver) = watch::channel(None);
        let saver = Saver {
            file: file.clone(),
            states: receiver,
            saved_at: SavedAt::default(),
        };
        drop(states);
        let (_stop, stopped) = oneshot::channel();
        saver.run(stopped).await;
        assert!(file.read().unwrap().is_none());
    }
}
