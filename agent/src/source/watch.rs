// SPDX-License-Identifier: Apache-2.0
//! Tells when the files of a source may have changed. Used by `app`.
//!
//! Invariant: a file that somebody has open for writing is not announced before it is closed, so that no half-written
//! one is read; a rename into place is announced at once.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind},
};
use tokio::{sync::mpsc, time};

/// Events that come this close together are one change: an editor writes several files, Kubernetes swaps links.
const TOGETHER: Duration = Duration::from_millis(2);

/// Waits for changes.
#[derive(Debug)]
pub struct SourceWatch {
    events: mpsc::UnboundedReceiver<()>,
    /// Watching ends when this is dropped.
    _watcher: RecommendedWatcher,
}

impl SourceWatch {
    /// Watches the file or directory `path`.
    pub fn new(path: &Path) -> io::Result<Self> {
        let (sender, events) = mpsc::unbounded_channel();
        let handler = move |event: notify::Result<Event>| {
            if event.as_ref().map_or(true, matters) {
                // The receiver is gone only when the agent stops.
                let _ = sender.send(());
            }
        };
        let mut watcher = notify::recommended_watcher(handler).map_err(io::Error::other)?;
        watcher
            .watch(&folder(path)?, RecursiveMode::NonRecursive)
            .map_err(io::Error::other)?;
        Ok(Self {
            events,
            _watcher: watcher,
        })
    }

    /// Waits until something changed.
    pub async fn changed(&mut self) {
        if self.events.recv().await.is_none() {
            return std::future::pending().await;
        }
        time::sleep(TOGETHER).await;
        while self.events.try_recv().is_ok() {}
    }
}

/// A file is watched through its folder: a rename replaces the inode that a watch of the file would hold on to.
fn folder(path: &Path) -> io::Result<PathBuf> {
    let path = fs::canonicalize(path).or_else(|_| std::path::absolute(path))?;
    if path.is_dir() {
        Ok(path)
    } else {
        Ok(path.parent().unwrap_or(Path::new("/")).into())
    }
}

fn matters(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(_))
        | EventKind::Remove(_) => true,
        // A new link is complete; a new file is announced when it is closed.
        EventKind::Create(CreateKind::Any | CreateKind::File | CreateKind::Other) => event
            .paths
            .iter()
            .any(|path| fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())),
        _ => false,
    }
}
