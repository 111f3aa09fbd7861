// SPDX-License-Identifier: Apache-2.0
//! Files that are read again when they change.
//!
//! Compares contents every second: that sees a replaced link of a Kubernetes secret as well as an edited file, and what it costs
//! does not matter for files this small. Invariant: readers have a good value at any time, the newest there was.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest file, bytes.
const MAX_BYTES: u64 = 16 << 20;

/// Files that belong together.
#[derive(Clone, Debug)]
pub struct Files {
    /// What they are, for people.
    pub what: &'static str,
    /// Where they are.
    pub paths: Vec<PathBuf>,
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
#[error("read {}: {source}", .path.display())]
pub struct UnreadableFile {
    path: PathBuf,
    source: io::Error,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reloaded {
    /// The new value is in force.
    Done,
    /// The old value stays.
    Refused,
}

impl Files {
    /// Their contents, in the order of the paths.
    pub async fn read(&self) -> Result<Vec<Vec<u8>>, UnreadableFile> {
        let mut contents = Vec::with_capacity(self.paths.len());
        for path in &self.paths {
            let unreadable = |source| UnreadableFile {
                path: path.clone(),
                source,
            };
            let length = tokio::fs::metadata(path).await.map_err(unreadable)?.len();
            if length > MAX_BYTES {
                return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
            }
            contents.push(tokio::fs::read(path).await.map_err(unreadable)?);
        }
        Ok(contents)
    }
}

/// Publishes a new value whenever `files` say something new that `load` takes, as long as somebody wants to know.
pub async fn follow<T, E: fmt::Display>(
    files: Files,
    mut seen: Vec<Vec<u8>>,
    load: impl Fn(&[Vec<u8>]) -> Result<T, E>,
    values: watch::Sender<Arc<T>>,
    tell: impl Fn(Reloaded),
) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_unreadable = false;
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = values.closed() => return,
        }
        let contents = match files.read().await {
            Ok(contents) => contents,
            Err(error) => {
                if !is_unreadable {
                    warn!(%error, "{} cannot be read, the former stays in force", files.what);
                    tell(Reloaded::Refused);
                }
                is_unreadable = true;
                continue;
            }
        };
        is_unreadable = false;
        if contents == seen {
            continue;
        }
        match load(&contents) {
            Ok(value) => {
                values.send_replace(Arc::new(value));
                info!("{} changed and is in force", files.what);
                tell(Reloaded::Done);
            }
            Err(error) => {
                warn!(%error, "{} changed but is not valid, the former stays in force", files.what);
                tell(Reloaded::Refused);
            }
        }
        seen = contents;
    }
}
