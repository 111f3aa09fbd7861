// SPDX-License-Identifier: Apache-2.0
//! Tells when the files of a source may have changed. Used by `app`.
//!
//! Invariant: a file that somebody writes is not announced before it is closed, and is told apart when another one is, so
//! that no half-written one is read; a rename into place is announced at once.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf, absolute},
    sync::{Arc, Mutex},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind},
};
use tokio::sync::mpsc;

/// Waits for changes.
#[derive(Debug)]
pub struct SourceWatch {
    path: PathBuf,
    events: mpsc::UnboundedReceiver<()>,
    unfinished: Arc<Mutex<BTreeSet<PathBuf>>>,
    watcher: RecommendedWatcher,
    /// The folders that the path led through when it was followed last.
    folders: BTreeSet<PathBuf>,
}

impl SourceWatch {
    /// Watches the file or directory `path`.
    pub fn new(path: &Path) -> io::Result<Self> {
        let (sender, events) = mpsc::unbounded_channel();
        let unfinished = Arc::new(Mutex::new(BTreeSet::new()));
        let written = Arc::clone(&unfinished);
        let handler = move |event: notify::Result<Event>| {
            if let Ok(event) = &event {
                track(&mut written.lock().expect("no holder panics"), event);
            }
            if event.as_ref().map_or(true, matters) {
                // The receiver is gone only when the agent stops.
                let _ = sender.send(());
            }
        };
        let mut watcher = notify::recommended_watcher(handler).map_err(io::Error::other)?;
        let path = absolute(path)?;
        let folders = folders(&path);
        for folder in &folders {
            watcher
                .watch(folder, RecursiveMode::NonRecursive)
                .map_err(io::Error::other)?;
        }
        Ok(Self {
            path,
            events,
            unfinished,
            watcher,
            folders,
        })
    }

    /// Waits until something changed.
    pub async fn changed(&mut self) {
        if self.events.recv().await.is_none() {
            return std::future::pending().await;
        }
        // What came in while the last change was dealt with is one change: no need to wait for more.
        while self.events.try_recv().is_ok() {}
        self.follow();
    }

    /// Files that were written to and are not closed yet, by canonical path.
    pub fn unfinished(&self) -> BTreeSet<PathBuf> {
        self.unfinished.lock().expect("no holder panics").clone()
    }

    /// Watches what the path leads to now: a link may point elsewhere, and another folder may be in the place of one.
    fn follow(&mut self) {
        let folders = folders(&self.path);
        for former in self.folders.difference(&folders) {
            // It is no longer watched if it was removed.
            let _ = self.watcher.unwatch(former);
        }
        for folder in &folders {
            // The folder may be gone again; its parent is watched too and tells when another one comes.
            let _ = self.watcher.watch(folder, RecursiveMode::NonRecursive);
        }
        self.folders = folders;
    }
}

/// The folder that `path` is in, the folder that it leads to, and those in which a link on the way is.
///
/// A file is watched through its folder: a rename replaces the inode that a watch of the file would hold on to.
fn folders(path: &Path) -> BTreeSet<PathBuf> {
    /// As many as the kernel follows (`MAXSYMLINKS`).
    const MAX_LINKS: usize = 40;
    let mut folders = BTreeSet::new();
    let mut at = path.to_owned();
    for _ in 0..MAX_LINKS {
        let parent = at.parent().unwrap_or(Path::new("/")).to_owned();
        let target = fs::read_link(&at);
        folders.insert(parent.clone());
        match target {
            Ok(target) => at = parent.join(target),
            Err(_) => break,
        }
    }
    if let Ok(target) = fs::canonicalize(path)
        && target.is_dir()
    {
        folders.insert(target);
    }
    folders.retain(|folder| folder.is_dir());
    folders
}

/// Keeps account of the files that are being written.
fn track(unfinished: &mut BTreeSet<PathBuf>, event: &Event) {
    let canonical = |path: &PathBuf| {
        let folder = path.parent().and_then(|folder| fs::canonicalize(folder).ok());
        folder
            .zip(path.file_name())
            .map_or_else(|| path.clone(), |(folder, name)| folder.join(name))
    };
    let paths = event.paths.iter().map(canonical);
    match event.kind {
        EventKind::Modify(ModifyKind::Data(_)) => unfinished.extend(paths),
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(_))
        | EventKind::Remove(_) => {
            for path in paths {
                unfinished.remove(&path);
            }
        }
        _ => {}
    }
}

fn matters(event: &Event) -> bool {
    if event.need_rescan() {
        // The kernel's queue was full: what changed is not known.
        return true;
    }
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(_))
        | EventKind::Remove(_)
        | EventKind::Create(CreateKind::Folder) => true,
        // A new link is complete; a new file is announced when it is closed.
        EventKind::Create(CreateKind::Any | CreateKind::File | CreateKind::Other) => event
            .paths
            .iter()
            .any(|path| fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
